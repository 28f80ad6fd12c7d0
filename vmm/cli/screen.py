"""The screen of `vmm run --tui`: a process of its own, which has the terminal while it lives.

The machine stays in this process and is controlled over its socket, as by any other client. When
the screen is left, or dies, the terminal is put right here, whatever it was left in, and the run
goes on with the guest's console on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import termios
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.cli.messages import say
from vmm.cli.top import END_STATUS, PROMPT_STATUS
from vmm.endings import Ending
from vmm.errors import ConfigError
from vmm.lifecycle import Phase

if TYPE_CHECKING:
    from vmm.cli.session import Session
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = ["Watched", "run_with_screen"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PUT_RIGHT = (
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l"  # no mouse
    b"\x1b[?1004l\x1b[?2004l\x1b[?2048l\x1b[<u"  # no reports of focus and size, no pasting
    b"\x1b[?1049l\x1b[0m\x1b[?25h\x1b[?7h"
)
"""What takes a terminal out of every state that the screen may have put it into."""
_FOR_PROMPT = "for a prompt"


class Watched(NamedTuple):
    """How a run under the screen ended."""

    result: RunResult
    left: bool
    """The screen is gone, and the guest is to go on without."""
    signal: int
    """The signal that ended the run, or 0."""
    told: bool = False
    """The user has seen at a prompt how it ended."""


def run_with_screen(session: Session, name: str) -> Watched:
    """Run a session's machine, which is served under `name`, while its screen has the terminal;
    where the screen is left for a prompt, it comes back behind it.

    Raises:
        ConfigError: there is no terminal, or the screen cannot be started.
        DeviceFault: a device raised.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("--tui needs a terminal; without one use 'vmm top' from another")
    view = os.memfd_create("view")
    held = False
    try:
        while True:
            screen, result = _run(session, name, view, held=held)
            if not screen.prompt:
                # A signal ends the screen as well, which may be seen first.
                left = screen.left and result.reason == "stopped" and not screen.signal
                return Watched(result, left, screen.signal)
            goes_on = result.reason == "stopped" and result.detail == _FOR_PROMPT
            after, told = _prompt(session, goes_on=goes_on)
            if told or not goes_on or session.terminal.signal not in (0, signal.SIGINT):
                return Watched(after if told else result, False, screen.signal, told)
            held = screen.held
    finally:
        os.close(view)


def _run(session: Session, name: str, view: int, *, held: bool) -> tuple[_Screen, RunResult]:
    """Run until the guest has ended and the screen is closed, or the screen is left."""
    screen = _Screen(session.machine, name, view)
    session.machine.onlookers.add(screen)
    try:
        result = session.run_unseen(held=held)
        if not (screen.left and result.reason == "stopped"):
            screen.wait()  # it shows how the run ended
    finally:
        session.machine.onlookers.discard(screen)
        screen.close()
    if screen.said and not screen.signal:
        say(screen.said)
    return screen, result


def _prompt(session: Session, *, goes_on: bool) -> tuple[RunResult, bool]:
    from vmm.cli.shell import Shell

    return Shell(session, leads="goes back to the screen" if goes_on else "leaves").interact()


class _Screen:
    """The process, and the terminal as it was before."""

    def __init__(self, machine: Machine, name: str, view: int) -> None:
        self._machine = machine
        self.signal = 0
        """The signal that asked for our end, or 0."""
        self.left = False
        """The screen was left, and the guest not ended by that."""
        self.prompt = False
        """It was left for a prompt."""
        self.held = False
        """The guest was paused then."""
        self.said = ""
        """Why the guest goes on without a screen, where nobody wanted that."""
        self._modes = termios.tcgetattr(0)
        self._handlers: dict[int, Any] = {}
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._signalled)
        command = [sys.executable, "-m", "vmm", "top", name, "--owner", str(view)]
        try:
            self._process = subprocess.Popen(command, pass_fds=(view,))
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._give_back()
            raise ConfigError(f"--tui: the screen cannot be started: {error.strerror}") from None
        machine.events.watch(self._pidfd, self._ended)

    def wait(self) -> None:
        """Wait until the screen is closed."""
        self.prompt = self._process.wait() == PROMPT_STATUS

    def close(self) -> None:
        """End the process, if it has not ended, and put the terminal right."""
        self._machine.events.unwatch(self._pidfd)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._pidfd)
        self._give_back()

    def _ended(self) -> None:
        """The process has ended: on the thread of host events."""
        self._machine.events.unwatch(self._pidfd)
        status = self._process.wait()
        if status == END_STATUS:
            self._machine.stop()
            return
        self.prompt = status == PROMPT_STATUS
        self.held = self._machine.phase is Phase.PAUSED
        if status and not self.prompt:
            died = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.said = f"the screen ended with {died}; the guest goes on, its console is here"
        self.left = True
        why = _FOR_PROMPT if self.prompt else "the screen was left"
        self._machine.end(Ending("stopped", detail=why))

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._machine.stop()
        with contextlib.suppress(OSError):
            self._process.terminate()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        with contextlib.suppress(OSError):
            os.write(1, _PUT_RIGHT)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
