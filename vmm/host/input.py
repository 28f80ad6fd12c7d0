"""What is typed or piped in, on its way to the guest's console."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.host.events import HostEvents

__all__ = ["EscapeKeys", "InputPump"]

ESCAPE = 0x01  # Ctrl-A
_READ_SIZE = 4096


def _nothing() -> None:
    pass


class EscapeKeys:
    """Sorts typed bytes into those for the guest and those for us."""

    def __init__(
        self,
        *,
        on_exit: Callable[[], None],
        on_help: Callable[[], None],
        on_pause: Callable[[], None] = _nothing,
        on_detach: Callable[[], None] = _nothing,
    ) -> None:
        self._commands = {
            ord("x"): on_exit,
            0x18: on_exit,  # Ctrl-X, for those who keep Ctrl pressed
            ord("p"): on_pause,
            0x10: on_pause,
            ord("d"): on_detach,
            0x04: on_detach,
            ord("h"): on_help,
            0x08: on_help,
            ord("?"): on_help,
        }
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """Return what is for the guest; carry out what is for us."""
        kept = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                command = self._commands.get(byte)
                if command is not None:
                    command()
                elif byte in (ESCAPE, ord("a")):
                    kept.append(ESCAPE)
                # Any other key after Ctrl-A is dropped: it was meant for us, and mistyped.
            elif byte == ESCAPE:
                self._escaped = True
            else:
                kept.append(byte)
        return bytes(kept)


class InputPump:
    """Reads a file descriptor as fast as its taker wants.

    Args:
        fd: a terminal, a pipe, a file, a device.
        events: the thread that watches it.
        take: gets what was read.
        ready: says whether more is wanted now; if not, it calls its argument once when it is.
    """

    def __init__(
        self,
        fd: int,
        events: HostEvents,
        take: Callable[[bytes], None],
        ready: Callable[[Callable[[], None]], bool],
    ) -> None:
        self._fd = fd
        self._events = events
        self._take = take
        self._ready = ready
        self._watched = False
        self._watching = False
        self._stopped = False
        self._held = False
        self._reading = threading.Lock()

    def start(self) -> None:
        """Begin to read. A file is read from at once, so that the guest finds its input there."""
        try:
            self._events.watch(self._fd, self._readable)
            self._watched = self._watching = True
        except PermissionError:
            # Neither a file nor /dev/zero can be watched; reading them never waits.
            self._read_on()
        except OSError:
            self._stopped = True  # no input at all

    def stop(self) -> None:
        """Read nothing more. May be called twice."""
        self._stopped = True
        self._unwatch()

    def hold(self) -> None:
        """Leave what is typed to somebody else, until `release`. Not on the thread of events."""
        with self._reading:
            self._held = True
            self._unwatch()

    def release(self) -> None:
        """Read on."""
        self._held = False
        self._resume()

    def _readable(self) -> None:
        with self._reading:
            if self._stopped or not self._watching:
                return
            if not self._ready(self._resume):
                self._unwatch()
            elif not self._read():
                self.stop()

    def _read(self) -> bool:
        """Pass a piece of input on; return False at its end."""
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data:
            self._take(data)
        return bool(data)

    def _read_on(self) -> None:
        while not self._stopped and self._ready(self._resume):
            if not self._read():
                self._stopped = True

    def _resume(self) -> None:
        # The taker calls this while it takes: reading is left to the thread of host events.
        self._events.call_later(0, self._go_on)

    def _go_on(self) -> None:
        if self._stopped or self._held:
            return
        if not self._watched:
            self._read_on()
        elif not self._watching:
            self._watching = True
            self._events.watch(self._fd, self._readable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._events.unwatch(self._fd)
