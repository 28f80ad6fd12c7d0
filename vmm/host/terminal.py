"""The terminal that `vmm run` was started in.

A terminal goes into raw mode, so that the guest gets every key, and comes back whatever happens
but SIGKILL (the shell's `reset` mends that). Ctrl-A is the escape: Ctrl-A x ends the run, Ctrl-A p
pauses it, Ctrl-A h shows help. Where input or output is a pipe or a file it is passed through as it
is.

A run in the background leaves the terminal alone and reads nothing from it, as a shell's job must:
`vmm run IMAGE &`, and also `timeout 5 vmm run IMAGE`, which runs it in a group of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from vmm.host.input import EscapeKeys, InputPump
from vmm.host.output import OutputBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from vmm.host.events import HostEvents

    class TypedInto(Protocol):
        """What of a console a terminal needs: it may be in another process."""

        @property
        def has_room(self) -> bool: ...
        @property
        def listening(self) -> bool: ...
        def send(self, data: bytes) -> None: ...
        def when_room(self, callback: Callable[[], None]) -> bool: ...


__all__ = ["HELP", "Terminal"]

HELP = """
Ctrl-A x        end the run
Ctrl-A p        pause, with a Python prompt on the machine
Ctrl-A h        this help
Ctrl-A Ctrl-A   send Ctrl-A to the guest
Ctrl-C          is the guest's if it reads its console, and ends the run if it does not
All other keys go to the guest.
"""

_CTRL_C = b"\x03"
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def _nothing() -> None:
    pass


class Terminal:
    """Standard input and output for the length of a run. Main thread only.

    Args:
        events: watches input and output.
        console: the guest's console.
        end: ends the run: Ctrl-A x, Ctrl-C, a signal, output that cannot be written.
        hold: lets the machine stand still while nobody takes its output.
        go_on: lets it run again.
        pause: brings a prompt: Ctrl-A p. On the thread of host events.
        detach: leaves the guest alone: Ctrl-A d. There as well.
        help: what Ctrl-A h shows.
    """

    def __init__(
        self,
        events: HostEvents,
        console: TypedInto,
        *,
        end: Callable[[], None],
        hold: Callable[[], object],
        go_on: Callable[[], None],
        pause: Callable[[], None] = _nothing,
        detach: Callable[[], None] = _nothing,
        help: str = HELP,
        stdin: int = 0,
        stdout: int = 1,
    ) -> None:
        self._console = console
        self._end = end
        self._help = help
        self._stdin = stdin
        self._stdout = stdout
        self._saved: list[Any] | None = None
        self._lent = False
        self._handlers: dict[int, Any] = {}
        self.signal = 0
        """The signal that ended the run, or 0."""
        self.output_error: OSError | None = None
        """Why output could not be written, where it could not."""
        foreground = _in_foreground(stdin)
        self.interactive = os.isatty(stdin) and foreground
        self._keys = EscapeKeys(
            on_exit=self._stop, on_help=self._show_help, on_pause=pause, on_detach=detach
        )
        self.output = OutputBuffer(
            stdout,
            events,
            on_closed=self._output_closed,
            on_full=hold,
            on_room=go_on,
            raw=self.interactive and os.isatty(stdout),
        )
        self._input: InputPump | None = None
        if self.interactive:
            # Always read: Ctrl-A x must work whatever the guest does not read.
            self._input = InputPump(stdin, events, self._typed, lambda later: True)
        elif foreground:
            self._input = InputPump(stdin, events, console.send, console.when_room)

    def __enter__(self) -> Terminal:
        for number in _ENDING_SIGNALS:
            self._handle(number, self._signalled)
        if self.interactive:
            self._saved = termios.tcgetattr(self._stdin)
            atexit.register(self.restore)
            self._handle(signal.SIGTSTP, self._suspended)
            self._handle(signal.SIGCONT, self._continued)
            tty.setraw(self._stdin, termios.TCSADRAIN)
        if self._input is not None:
            self._input.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.output.drain()
        finally:
            self.output.stop()
            self.restore()

    def restore(self) -> None:
        """Give the terminal back as it was. May be called twice."""
        if self._input is not None:
            self._input.stop()
        if self._saved is not None:
            saved, self._saved = self._saved, None
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._stdin, termios.TCSADRAIN, saved)
            atexit.unregister(self.restore)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Lend the terminal, as it was before the run, to whoever asks the user something.

        From the thread of a vCPU, while the guest stands still. What the guest wrote is shown
        before.
        """
        if self._input is not None:
            self._input.hold()
        self.output.drain()
        self._lent = True
        if self._saved is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)
        try:
            yield
        finally:
            self._lent = False
            if self._saved is not None:
                tty.setraw(self._stdin, termios.TCSADRAIN)
            if self._input is not None:
                self._input.release()

    # -- input ----------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        data = self._keys.feed(data)
        if _CTRL_C in data and not self._console.listening:
            self._stop()
        elif data and self._console.has_room:
            self._console.send(data)

    def _show_help(self) -> None:
        text = self._help.encode()
        if os.isatty(self._stdout):
            self.output.write(text)
            return
        with contextlib.suppress(OSError):  # output is a file: help is not for it
            os.write(self._stdin, text.replace(b"\n", b"\r\n"))

    # -- ends -----------------------------------------------------------------------------

    def _stop(self) -> None:
        self.output.give_up()
        self._end()

    def _output_closed(self, error: OSError) -> None:
        self.output_error = error
        self._end()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """End the run in good order at the first signal, and at once at the second."""
        if self.signal:
            self.restore()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        self._stop()

    # -- job control ----------------------------------------------------------------------

    def _suspended(self, number: int, frame: FrameType | None) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspended)
        self._continued(number, frame)  # without a shell to come back to we were not stopped

    def _continued(self, number: int, frame: FrameType | None) -> None:
        if self._saved is not None and not self._lent and _in_foreground(self._stdin):
            tty.setraw(self._stdin, termios.TCSADRAIN)

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        """Handle a signal, unless we were started with it ignored (nohup)."""
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._handlers[number] = signal.signal(number, handler)


def _in_foreground(fd: int) -> bool:
    """Say whether reading `fd` is not a background job's reading of its terminal."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # no terminal, or not the one whose jobs we are among
