"""The Python prompt on a machine that stands still: `vmm run --shell`, Ctrl-A p.

Where standard input is a terminal, lines are edited and completed; from a pipe they are read as
they are, so that what can be typed can also be scripted.
"""

from __future__ import annotations

import code
import os
import pydoc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from vmm.cli.fault_prompt import ctrl_c_interrupts, reload_device
from vmm.cli.messages import say
from vmm.cli.outcome import show_screen
from vmm.cli.views import access_line, code_lines, dump_lines, location_line, state_of, walk_lines
from vmm.errors import DeviceFault, VmmError
from vmm.result import RunResult
from vmm.userdev import user_devices

if TYPE_CHECKING:
    from vmm.cli.session import Session

__all__ = ["Shell"]

_HELP = """\
m               the machine (vmm.Machine); also memory, devices, pio, mmio, vcpus
regs, sregs     registers of the first vCPU: regs.rax, sregs.cs.base; assign to change them
step(n=1)       run n instructions; step(vcpu=1) of another vCPU
step_exit(n=1)  run to the next exit, or n of them, and show each
cont()          run with the console on the terminal, until Ctrl-A p, Ctrl-C or the end
where()         where the vCPUs stand
dis(a, n=8)     n instructions at linear address a; dis() at RIP
hexdump(a, n)   n bytes at linear address a (memory.read(gpa, n): guest-physical)
walk(a)         the page tables' way to linear address a
reload()        read the files of --device again; the devices keep their state
quit(), Ctrl-D  leave
"""
_BANNER = "vmm: the machine stands still; help() lists what there is, Ctrl-D"
_FAULT_BANNER = "vmm: the device's access is pending; Ctrl-D goes back to the question"


