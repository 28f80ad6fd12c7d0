"""What a trace comes to: exits counted by reason and address, with the spread of their times.

A `Summary` takes records as they come, in batches of any size, and keeps counts and histograms
only; so it serves a file of any length as well as a screen that is fed a few times a second. Times
go into buckets whose width grows with the time, 16 to each doubling: a percentile is off by 3 % at
most, counts, sums and maxima are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import EXIT, UNFINISHED, WRITE
from vmm.exits import exit_name
from vmm.trace.records import Records

__all__ = ["Key", "Row", "Spread", "Summary"]

_STEPS = 16
"""Buckets to a doubling."""
_DOUBLINGS = 44
"""The last bucket begins at 4.8 hours."""
_BUCKETS = _STEPS * _DOUBLINGS
_MOST_KEYS = 4096
"""A guest may touch any number of addresses; further ones are counted together."""
_ADDRESS = (1 << 60) - 1


@dataclass(frozen=True, slots=True)
class Key:
    """What exits are counted by: `address` and `write` are those of port I/O and MMIO, and None
    elsewhere. An address of None with IO or MMIO means all further ones."""

    reason: int
    address: int | None = None
    write: bool | None = None

    @property
    def name(self) -> str:
        """The reason's name: "IO", "MMIO", "HLT"."""
        return exit_name(self.reason)


