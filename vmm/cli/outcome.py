"""How a run went, told to the user: a line, a report, the screen, a JSON file."""

from __future__ import annotations

import errno
import signal

from vmm.cli.messages import report, say
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.errors import DeviceFault
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = [
    "JsonFile",
    "report_fault",
    "report_result",
    "say_plan",
    "say_trace",
    "show_screen",
]

_TOLD = frozenset({"max_exits", "reset", "stopped"})
"""Endings of a guest that did not die, that are still worth a line."""


def report_result(machine: Machine, result: RunResult, ended_by: int, *, debug: bool) -> None:
    """Say how it ended: nothing where all went well, everything where the guest died or its time
    was up, and what it was doing where somebody ended it.

    `ended_by` is the signal that ended the run, or 0.
    """
    if result.ended_by_hand and result.autopsy is not None and not debug:
        by = f"by {signal.Signals(ended_by).name}; " if ended_by else ""
        report(f"vmm: {result.autopsy.explanation.sentence()}")
        report(f"  ({by}--debug shows registers, code, stack and the last exits)")
    elif result.autopsy is not None or result.died or result.reason == "timeout":
        report(f"vmm: {result.report()}")
    elif ended_by:
        say(f"{result.summary()} by {signal.Signals(ended_by).name}")
    elif result.reason in _TOLD or debug:
        say(result.summary())
    if machine.bios is not None:
        for note in machine.bios.notes:
            say(f"BIOS: {note}")


def say_trace(machine: Machine, *, debug: bool) -> None:
    """Say what has become of a trace file: nothing, where it is complete and nobody asked."""
    trace = machine.trace
    if trace is None or trace.path is None:
        return
    if trace.error is not None:
        why = "disk full" if trace.error.errno == errno.ENOSPC else trace.error.strerror
        say(f"trace: {why}: recording stopped at exit {trace.complete_until:,}; the guest ran on")
    elif debug:
        say(f"trace: every exit is in {trace.path}; 'vmm trace summary {trace.path}' looks at it")


def show_screen(machine: Machine) -> None:
    """Show the text screen where the guest drew on it itself: the console has none of that."""
    if machine.bios is not None:
        rows = machine.bios.screen if machine.bios.drawn_directly else []
    elif machine.memory.contains(0xB8000, 0x8000):
        if not machine.memory.read(0xB8000, 0x8000).strip(b"\0"):
            return  # nobody wrote there
        from vmm.bios.screen import screen_text

        rows = screen_text(machine.memory)
    else:
        return
    while rows and not rows[-1].strip("\0 "):
        rows.pop()
    if rows:
        print("\n".join(row.replace("\0", " ").rstrip() for row in rows))


def report_fault(machine: Machine, fault: DeviceFault) -> None:
    """Say which device model failed, and what led there."""
    from vmm.exits import describe

    say(str(fault))
    report("last exits:")
    for vcpu in machine.vcpus:
        for event in vcpu.last_exits(8):
            report(f"  vcpu{vcpu.index}  {describe(event)}")
    report("the cause, with a traceback: run again with --debug")


def say_plan(machine: Machine) -> None:
    """Say what was set up (--debug)."""
    plan = machine.plan
    if plan is None:
        return
    start = plan.start
    say(
        f"format {plan.format}, {start.mode} mode, entry {start.entry:#x}, "
        f"{len(machine.vcpus)} vCPU, {machine.memory.size >> 10}K, "
        f"irqchip {'on' if machine.irqchip else 'off'}"
    )
    for write in plan.writes:
        say(f"{write.what}: {write.size:#x} bytes at {write.gpa:#x}")
    for rom in plan.roms:
        say(f"{rom.what}: {len(rom.data):#x} bytes at {rom.gpa:#x}, read-only")
    for note in plan.notes:
        say(note)


class JsonFile:
    """A file that an option names, opened before the guest runs: a result that cannot be kept is
    worth no run.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, option: str, path: str) -> None:
        self._option = option
        self._path = path
        if path == "-":
            return
        try:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise self._refused(error) from None

    def write(self, value: object) -> None:
        """Write a value and close the file.

        Raises:
            ConfigError: it cannot be written.
        """
        import json

        text = json.dumps(value, indent=2)
        if self._path == "-":
            report(text)
            return
        try:
            with self._file as file:
                file.write(text + "\n")
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError | ValueError) -> ConfigError:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return ConfigError(f"{self._option} {self._path}: cannot be written: {why}")
