"""The figures: what is measured, against what, and what is wanted of it.

A figure's function prepares both sides and returns how to measure each once; `Bench` gives it
the amounts of work and the peers. It raises `Unavailable` where its peer is missing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import states
from guests import HELLO, ONCE, PORT, UART_LOOP, WRITE_LOOP, hello_rom, unrolled_writes
from peers import CPeer, Unavailable, qemu_command
from sampling import Measure, Target, all_cpus, pinned
from traces import count_plainly, load_and_summarise, write_trace
from watched import WatchedMachine

import vmm
from kvm_bindings import constants as c
from vmm.board import add_pc

__all__ = ["FIGURES", "Bench", "Figure"]

_ENTRY = 0x1000
_WARM_UP = 1000
_DEBUG_EXIT_STATUS = 1
"""A guest that writes 0 to the debug-exit port: (0 << 1) | 1, in QEMU as here."""


@dataclass(frozen=True)
class Bench:
    """What the figures share.

    Args:
        exits: exits of one measurement.
        machines: machines made in one measurement.
        folder: for the compiled peer and the ROM.
    """

    exits: int
    machines: int
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="glassvm-bench-")))
    open: ExitStack = field(default_factory=ExitStack)
    """What a figure keeps open is closed when it has been measured."""

    @cached_property
    def c_peer(self) -> CPeer:
        """The VMM in C."""
        return CPeer(self.folder)

    @cached_property
    def rom(self) -> Path:
        """The ROM image that both monitors boot."""
        path = self.folder / "rom.bin"
        path.write_bytes(hello_rom())
        return path

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment of processes: bytecode is kept, as it is of an installed package.

        The checkout may not have any, and the environment may forbid to write it.
        """
        found = dict(os.environ, PYTHONPYCACHEPREFIX=str(self.folder / "bytecode"))
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        return found

    @property
    def vmm(self) -> list[str]:
        """The command: the installed script where there is one."""
        script = Path(sys.executable).with_name("vmm")
        return [str(script)] if script.exists() else [sys.executable, "-m", "vmm"]


