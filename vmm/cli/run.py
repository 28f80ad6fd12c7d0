"""`vmm run`: boot an image with the guest's console on this terminal."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.cli.outcome import (
    JsonFile,
    report_fault,
    report_result,
    say_plan,
    say_trace,
    show_screen,
)
from vmm.cli.served import Served, serve, usual_name
from vmm.cli.session import Outlet, Session
from vmm.errors import ConfigError, DeviceFault
from vmm.launch import boot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.cli.detach import Background
    from vmm.cli.log import Log
    from vmm.counts import ExitCounts
    from vmm.host.terminal import Terminal
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = ["run", "run_machine"]

_SHORTEST_S = 0.001


def run(options: Options) -> int:
    """Boot, run, report; returns the exit status.

    Raises:
        VmmError: nothing was run: the options, the image or KVM do not allow it.
    """
    return run_machine(options, _boot)


def run_machine(options: Options, make: Callable[[Options, Outlet], Machine]) -> int:
    """Run what `make` makes as the options have it, and report; returns the exit status.

    Raises:
        VmmError: nothing was run.
    """
    if options.gdb_nowait and options.gdb is None:
        raise ConfigError("--gdb-nowait says how --gdb ADDRESS is to be; give that as well")
    _check_reboot(options)
    if options.detach:
        from vmm.cli.detach import in_background

        return in_background(options, lambda background: _run_here(options, make, background))
    return _run_here(options, make, None)


def _check_reboot(options: Options) -> None:
    """Refuse what looks at one machine from its first instruction to its last, where there may be
    several."""
    if not options.reboot:
        return
    watching = ("tui", "shell", "gdb", "trace", "record", "stop_at", "tracer", "stats")
    for name in watching:
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise ConfigError(f"--reboot: --{flag} is about one machine, which a reset ends")


def _run_here(
    options: Options,
    make: Callable[[Options, Outlet], Machine],
    background: Background | None,
) -> int:
    """Run a machine, and another one like it after each reset where that is wanted."""
    json_files = _json_files(options)
    end_s = None if options.timeout is None else time.monotonic() + options.timeout
    told = background
    log = None
    if options.log is not None:
        from vmm.cli.log import Log

        log = Log(options.log, options.name or usual_name(options.image))
    while True:
        status = _run_once(options, make, json_files, told, log, alone=background is not None)
        if status is not None:
            return status
        told = None
        if end_s is not None:
            options.timeout = max(end_s - time.monotonic(), _SHORTEST_S)
        say("the guest reset the machine, which starts again")


def _run_once(
    options: Options,
    make: Callable[[Options, Outlet], Machine],
    json_files: Sequence[tuple[JsonFile, Callable[[RunResult], object]]],
    background: Background | None,
    log: Log | None,
    *,
    alone: bool,
) -> int | None:
    """Run one machine to its end; returns the exit status, or None: it is to be started again."""
    outlet = Outlet()
    machine = make(options, outlet)
    machine.notes.takers.append(say)
    with ExitStack() as at_end:
        at_end.callback(say_trace, machine, debug=options.debug)
        at_end.enter_context(machine)
        if log is not None:
            log.keep(machine, alone=alone)
        if options.debug:
            say_plan(machine)
        if options.tracer or options.rip or options.stop_at or options.trace_only:
            from vmm.cli.watching import watch

            watch(machine, options)
        wanted_now = options.tui or options.gdb is not None
        served = serve(machine, options.image, options.name, at_once=wanted_now)
        if options.gdb is not None:
            from vmm.cli.gdb import open_debugger

            open_debugger(machine, options, served.name)
        if background is not None:
            background.ready(-1 if log is None else log.fd)
        counts = machine.count_exits() if options.stats else None
        session = Session(machine, outlet, options)
        try:
            result, told = _play(session, served, options)
        except DeviceFault as fault:
            report_fault(machine, fault)
            if options.debug:
                raise
            return int(fault.status)
        if options.reboot and result.reason == "reset" and not session.terminal.signal:
            return None
        if result is machine.last_result:
            result = machine.explain() or result
        for file, contents in json_files:
            file.write(contents(result))
        _report(machine, result, counts, session.terminal, options, told)
    return _status(result, session.terminal)


def _json_files(
    options: Options,
) -> list[tuple[JsonFile, Callable[[RunResult], object]]]:
    """The files that the result is written to, open already."""
    asked: list[tuple[str, str | None, Callable[[RunResult], object]]] = [
        ("--json", options.json, lambda result: result.facts()),
        ("--explain-json", options.explain_json, lambda result: result.explanation()),
    ]
    return [(JsonFile(option, path), call) for option, path, call in asked if path is not None]


def _boot(options: Options, outlet: Outlet) -> Machine:
    return boot(
        options.image,
        format=options.format,
        memory=options.memory,
        cpus=options.cpus,
        cpu=options.cpu,
        irqchip={"on": True, "off": False, "auto": None}[options.irqchip],
        append=options.append,
        initrd=options.initrd,
        modules=options.module,
        load_addr=options.load_addr,
        entry=options.entry,
        cpl=None if options.cpl is None else int(options.cpl),
        boot_drive=options.boot_drive,
        disks=options.disk,
        rng={"on": True, "off": False, "auto": None}[options.rng],
        virtio_console=options.virtio_console,
        strict=options.strict,
        huge_pages=options.huge_pages,
        testdev=options.testdev,
        symbols=options.symbols,
        input=options.input,
        trace=options.trace or True,
        record=options.record,
        net=options.net,
        vsock=options.vsock,
        share=options.share,
        balloon=options.balloon,
        smbios=options.smbios,
        pmem=options.pmem,
        name=options.name or "",
        devices=options.device,
        console=outlet.write,
        terminal=os.isatty(1),
    )


def _play(session: Session, served: Served, options: Options) -> tuple[RunResult, bool]:
    """Run to the end, through prompts where they are wanted; also says whether the user has been
    told of the end already."""
    if options.shell or options.device:
        from vmm.cli.fault_prompt import FaultPrompt

        session.machine.on_device_fault = FaultPrompt(session, always=options.shell).ask
    if options.tui:
        from vmm.cli.screen import run_with_screen

        watched = run_with_screen(session, served.name)
        if not watched.left:
            session.terminal.signal = session.terminal.signal or watched.signal
            return watched.result, watched.told
    if not options.shell:
        result = session.cont()
        if session.machine.debugger is not None:
            from vmm.cli.gdb import linger

            linger(session, result)
        served.linger()
        if not session.paused:
            return result, False
    from vmm.cli.shell import Shell

    return Shell(session).interact()


def _report(
    machine: Machine,
    result: RunResult,
    counts: ExitCounts | None,
    terminal: Terminal,
    options: Options,
    told: bool,
) -> None:
    if terminal.output_error is not None:
        if terminal.output_error.errno != errno.EPIPE:
            say(f"standard output: {terminal.output_error.strerror}; the run was ended")
    elif not told:
        if os.isatty(1) and machine.console.output[-1:] not in (b"", b"\n"):
            print(flush=True)  # what follows starts on a line of its own
        show_screen(machine)
        sys.stdout.flush()
    if counts is not None:
        from vmm.cli.stats import print_stats

        print_stats(machine, counts, result)
    if terminal.output_error is None and not told:
        # Nobody saw the end of one in the background.
        report_result(machine, result, terminal.signal, debug=options.debug or options.detach)


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
