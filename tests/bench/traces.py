"""A trace file of many exits, and two ways through it: ours, and NumPy's shortest."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from kvm_bindings import constants as c
from vmm.trace.layout import CAPACITY, RECORDS
from vmm.trace.memory import TraceMemory
from vmm.trace.reader import load
from vmm.trace.records import DTYPE
from vmm.trace.summary import Summary

__all__ = ["count_plainly", "load_and_summarise", "write_trace"]

_PORTS = (0x60, 0x64, 0x70, 0x71, 0x3F8, 0x3FD, 0xCF8, 0xCFC)


def write_trace(path: Path, exits: int) -> Path:
    """Write a trace of a PC's guest: eight ports, reads and writes, times of a few microseconds."""
    rng = np.random.default_rng(1)
    records = np.zeros(exits, DTYPE)
    memory = TraceMemory(1, str(path))
    records["time_ns"] = time.monotonic_ns() + np.cumsum(rng.integers(5_000, 20_000, exits))
    records["guest_ns"] = rng.gamma(2, 2_000, exits)
    records["handler_ns"] = rng.gamma(3, 1_000, exits)
    records["address"] = rng.choice(_PORTS, exits)
    records["value"] = rng.integers(0, 256, exits)
    records["flags"] = rng.integers(0, 2, exits)
    records["sequence"] = np.arange(exits)
    records["reason"] = c.KVM_EXIT_IO
    records["kind"] = records["size"] = records["count"] = 1
    half = CAPACITY // 2
    for first in range(0, exits, half):
        memory.append(RECORDS, records[first : first + half].tobytes(), ring=1, first=first)
    memory.finish()
    memory.close()
    return path


def load_and_summarise(path: Path, exits: int) -> float:
    """Milliseconds to have all exits in an array, and their table."""
    began = time.perf_counter()
    trace = load(path)
    summary = Summary()
    summary.add(trace.exits)
    rows = summary.rows()
    took = time.perf_counter() - began
    assert sum(row.count for row in rows) == len(trace) == exits
    return took * 1e3


def count_plainly(path: Path) -> float:
    """Milliseconds to read the same bytes and count addresses, checking nothing."""
    began = time.perf_counter()
    records = np.fromfile(path, DTYPE)
    np.unique(records["address"], return_counts=True)
    return (time.perf_counter() - began) * 1e3
