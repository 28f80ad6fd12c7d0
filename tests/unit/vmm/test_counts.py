"""Counting exits."""

from __future__ import annotations

from types import SimpleNamespace

from vmm.counts import ExitCounts
from vmm.exits import Exit

IO, MMIO, HLT = 2, 6, 5


def vcpu(*exits: Exit) -> SimpleNamespace:
    return SimpleNamespace(last_exits=lambda count: list(exits)[-count:])


def test_exits_are_counted_by_reason_address_and_direction():
    counts = ExitCounts()
    out, inn = Exit(IO, address=0x3F8, write=True), Exit(IO, address=0x3F8)
    counts.add(vcpu(out, inn, out, Exit(MMIO, address=0x3F8), Exit(HLT)), 5)
    counts.add(vcpu(out, out), 1)
    assert counts.by_address == {
        (IO, 0x3F8, True): 3,
        (IO, 0x3F8, False): 1,
        (MMIO, 0x3F8, False): 1,
        (HLT, 0, False): 1,
    }
    assert counts.total == 6


def test_no_exits_are_none():
    counts = ExitCounts()
    counts.add(vcpu(Exit(HLT)), 0)
    assert counts.total == 0
