"""A machine with its console on standard input and output, for one run or for several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.endings import Ending
from vmm.host.terminal import Terminal
from vmm.lifecycle import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.host.textscreen import LiveScreen
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = ["Outlet", "Session"]

_PATIENCE_S = 1.0
"""How long a reader that takes nothing may delay the end of a run that timed out."""

_LOOK_S = 0.05

_OUTPUT = "output"
"""The hold on a machine whose output nobody takes."""


class Outlet:
    """Where the console's output goes: to the terminal once there is one.

    The Python BIOS may speak while the machine is still being made.
    """

    def __init__(self) -> None:
        self._early = bytearray()
        self._sink: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        """Take output."""
        if self._sink is None:
            self._early += data
        else:
            self._sink(data)

    def connect(self, sink: Callable[[bytes], None]) -> None:
        """Give output to `sink` from now on, and what came before there was any."""
        self._sink = sink
        early, self._early = self._early, bytearray()
        if early:
            sink(bytes(early))


class Session:
    """Runs of one machine as `vmm run` does them.

    Args:
        machine: ready to run.
        outlet: gets the console's output.
        options: of the command.
    """

    def __init__(self, machine: Machine, outlet: Outlet, options: Options) -> None:
        self.machine = machine
        self.options = options
        self.paused = False
        """The last run was left by Ctrl-A p; the guest can go on."""
        self._outlet = outlet
        self._asked = self._ended = False
        self._runs = 0
        self._running = False
        self._screen: LiveScreen | None = None
        self._stdin = 0
        if options.shell and not os.isatty(0):
            # What is piped in is for the prompt, not for the guest.
            self._stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            machine.closers.append(lambda: os.close(self._stdin))
        self.terminal = self._new_terminal()
        """Of the last run, or of the first one to come."""

    def cont(self) -> RunResult:
        """Run with standard input and output connected to the guest's console.

        Raises:
            DeviceFault: a device raised, and nobody wants to go on.
        """
        if self._runs:
            self.terminal = self._new_terminal()
        self._runs += 1
        self._asked = self._ended = False
        result = self._run(self.terminal, self._runs)
        self.paused = self._asked and result.reason == "stopped"
        return result

    def run_unseen(self, *, held: bool = False) -> RunResult:
        """Run with the terminal in somebody else's hands: output is kept, and not printed.

        `held`: the run begins paused.
        """
        self._runs += 1
        number = self._runs
        self._outlet.connect(lambda data: None)
        options = self.options
        if options.timeout is not None:
            self.machine.events.call_later(options.timeout, lambda: self._time_out(number))
        return self.machine.run(timeout=options.timeout, max_exits=options.max_exits, held=held)

    def print_output(self) -> None:
        """Print what the guest writes while it is not in `cont`."""

        def write(data: bytes) -> None:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

        self._outlet.connect(write)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have the terminal as it was before the run, while the guest stands still in one."""
        if not self._running:
            yield
            return
        screen, terminal = self._screen, self.terminal
        if screen is not None:
            terminal.output.write(screen.hold())
        with terminal.lent():
            yield
        if screen is not None:
            screen.release()

    @property
    def interactive(self) -> bool:
        """Whether there is somebody at a terminal who can be asked."""
        return self.terminal.interactive and os.isatty(1)

    def _new_terminal(self) -> Terminal:
        machine = self.machine
        return Terminal(
            machine.events,
            machine.console,
            end=self._end,
            hold=lambda: machine.pause(hold=_OUTPUT),
            go_on=lambda: machine.resume(hold=_OUTPUT),
            pause=self._pause,
            stdin=self._stdin,
        )

    def _pause(self) -> None:
        self._asked = True
        self._end()

    def _end(self) -> None:
        self._ended = True
        self.machine.stop()

    def _look(self, run: int) -> None:
        """An end that is asked for before the run has quite begun is lost: ask again."""
        if not self._running or run != self._runs:
            return
        if self._ended:
            self.machine.stop()
        if self._ended or self.machine.phase is not Phase.RUNNING:
            self.machine.events.call_later(_LOOK_S, lambda: self._look(run))

    def _time_out(self, run: int) -> None:
        if run == self._runs:
            self.machine.end(Ending("timeout"))

    def _run(self, terminal: Terminal, number: int) -> RunResult:
        machine, options = self.machine, self.options
        screen = None
        if os.isatty(1):
            from vmm.host.textscreen import LiveScreen

            screen = LiveScreen(machine, terminal.output.write)
        farewell = b""
        self._screen = screen
        self._running = True
        try:
            with terminal:
                self._outlet.connect(terminal.output.write if screen is None else screen.write)
                if screen is not None:
                    screen.start()
                if terminal.interactive:
                    machine.events.call_later(_LOOK_S, lambda: self._look(number))
                if options.timeout is not None:
                    # A machine that is held because nobody takes its output spends no time of its
                    # own.
                    machine.events.call_later(options.timeout, lambda: self._time_out(number))
                try:
                    result = machine.run(timeout=options.timeout, max_exits=options.max_exits)
                finally:
                    self._running = False
                    farewell = b"" if screen is None else screen.stop()
                lost = terminal.output.drain(_PATIENCE_S) if result.reason == "timeout" else 0
        finally:
            self._running = False
            # Behind all output, also where the rest of it was thrown away (Ctrl-A x).
            if farewell:
                sys.stdout.buffer.write(farewell)
                sys.stdout.buffer.flush()
        if lost:
            say(f"standard output: {lost} bytes are lost: nobody takes them")
        return result
