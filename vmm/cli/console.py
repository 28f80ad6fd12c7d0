"""`vmm console`: this terminal on the console of a machine that runs."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import threading
from collections.abc import Callable

from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.control.client import Client
from vmm.control.protocol import ControlError, from_text
from vmm.errors import ExitStatus
from vmm.host.events import HostEvents
from vmm.host.terminal import Terminal

__all__ = ["console"]

_HELP = """
Ctrl-A d        detach; the guest runs on (Ctrl-A x does the same here)
Ctrl-A h        this help
Ctrl-A Ctrl-A   send Ctrl-A to the guest
All other keys go to the guest.
"""

_TAIL = 16 << 10
"""How much of the output is looked at for the lines that fill a terminal."""
_PIECE = 64 << 10
_LOOK_S = 0.5
"""How often the machine is asked whether its run has ended."""


def console(options: Options) -> int:
    """Attach until the run ends, whose status is ours then, or until the user leaves.

    Raises:
        ControlError: there is no such machine.
    """
    with Client.connect(options.name) as client:
        written = client.call("info")["console"]
        first = 0 if options.all else max(written - _TAIL, 0)
        tail = client.call("console", since=first)
        output = from_text(tail["data"])
        if not options.all:
            output = _last_lines(output, cut=tail["start"] > 0)
        attached = _Attached(client, client.console_stream(tail["end"]))
        return attached.run(output)


class _Attached:
    """A terminal on the stream of a machine's console."""

    def __init__(self, client: Client, stream: socket.socket) -> None:
        self._client = client
        self._stream = stream
        self._over = threading.Event()
        self._left = False
        self._in_line = False
        self._fault: BaseException | None = None
        self._events = HostEvents(self._failed)
        self._typed = _Typed(stream, self._events)
        self._terminal = Terminal(
            self._events,
            self._typed,
            end=self._leave,
            hold=lambda: self._events.unwatch(stream.fileno()),
            go_on=self._listen,
            detach=self._leave,
            help=_HELP,
        )

    def run(self, first: bytes) -> int:
        """Pass bytes both ways until the end; returns the exit status."""
        terminal = self._terminal
        ended = None
        if terminal.interactive:
            say(f"the console of {self._client.name}; Ctrl-A d detaches, Ctrl-A h shows help")
        try:
            with terminal:
                self._show(first)
                self._listen()
                while ended is None and not self._over.wait(_LOOK_S):
                    ended = self._ended()
                if not self._left:
                    ended = ended or self._ended()
                    self._events.unwatch(self._stream.fileno())
                    self._read_rest()
        finally:
            self._events.close()
            self._stream.close()
        if self._fault is not None:
            raise self._fault
        return self._told(ended)

    def _told(self, ended: tuple[str, int] | None) -> int:
        name, number = self._client.name, self._terminal.signal
        if self._in_line and os.isatty(1):
            print(flush=True)  # what follows starts on a line of its own
        if number not in (0, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if ended is not None:
            say(f"{name}: {ended[0]}")
            return ended[1]
        if not self._left:
            raise ControlError(f"{name} is gone: its process has ended")
        if self._terminal.interactive:
            say(f"detached; {name} runs on")
        return int(ExitStatus.INTERRUPTED if number else ExitStatus.OK)

    def _ended(self) -> tuple[str, int] | None:
        """How the run ended, in one line, and with what status; None where it has not, or where
        nobody is there to tell."""
        try:
            found = self._client.call("explanation")
        except ControlError:
            self._over.set()
            return None
        return (found["text"].partition("\n")[0], found["status"]) if found else None

    def _listen(self) -> None:
        self._events.watch(self._stream.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._stream.recv(_PIECE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._show(data)
        else:
            self._events.unwatch(self._stream.fileno())
            self._over.set()

    def _read_rest(self) -> None:
        """What the guest wrote last may still be on its way."""
        with contextlib.suppress(OSError):
            while select.select([self._stream], [], [], 0.1)[0]:
                data = self._stream.recv(_PIECE)
                if not data:
                    return
                self._show(data)

    def _show(self, data: bytes) -> None:
        if data:
            self._in_line = not data.endswith(b"\n")
            self._terminal.output.write(data)

    def _leave(self) -> None:
        self._left = True
        self._over.set()

    def _failed(self, error: BaseException) -> None:
        self._fault = error
        self._leave()


class _Typed:
    """The guest's input, as far as the stream takes it; on the thread of host events."""

    listening = True  # Ctrl-C is the guest's: to leave, there are other keys

    def __init__(self, stream: socket.socket, events: HostEvents) -> None:
        self._stream = stream
        self._events = events
        self._waiting = b""
        self._on_room: Callable[[], None] | None = None

    @property
    def has_room(self) -> bool:
        """Whether more can be sent now."""
        return not self._waiting

    def send(self, data: bytes) -> None:
        """Send now what can be, and the rest when it can."""
        self._waiting += data
        self._push()

    def when_room(self, callback: Callable[[], None]) -> bool:
        """Say whether more can be sent now; if not, `callback` is called once when it can."""
        if not self.has_room:
            self._on_room = callback
        return self.has_room

    def _push(self) -> None:
        try:
            sent = self._stream.send(self._waiting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._waiting)  # nobody takes it any more
        self._waiting = self._waiting[sent:]
        if self._waiting:
            self._events.watch_writable(self._stream.fileno(), self._push)
            return
        self._events.unwatch_writable(self._stream.fileno())
        if self._on_room is not None:
            callback, self._on_room = self._on_room, None
            callback()


def _last_lines(output: bytes, *, cut: bool) -> bytes:
    """As much of the end of some output as fits a terminal, in whole lines; `cut`: its start is
    none."""
    lines = output.split(b"\n")
    if cut and len(lines) > 1:
        del lines[0]
    return b"\n".join(lines[-max(shutil.get_terminal_size().lines - 2, 1) :])