class Shell:
    """One prompt on one machine.

    Args:
        session: runs the machine.
        fault: the prompt is in the middle of an access whose device raised: one may look only.
        leads: what Ctrl-D does.
    """

    def __init__(
        self, session: Session, *, fault: DeviceFault | None = None, leads: str = "leaves"
    ) -> None:
        self._session = session
        self._machine = machine = session.machine
        self._fault = fault
        self._leads = leads
        self._failed: DeviceFault | None = None
        self._result: RunResult | None = None
        self.names: dict[str, Any] = {
            "m": machine,
            "memory": machine.memory,
            "devices": machine.devices,
            "pio": machine.pio,
            "mmio": machine.mmio,
            "vcpus": machine.vcpus,
            "regs": machine.vcpus[0].regs,
            "sregs": machine.vcpus[0].sregs,
            "where": self.where,
            "dis": self.dis,
            "hexdump": self.hexdump,
            "walk": self.walk,
            "reload": self.reload,
            "help": self.help,
            "quit": self.quit,
            "exit": self.quit,
        }
        if fault is None:
            self.names |= {"step": self.step, "step_exit": self.step_exit, "cont": self.cont}
        else:
            access = fault.access
            assert access is not None
            one = machine.vcpus[access.vcpu]
            self.names |= {
                "fault": fault, "device": fault.device, "access": access,
                "regs": one.regs, "sregs": one.sregs,
            }  # fmt: skip

    # -- the prompt -----------------------------------------------------------------------

    def interact(self) -> tuple[RunResult, bool]:
        """Take lines until the user leaves; returns how the guest ended, and whether that was said.

        Raises:
            DeviceFault: a device raised, and the user does not want to go on.
        """
        self._session.print_output()
        if os.isatty(0):
            self.where()
        with ctrl_c_interrupts():
            self._read(f"{_BANNER} {self._leads}")
        if self._failed is not None:
            raise self._failed
        if self._result is not None:
            return self._result, True
        exits = sum(vcpu.exits for vcpu in self._machine.vcpus)
        return RunResult("stopped", exits), False

    def look(self) -> None:
        """Take lines in the middle of an access, until the user goes back to the question."""
        self._read(_FAULT_BANNER)

    def _read(self, banner: str) -> None:
        console = _Console(self.names)
        with _completion(self.names), suppress(SystemExit):
            console.interact(banner if os.isatty(0) else "", exitmsg="")

    # -- running --------------------------------------------------------------------------

    def step(self, n: int = 1, vcpu: int = 0) -> None:
        """Run n instructions of one vCPU."""
        with self._running():
            for _ in range(n):
                event = self._machine.step(vcpu)
                if event is not None:
                    print(access_line(self._machine, event))
                self._result = self._machine.last_result
                if self._result is not None:
                    self._tell(self._result)
                    return
        print(location_line(self._machine, vcpu))

    def step_exit(self, n: int = 1) -> None:
        """Run to the next exit, or n of them."""
        with self._running():
            for event in self._machine.exits(timeout=None, max_exits=n):
                print(access_line(self._machine, event))
        result = self._machine.last_result
        if result is not None and result.reason != "max_exits":
            self._result = result
            self._tell(result)
        else:
            self._result = None

    def cont(self) -> None:
        """Run with the console on the terminal, until something stops it."""
        with self._running():
            result = self._session.cont()
        self._session.print_output()
        if self._machine.console.output[-1:] not in (b"", b"\n"):
            print(flush=True)
        stopped = result.reason in ("stopped", "max_exits", "timeout")
        self._result = None if result.reason == "stopped" else result
        if stopped and not self._session.paused:
            print(f"vmm: {result.summary()}")
        if stopped:
            self.where()
        else:
            self._tell(result)
        if self._session.terminal.signal not in (0, signal.SIGINT):
            raise SystemExit

    @contextmanager
    def _running(self) -> Iterator[None]:
        """A device that failed for good ends the prompt as well."""
        try:
            yield
        except DeviceFault as fault:
            self._failed = fault
            raise SystemExit from None

    def _tell(self, result: RunResult) -> None:
        show_screen(self._machine)
        print(f"vmm: {result.report()}", flush=True)

    # -- looking --------------------------------------------------------------------------

    def where(self) -> None:
        """Show where the vCPUs stand."""
        for vcpu in self._machine.vcpus:
            print(location_line(self._machine, vcpu.index), flush=True)

    def dis(self, address: int | None = None, n: int = 8) -> None:
        """Disassemble n instructions at a linear address, or at RIP."""
        at = state_of(self._machine).linear_rip if address is None else address
        _print(code_lines(self._machine, at, n))

    def hexdump(self, address: int, n: int = 64) -> None:
        """Show n bytes at a linear address."""
        _print(dump_lines(self._machine, address, n))

    def walk(self, address: int) -> None:
        """Show the page tables' way to a linear address."""
        _print(walk_lines(self._machine, address))

    def reload(self) -> None:
        """Read the files of the user's devices again."""
        mine = user_devices(self._machine)
        if not mine:
            print("there is no --device to reload")
        for device in mine:
            reload_device(device, print)

    def help(self, what: object = None) -> None:
        """Show what there is, or Python's help on something."""
        if what is None:
            print(_HELP, end="")
        else:
            pydoc.help(what)

    def quit(self) -> None:
        """Leave the prompt."""
        raise SystemExit


class _Console(code.InteractiveConsole):
    """Errors that are told in one line elsewhere are so here."""

    def raw_input(self, prompt: str = "") -> str:
        if os.isatty(0):
            sys.stdout.flush()
            return super().raw_input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def write(self, data: str) -> None:
        if data.strip() or os.isatty(0):
            super().write(data)

    def showtraceback(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, VmmError):
            say(str(error))
        else:
            super().showtraceback()


@contextmanager
def _completion(names: dict[str, Any]) -> Iterator[None]:
    """Complete names with Tab, where there is a terminal to type at."""
    if not os.isatty(0):
        yield
        return
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    before: Callable[[str, int], str | None] | None = readline.get_completer()
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)
