"""The guest's console as a stream of bytes to another process, both ways.

Nothing waits for the other side: what it has not read is in the console's own memory, and where
that has gone on without it, it is told how much it missed.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vmm.host.input import InputPump

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["ConsoleStream"]

_SOON_S = 0.005
_PIECE = 64 << 10


class ConsoleStream:
    """One reader and writer of a machine's console, on the host-events thread.

    Args:
        machine: whose console it is.
        since: how many bytes of its output the reader has already.
    """

    def __init__(self, machine: Machine, since: int) -> None:
        self._console = machine.console
        self._events = machine.events
        self._at = since
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._due = self._watching = False
        self._open = True
        self._typed = InputPump(
            self._ours.fileno(), self._events, self._console.send, self._console.when_room
        )
        self._typed.start()
        self._console.tee(self._written)
        self._pump()

    @property
    def fd(self) -> int:
        """The other side's descriptor, to be passed on. It is open here as long as the stream is:
        whoever has it reads the end when this is closed."""
        return self._theirs.fileno()

    def close(self) -> None:
        """Send what can be sent and end it. May be called twice."""
        if not self._open:
            return
        self._console.untee(self._written)
        self._pump()
        self._open = False
        self._typed.stop()
        self._watch(False)
        self._ours.close()
        self._theirs.close()

    def _written(self, data: bytes) -> None:
        """The guest has written: on any thread, with the device lock held."""
        if not self._due and not self._watching:
            self._due = True
            self._events.call_later(_SOON_S, self._pump)

    def _pump(self) -> None:
        self._due = False
        if not self._open:
            return
        try:
            while True:
                data, end = self._console.since(self._at, _PIECE)
                missed = end - len(data) - self._at
                if missed > 0:
                    self._ours.send(b"\n[%d bytes are not remembered any more]\n" % missed)
                    self._at += missed
                if not data:
                    break
                self._at += self._ours.send(data)
        except (BlockingIOError, InterruptedError):
            self._watch(True)
        except OSError:
            self._watch(False)  # it has hung up; so will its connection
        else:
            self._watch(False)

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._watching = True
            self._events.watch_writable(self._ours.fileno(), self._pump)
        elif not wanted and self._watching:
            self._watching = False
            self._events.unwatch_writable(self._ours.fileno())