@dataclass(frozen=True, slots=True)
class Spread:
    """How times are distributed, in nanoseconds."""

    total: int
    p50: float
    p95: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the exits that have `key` in common."""

    key: Any
    """A `Key`, or whatever `Summary.rows` was told to group by."""
    count: int
    guest: Spread
    """In the guest and in the kernel, before the exit."""
    handler: Spread
    """In this program, after it."""
    share: float
    """Of all exits."""
    time_share: float
    """Of all time spent handling exits."""


class Summary:
    """Counts and times of the exits that were added."""

    def __init__(self) -> None:
        self.exits = 0
        self.irqs = 0
        """Interrupt lines that were raised."""
        self.first_ns = 0
        """CLOCK_MONOTONIC at the first exit, or rather where the guest was entered before it."""
        self.last_ns = 0
        """CLOCK_MONOTONIC where the last exit had been handled."""
        self.by_vcpu: dict[int, int] = {}
        """Exits of each vCPU."""
        self._rows: dict[int, int] = {}
        self._counts = np.zeros(0, np.int64)
        self._totals = np.zeros((2, 0), np.int64)
        self._maxima = np.zeros((2, 0), np.uint64)
        self._times = np.zeros((2, 0, _BUCKETS), np.int64)

    @property
    def seconds(self) -> float:
        """From the first exit to the last."""
        return (self.last_ns - self.first_ns) / 1e9

    @property
    def rate(self) -> float:
        """Exits a second, on all vCPUs together."""
        return self.exits / self.seconds if self.seconds > 0 else 0.0

    def add(self, records: Records) -> None:
        """Count the exits among records; what else is there is passed over."""
        wanted = (records["kind"] == EXIT) & (records["flags"] & UNFINISHED == 0)
        exits = records if wanted.all() else records[wanted]
        if not len(exits):
            return
        self._span(exits)
        for vcpu, count in enumerate(np.bincount(exits["vcpu"])):
            if count:
                self.by_vcpu[vcpu] = self.by_vcpu.get(vcpu, 0) + int(count)
        rows = self._rows_of(exits)
        np.add.at(self._counts, rows, 1)
        for which, name in enumerate(("guest_ns", "handler_ns")):
            times = exits[name].astype(np.uint64)
            np.add.at(self._totals[which], rows, times.astype(np.int64))
            np.maximum.at(self._maxima[which], rows, times)
            np.add.at(self._times[which], (rows, _bucket(times)), 1)

    def rows(self, by: Callable[[Key], Hashable] | None = None) -> list[Row]:
        """The table, most frequent first, and what was seen first where that is equal.

        Args:
            by: says for a `Key` what it is counted under, for example `lambda key: key.reason`,
                or a device's name; None: each key for itself.
        """
        groups: dict[Any, list[int]] = {}
        for packed, row in self._rows.items():
            key = _unpack(packed)
            groups.setdefault(key if by is None else by(key), []).append(row)
        busy = max(int(self._totals[1].sum()), 1)
        made = [self._row(key, rows, busy) for key, rows in groups.items()]
        return sorted(made, key=lambda row: -row.count)

    def total(self) -> Row:
        """All exits as one row."""
        return self._row(None, list(self._rows.values()), max(int(self._totals[1].sum()), 1))

    # -- inside ---------------------------------------------------------------------------

    def _span(self, exits: Records) -> None:
        begun = int((exits["time_ns"] - exits["guest_ns"]).min())
        ended = int((exits["time_ns"] + exits["handler_ns"]).max())
        self.first_ns = min(self.first_ns, begun) if self.exits else begun
        self.last_ns = max(self.last_ns, ended)
        self.exits += len(exits)
        self.irqs += int(exits["irqs"].sum(dtype=np.int64))

    def _rows_of(self, exits: Records) -> NDArray[np.intp]:
        """The row of each exit; rows are made for keys that are new."""
        found, where = np.unique(_pack(exits), return_inverse=True)
        rows = np.array([self._row_of(int(key)) for key in found], np.intp)
        self._grow(len(self._rows))
        return rows[where]

    def _row_of(self, key: int) -> int:
        row = self._rows.get(key)
        if row is None and len(self._rows) >= _MOST_KEYS:
            key = _together(key)
            row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self._rows)
        return row

    def _grow(self, rows: int) -> None:
        have = len(self._counts)
        if rows <= have:
            return
        more = max(rows, 2 * have, 16) - have
        self._counts = np.pad(self._counts, (0, more))
        self._totals = np.pad(self._totals, ((0, 0), (0, more)))
        self._maxima = np.pad(self._maxima, ((0, 0), (0, more)))
        self._times = np.pad(self._times, ((0, 0), (0, more), (0, 0)))

    def _row(self, key: Any, rows: list[int], busy: int) -> Row:
        count = int(self._counts[rows].sum())
        guest, handler = (self._spread(which, rows, count) for which in (0, 1))
        return Row(
            key,
            count,
            guest,
            handler,
            share=count / max(self.exits, 1),
            time_share=handler.total / busy,
        )

    def _spread(self, which: int, rows: list[int], count: int) -> Spread:
        most = int(self._maxima[which][rows].max(initial=0))
        behind = np.cumsum(self._times[which][rows].sum(axis=0, dtype=np.int64))

        def percentile(percent: float) -> float:
            if not count:
                return 0.0
            bucket = int(np.searchsorted(behind, count * percent / 100))
            return min(_middle(bucket), float(most))

        total = int(self._totals[which][rows].sum())
        return Spread(total, percentile(50), percentile(95), percentile(99), most)


def _bucket(times: NDArray[np.uint64]) -> NDArray[np.intp]:
    fraction, exponent = np.frexp(times.astype(np.float64))
    within = (fraction * (2 * _STEPS)).astype(np.intp) - _STEPS
    bucket: NDArray[np.intp] = np.clip(exponent * _STEPS + within, 0, _BUCKETS - 1)
    return bucket


def _middle(bucket: int) -> float:
    """The time in the middle of a bucket."""
    if bucket < _STEPS:
        return 0.0
    exponent, within = divmod(bucket, _STEPS)
    low, high = ((n + _STEPS) / (2 * _STEPS) * 2.0**exponent for n in (within, within + 1))
    # Times are whole: a bucket that holds one only is that one.
    first, last = -(-low // 1), -(-high // 1) - 1
    return (first + last) / 2 if last >= first else low


# A key as one number: what it is of (2 bits), the address or the reason, and the direction (1 bit).
_IO, _MMIO, _OTHER = 0, 1, 2
_TOGETHER = 3


def _pack(exits: Records) -> NDArray[np.uint64]:
    reason, address = exits["reason"], exits["address"] & np.uint64(_ADDRESS)
    write = (exits["flags"] & WRITE).astype(np.uint64)
    is_io, is_mmio = reason == KVM_EXIT_IO, reason == KVM_EXIT_MMIO
    packed: NDArray[np.uint64] = np.where(
        is_io | is_mmio,
        (address << np.uint64(1)) | write | (is_mmio.astype(np.uint64) << np.uint64(62)),
        (reason.astype(np.uint64) << np.uint64(1)) | np.uint64(_OTHER << 62),
    )
    return packed


def _together(key: int) -> int:
    """The key that further ones of its sort are counted under."""
    sort, write = key >> 62, key & 1
    return _TOGETHER << 62 | sort << 1 | write


def _unpack(key: int) -> Key:
    sort, number, write = key >> 62, key >> 1 & _ADDRESS, bool(key & 1)
    if sort == _TOGETHER:
        reason = (KVM_EXIT_IO, KVM_EXIT_MMIO, 0)[number]
        return Key(reason, None, write if number < _OTHER else None)
    if sort == _OTHER:
        return Key(number)
    return Key(KVM_EXIT_MMIO if sort == _MMIO else KVM_EXIT_IO, number, write)


def of_batches(batches: Iterable[Records]) -> Summary:
    """Summarise all batches of records."""
    summary = Summary()
    for records in batches:
        summary.add(records)
    return summary
