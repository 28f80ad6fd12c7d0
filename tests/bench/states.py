"""Figures of snapshots: bringing a machine back, copying it, and making it of a file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from guests import DIRTY, ONCE, PORT
from sampling import Measure

import vmm

__all__ = ["fork", "reset", "restore"]

_ENTRY = 0x1000
_WARM_UP = 200


def _machine(memory: str, code: bytes) -> vmm.Machine:
    machine = vmm.Machine(memory=memory)
    machine.memory.write(_ENTRY, code)
    machine.on_out(PORT)(lambda value, size: None)
    machine.start_at(_ENTRY)
    return machine


def _median_us(once: Callable[[], vmm.Machine], count: int) -> float:
    """The median time that `once` takes; what it makes is closed outside of that."""
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        made = once()
        times.append(time.perf_counter_ns() - began)
        made.close()
    return statistics.median(times) / 1e3


def reset(exits: int, c_nanoseconds: Callable[[str, int], list[int]]) -> tuple[Measure, Measure]:
    """Resets with a run to the first exit, of a guest that writes to 8 pages, a second."""
    machine = _machine("64K", DIRTY)
    snapshot = machine.snapshot()

    def resets(count: int) -> None:
        for _ in range(count):
            machine.reset_to(snapshot)
            machine.run(max_exits=1)

    resets(_WARM_UP)

    def ours() -> float:
        began = time.perf_counter()
        resets(exits)
        return exits / (time.perf_counter() - began)

    def peer() -> float:
        return exits / (c_nanoseconds("reset", exits)[0] * 1e-9)

    return ours, peer


def fork(count: int) -> tuple[Measure, Measure]:
    """Forks of a machine whose 256 MiB were written to, against making an empty one."""
    machine = _machine("256M", ONCE)
    machine.memory.fill(1 << 20, 200 << 20, 7)
    machine.fork().close()
    return (
        lambda: _median_us(machine.fork, count),
        lambda: _median_us(lambda: vmm.Machine(memory="256M"), count),
    )


def restore(count: int, folder: Path) -> tuple[Measure, Measure]:
    """A file with 1 GiB of memory to its first exit, against the same of a new machine."""
    path = folder / "gib.snap"
    with _machine("1G", ONCE) as machine:
        machine.snapshot(str(path)).close()

    def restored() -> vmm.Machine:
        machine = vmm.restore(path)
        machine.on_out(PORT)(lambda value, size: None)
        machine.run(max_exits=1)
        return machine

    def made() -> vmm.Machine:
        machine = _machine("1G", ONCE)
        machine.run(max_exits=1)
        return machine

    return lambda: _median_us(restored, count) / 1e3, lambda: _median_us(made, count) / 1e3
