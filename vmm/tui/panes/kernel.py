"""The kernel's own counters of the VM and its vCPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmm.tui import look
from vmm.tui.format import count, duration, rate
from vmm.tui.panes.table import Column, Table
from vmm.tui.source import Counter

__all__ = ["counters_table"]

Col = Column[Counter]


def counters_table() -> Table[Counter]:
    """Counters by rate. Spec: KVM API, KVM_GET_STATS_FD."""
    return Table(
        [
            Col("counter", 16, lambda row, w: row.name, lambda row: row.name, -1,
                left=True, grows=True, descending=False),
            Col("count", 7, lambda row, w: _said(row.name, row.value, count),
                lambda row: row.value * _weight(row.name), 1),
            Col("rate/s", 6, lambda row, w: _said(row.name, row.rate, rate),
                lambda row: (row.rate * _weight(row.name), row.value * _weight(row.name)), -1,
                style=look.STRONG),
        ],
        lambda row: (row.vcpu, row.name),
        sort="rate/s",
        id="kernel",
    )  # fmt: skip


def _weight(name: str) -> float:
    """Nanoseconds are no match for counts: they are sorted as seconds."""
    return 1e-9 if name.endswith("_ns") else 1.0


def _said(name: str, value: Any, usual: Callable[[Any], str]) -> str:
    return duration(value) if name.endswith("_ns") and value else usual(value)
