"""`vmm run`: boot an image with the guest's console on this terminal."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmm.cli.messages import say
from vmm.cli.outcome import (
    JsonFile,
    report_fault,
    report_result,
    result_facts,
    say_plan,
    show_screen,
)
from vmm.cli.served import serve
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault
from vmm.host.terminal import Terminal
from vmm.launch import boot

if TYPE_CHECKING:
    from vmm.counts import ExitCounts
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = ["run"]

_PATIENCE_S = 1.0
"""How long a reader that takes nothing may delay the end of a run that timed out."""


def run(options: argparse.Namespace) -> int:
    """Boot, run, report; returns the exit status.

    Raises:
        VmmError: nothing was run: the options, the image or KVM do not allow it.
    """
    json_files = _json_files(options)
    outlet = _Outlet()
    with _boot(options, outlet) as machine:
        if options.debug:
            say_plan(machine)
        serve(machine, options.image, options.name)
        counts = machine.count_exits() if options.stats else None
        terminal = _terminal(machine)
        try:
            result = _run(machine, terminal, outlet, options)
        except DeviceFault as fault:
            report_fault(machine, fault)
            if options.debug:
                raise
            return int(fault.status)
        for file, contents in json_files:
            file.write(contents(result))
        _report(machine, result, counts, terminal, options)
    if machine.trace is not None and machine.trace.error is not None:
        say(f"{options.record}: the recording ends early: {machine.trace.error.strerror}")
    return _status(result, terminal)


def _json_files(
    options: argparse.Namespace,
) -> list[tuple[JsonFile, Callable[[RunResult], object]]]:
    """The files that the result is written to, open already."""
    asked: list[tuple[str, str | None, Callable[[RunResult], object]]] = [
        ("--json", options.json, result_facts),
        ("--explain-json", options.explain_json, lambda result: result.explanation()),
    ]
    return [(JsonFile(option, path), call) for option, path, call in asked if path is not None]


def _boot(options: argparse.Namespace, outlet: _Outlet) -> Machine:
    return boot(
        options.image,
        format=options.format,
        memory=options.memory,
        cpus=options.cpus,
        cpu=options.cpu,
        irqchip={"on": True, "off": False, "auto": None}[options.irqchip],
        append=options.append,
        modules=options.module,
        load_addr=options.load_addr,
        entry=options.entry,
        cpl=None if options.cpl is None else int(options.cpl),
        boot_drive=options.boot_drive,
        disks=options.disk,
        strict=options.strict,
        huge_pages=options.huge_pages,
        testdev=options.testdev,
        symbols=options.symbols,
        input=options.input,
        record=options.record,
        console=outlet.write,
        terminal=os.isatty(1),
    )


def _terminal(machine: Machine) -> Terminal:
    return Terminal(
        machine.events,
        machine.console,
        end=machine.stop,
        hold=machine.pause,
        go_on=machine.resume,
    )


def _run(
    machine: Machine, terminal: Terminal, outlet: _Outlet, options: argparse.Namespace
) -> RunResult:
    """Run with standard input and output connected to the guest's console."""
    screen = None
    if os.isatty(1):
        from vmm.host.textscreen import LiveScreen

        screen = LiveScreen(machine, terminal.output.write)
    farewell = b""
    try:
        with terminal:
            outlet.connect(terminal.output.write if screen is None else screen.write)
            if screen is not None:
                screen.start()
            if options.timeout is not None:
                # A machine that is held because nobody takes its output spends no time of its own.
                machine.events.call_later(options.timeout, lambda: machine.end(Ending("timeout")))
            try:
                result = machine.run(timeout=options.timeout, max_exits=options.max_exits)
            finally:
                farewell = b"" if screen is None else screen.stop()
            lost = terminal.output.drain(_PATIENCE_S) if result.reason == "timeout" else 0
    finally:
        # Behind all output, also where the rest of it was thrown away (Ctrl-A x).
        if farewell:
            sys.stdout.buffer.write(farewell)
            sys.stdout.buffer.flush()
    if lost:
        say(f"standard output: {lost} bytes are lost: nobody takes them")
    return result


def _report(
    machine: Machine,
    result: RunResult,
    counts: ExitCounts | None,
    terminal: Terminal,
    options: argparse.Namespace,
) -> None:
    if terminal.output_error is not None:
        if terminal.output_error.errno != errno.EPIPE:
            say(f"standard output: {terminal.output_error.strerror}; the run was ended")
    else:
        if os.isatty(1) and machine.console.output[-1:] not in (b"", b"\n"):
            print(flush=True)  # what follows starts on a line of its own
        show_screen(machine)
        sys.stdout.flush()
    if counts is not None:
        from vmm.cli.stats import print_stats

        print_stats(machine, counts, result)
    if terminal.output_error is None:
        report_result(machine, result, terminal.signal, debug=options.debug)


def _status(result: RunResult, terminal: Terminal) -> int:
    """The exit status; does not return where a signal asked for our end."""
    error = terminal.output_error
    if error is not None and error.errno != errno.EPIPE:
        return int(ConfigError.status)
    if terminal.signal not in (0, signal.SIGINT):
        # Whoever sent it wants to see that it worked. Nothing is left to be closed.
        signal.signal(terminal.signal, signal.SIG_DFL)
        os.kill(os.getpid(), terminal.signal)
    return result.status


class _Outlet:
    """Where the console's output goes: to the terminal once there is one.

    The Python BIOS may speak while the machine is still being made.
    """

    def __init__(self) -> None:
        self._early = bytearray()
        self._sink: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        if self._sink is None:
            self._early += data
        else:
            self._sink(data)

    def connect(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        if self._early:
            sink(bytes(self._early))