Prepare = Callable[[Bench], tuple[Measure, Measure]]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    `where` says on which processors both sides run: one, where both are one thread; all of
    them, where one side has several.
    """

    name: str
    what: str
    peer: str
    unit: str
    prepare: Prepare
    target: Target | None = None
    where: Callable[[], AbstractContextManager[None]] = pinned
    slices: int = 1
    """Each round is cut into so many, with as much less work: for a host whose speed changes."""


def _exits(bench: Bench) -> tuple[Measure, Measure]:
    def ours() -> float:
        return _writes_per_s(WRITE_LOOP, bench.exits)

    def peer() -> float:
        return bench.exits / (bench.c_peer.nanoseconds("exits", bench.exits)[0] * 1e-9)

    return ours, peer


def _create(bench: Bench) -> tuple[Measure, Measure]:
    def once() -> None:
        with vmm.Machine(memory="64K") as machine:
            machine.memory.write(_ENTRY, ONCE)
            machine.on_out(PORT)(lambda value, size: None)
            machine.start_at(_ENTRY)
            machine.run(max_exits=1)

    def ours() -> float:
        times = []
        for _ in range(bench.machines):
            began = time.perf_counter_ns()
            once()
            times.append(time.perf_counter_ns() - began)
        return statistics.median(times) / 1e3

    def peer() -> float:
        return statistics.median(bench.c_peer.nanoseconds("create", bench.machines)) / 1e3

    return ours, peer


def _process(bench: Bench) -> tuple[Measure, Measure]:
    return _command(bench, [*bench.vmm, "run", str(bench.rom)]), _qemu(bench)


def _lean(bench: Bench) -> tuple[Measure, Measure]:
    ours = [*bench.vmm, "run", str(bench.rom), "--irqchip", "off"]
    return _command(bench, ours), _command(bench, qemu_command(bench.rom, lean=True))


def _payload(bench: Bench) -> tuple[Measure, Measure]:
    ours = [*bench.vmm, "run", "payload:hello16"]
    return _command(bench, ours, status=0, greeting=b"Hello from real mode\n"), _qemu(bench)


def _coalesced(bench: Bench) -> tuple[Measure, Measure]:
    guest = unrolled_writes()

    def ours() -> float:
        # An exit comes after some 170 writes.
        return _writes_per_s(guest, max(bench.exits // 20, 50), coalesced=True)

    return ours, lambda: _writes_per_s(guest, bench.exits)


def _flight(bench: Bench) -> tuple[Measure, Measure]:
    return _against_untraced(bench, lambda: True)


def _file(bench: Bench) -> tuple[Measure, Measure]:
    return _against_untraced(bench, lambda: str(bench.folder / "bench.vtrace"))


def _against_untraced(bench: Bench, trace: Callable[[], str | bool]) -> tuple[Measure, Measure]:
    """Two machines that differ in their trace alone, each of which stays as it is: a difference
    of a hundredth is seen only between slices of a few milliseconds, in turn."""

    def measure(trace: str | bool) -> Measure:
        machine = bench.open.enter_context(vmm.Machine(memory="64K", trace=trace))
        machine.memory.write(_ENTRY, WRITE_LOOP)
        machine.on_out(PORT)(lambda value, size: None)
        return _slices(bench, machine)

    return measure(trace()), measure(False)


def _recorded(bench: Bench) -> tuple[Measure, Measure]:
    def measure(trace: str | bool) -> Measure:
        options = {"trace": trace, "journal": trace is not False}
        machine = bench.open.enter_context(vmm.Machine(memory="64K", **options))
        add_pc(machine, machine.console)
        machine.memory.write(_ENTRY, UART_LOOP)
        return _slices(bench, machine)

    return measure(str(bench.folder / "record.vtrace")), measure(False)


def _screen(bench: Bench) -> tuple[Measure, Measure]:
    machine = bench.open.enter_context(WatchedMachine(bench.vmm, bench.exits / 20_000))
    return machine.watched, machine.alone


def _slices(bench: Bench, machine: vmm.Machine) -> Measure:
    machine.start_at(_ENTRY)
    machine.run(max_exits=_WARM_UP)

    def slice_() -> float:
        began = time.perf_counter()
        machine.run(max_exits=bench.exits)
        return bench.exits / (time.perf_counter() - began)

    return slice_


def _uart(bench: Bench) -> tuple[Measure, Measure]:
    def ours() -> float:
        with vmm.Machine(memory="64K") as machine:
            add_pc(machine, machine.console)
            machine.memory.write(_ENTRY, UART_LOOP)
            machine.start_at(_ENTRY)
            return _exits_per_s(machine, bench.exits)

    return ours, lambda: _writes_per_s(WRITE_LOOP, bench.exits)


def _cpus(bench: Bench) -> tuple[Measure, Measure]:
    def measure(cpus: int) -> float:
        with vmm.Machine(memory="64K", cpus=cpus, irqchip=True) as machine:
            machine.memory.write(_ENTRY, WRITE_LOOP)
            machine.on_out(PORT)(lambda value, size: None)
            machine.start_at(_ENTRY)
            # The other processors begin where the first one does, without INIT and SIPI.
            first = machine.vcpus[0].kvm
            for vcpu in machine.vcpus[1:]:
                vcpu.kvm.set_mp_state(c.KVM_MP_STATE_RUNNABLE)
                vcpu.kvm.set_sregs(first.get_sregs())
                vcpu.kvm.set_regs(first.get_regs())
            return _exits_per_s(machine, bench.exits)

    return lambda: measure(2), lambda: measure(1)


def _writes_per_s(
    guest: bytes, exits: int, *, coalesced: bool = False, trace: str | bool = True
) -> float:
    """Run a guest that writes to `PORT`, and count the calls of a handler in Python."""
    writes = 0
    with vmm.Machine(memory="64K", trace=trace) as machine:

        @machine.on_out(PORT, coalesced=coalesced)
        def count(value: int, size: int) -> None:
            nonlocal writes
            writes += 1

        machine.memory.write(_ENTRY, guest)
        machine.start_at(_ENTRY)
        machine.run(max_exits=min(_WARM_UP, exits))
        writes = 0
        began = time.perf_counter()
        machine.run(max_exits=exits)
        return writes / (time.perf_counter() - began)


def _exits_per_s(machine: vmm.Machine, exits: int) -> float:
    machine.run(max_exits=_WARM_UP)
    began = time.perf_counter()
    done = machine.run(max_exits=exits).exits
    return done / (time.perf_counter() - began)


def _qemu(bench: Bench) -> Measure:
    return _command(bench, qemu_command(bench.rom))


def _command(
    bench: Bench, command: list[str], *, status: int = _DEBUG_EXIT_STATUS, greeting: bytes = HELLO
) -> Measure:
    """Measure a whole process in milliseconds, and see that its guest did what it should.

    The measurement raises `Unavailable` where it did not, with the last line of its standard
    error.
    """

    def measure() -> float:
        began = time.perf_counter_ns()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=bench.environment,
            timeout=60,
        )
        took = (time.perf_counter_ns() - began) / 1e6
        if done.returncode != status or done.stdout != greeting:
            said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise Unavailable(
                f"{Path(command[0]).name} ended with {done.returncode}, expected {status}; it "
                f"printed {done.stdout[:40]!r} and said: {said}"
            )
        return took

    return measure


def _summary(bench: Bench) -> tuple[Measure, Measure]:
    exits = 50 * bench.exits
    path = write_trace(bench.folder / "summary.vtrace", exits)
    return lambda: load_and_summarise(path, exits), lambda: count_plainly(path)


_EXITS_WHAT = "port writes to a Python function"

FIGURES = (
    Figure(
        "exits",
        _EXITS_WHAT,
        "VMM in C",
        "exits/s",
        _exits,
        Target(0.85, at_least=True),
        slices=4,
    ),
    Figure(
        "create",
        "create, first exit, close in process",
        "VMM in C",
        "µs",
        _create,
        Target(1.5, at_least=False),
    ),
    Figure(
        "process",
        "vmm run of a ROM that says hello",
        "QEMU microvm",
        "ms",
        _process,
        Target(1.0, at_least=False),
        all_cpus,
    ),
    Figure(
        "lean",
        "the same with --irqchip off",
        "QEMU without PIC, PIT, RTC",
        "ms",
        _lean,
        where=all_cpus,
    ),
    Figure(
        "payload",
        "vmm run payload:hello16",
        "QEMU microvm, the ROM",
        "ms",
        _payload,
        where=all_cpus,
    ),
    Figure(
        "coalesced",
        "writes to a coalesced port",
        "ordinary port",
        "writes/s",
        _coalesced,
        Target(4.0, at_least=True),
    ),
    Figure(
        "flight",
        "port writes with the flight recorder",
        "nothing noted",
        "exits/s",
        _flight,
        Target(0.97, at_least=True),
        slices=10,
    ),
    Figure(
        "file",
        "port writes with every record in a file",
        "nothing noted",
        "exits/s",
        _file,
        Target(0.9, at_least=True),
        slices=10,
    ),
    Figure(
        "record",
        "COM1 of a PC, recorded for replay",
        "nothing noted",
        "exits/s",
        _recorded,
        slices=10,
    ),
    Figure(
        "screen",
        "port writes under vmm run, with vmm top on a terminal",
        "the same run without",
        "exits/s",
        _screen,
        Target(0.9, at_least=True),
        all_cpus,
    ),
    Figure(
        "summary",
        "a trace of 1,000,000 exits, loaded and summarised",
        "NumPy counts its addresses",
        "ms",
        _summary,
    ),
    Figure(
        "reset",
        "reset_to, run and exit with 8 dirty pages",
        "VMM in C, the same requests",
        "a second",
        lambda bench: states.reset(bench.exits // 20, bench.c_peer.nanoseconds),
        Target(0.5, at_least=True),
    ),
    Figure(
        "fork",
        "fork of a machine of 256M",
        "making an empty one",
        "µs",
        lambda bench: states.fork(bench.machines),
        Target(2, at_least=False),
    ),
    Figure(
        "restore",
        "a file with 1G of memory to the first exit",
        "a new machine to it",
        "ms",
        lambda bench: states.restore(bench.machines, bench.folder),
    ),
    Figure("uart", "COM1 of a PC, LSR and THR in turn", "bare on_out", "exits/s", _uart),
    Figure("cpus", "port writes on 2 processors", "1 processor", "exits/s", _cpus, where=all_cpus),
)
"""All figures, in the order of the table."""
