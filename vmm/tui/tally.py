"""Counting what a source's records come to, with rates and a minute's history."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import WRITE
from vmm.exits import exit_name
from vmm.trace.decoder import Decoder
from vmm.trace.records import Records
from vmm.trace.summary import Key, Row, Summary
from vmm.tui.source import Activity, Spread

__all__ = ["Tally"]

_SECOND = 1_000_000_000
_HISTORY = 60
_BUSY = 20
"""Tables take at most one part in so many of our time: a guest may touch thousands of addresses."""

Name = tuple[int, ...]


class Tally:
    """Exits by reason and by place.

    Args:
        decoder: who answers where, and what accesses mean.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.devices = decoder.devices
        self.summary = Summary()
        self.rate = 0.0
        """Exits in the last full second."""
        self._last: dict[tuple[int, bool], tuple[int, int, int, int]] = {}
        self._second: int | None = None
        self._counts: dict[Name, int] = {}
        self._history: dict[Name, deque[float]] = {}
        self._exits = 0
        self._made: tuple[int, list[Activity], list[Activity]] = (-1, [], [])
        self._rest_until = 0.0

    def copy(self) -> Tally:
        """The same, to be counted on from here."""
        return copy.deepcopy(self, {id(kept): kept for kept in (self.decoder, self.devices)})

    def add(self, exits: Records) -> None:
        """Take exits, in the order of time."""
        if not len(exits):
            return
        self.summary.add(exits)
        self._remember_last(exits)

    def at(self, now_ns: int) -> None:
        """Say what time it is: at each full second the rates are taken."""
        second = now_ns // _SECOND
        if self._second is None:
            self._second = second
        if second == self._second:
            return
        passed = second - self._second
        self._second = second
        self.rate = (self.summary.exits - self._exits) / passed
        self._exits = self.summary.exits
        counts: dict[Name, int] = {}
        for row in self.summary.rows():
            name = _name(row.key)
            counts[name] = row.count
            if len(name) > 1:
                counts[name[:1]] = counts.get(name[:1], 0) + row.count
        for name, count in counts.items():
            history = self._history.setdefault(name, deque(maxlen=_HISTORY))
            rate = (count - self._counts.get(name, 0)) / passed
            history.extend([rate] * min(passed, _HISTORY))
        self._counts = counts

    @property
    def reasons(self) -> Sequence[Activity]:
        """Exits by reason."""
        self._make()
        return self._made[1]

    @property
    def places(self) -> Sequence[Activity]:
        """Exits by port and address."""
        self._make()
        return self._made[2]

    def totals(self) -> dict[str, float]:
        """Everything that counts up, by name."""
        found: dict[str, float] = {}
        for row in self.summary.rows(lambda key: key.reason):
            found[f"exits: {exit_name(row.key)}"] = row.count
            found[f"time: {exit_name(row.key)}, guest"] = row.guest.total
            found[f"time: {exit_name(row.key)}, handler"] = row.handler.total
        for row in self.summary.rows():
            if row.key.address is not None:
                found[f"places: {self._owner(row.key)} {_where(row.key)}"] = row.count
        return found

    def _make(self) -> None:
        """Make both tables anew, if there are more exits, and not too often."""
        now = time.monotonic()
        version = self.summary.exits + (self._second or 0) * (1 << 40)
        if version == self._made[0] or now < self._rest_until:
            return
        rows = self.summary.rows()
        busy = max(sum(row.guest.total + row.handler.total for row in rows), 1)
        reasons = [
            self._activity((row.key,), exit_name(row.key), "", "", row, busy)
            for row in self.summary.rows(lambda key: key.reason)
        ]
        places = [
            self._activity(
                *(_name(row.key), self._owner(row.key), _where(row.key), self._said(row.key)),
                *(row, busy),
            )
            for row in rows
            if row.key.reason in (KVM_EXIT_IO, KVM_EXIT_MMIO)
        ]
        self._made = (version, reasons, places)
        self._rest_until = now + (time.monotonic() - now) * _BUSY

    def _activity(
        self, name: Name, title: str, where: str, what: str, row: Row, busy: int
    ) -> Activity:
        history = self._history.get(name, ())
        return Activity(
            name,
            title,
            where,
            what,
            row.count,
            history[-1] if history else 0.0,
            (row.guest.total + row.handler.total) / busy,
            _spread(row.guest),
            _spread(row.handler),
            list(history),
        )

    def _owner(self, key: Key) -> str:
        if key.address is None:
            return "(others)"
        return self.devices.name_at(key.reason, key.address)

    def _said(self, key: Key) -> str:
        """The last access there, in the device's words."""
        if key.address is None:
            return ""
        last = self._last.get((key.reason << 60 | key.address, bool(key.write)))
        if last is None:
            return ""
        size, count, value, when = last
        if count > 1:
            return f"{count} x {size} bytes"
        said = self.decoder.decode(key.reason, key.address, size, bool(key.write), value, when)
        return said or f"{value:#x}"

    def _remember_last(self, exits: Records) -> None:
        here = exits[(exits["reason"] == KVM_EXIT_IO) | (exits["reason"] == KVM_EXIT_MMIO)][::-1]
        if not len(here) or len(self._last) > 1 << 16:
            return
        places = here["address"] << np.uint64(2)
        places |= (here["reason"] == KVM_EXIT_MMIO).astype(np.uint64) << np.uint64(1)
        places |= (here["flags"] & WRITE).astype(np.uint64)
        _, firsts = np.unique(places, return_index=True)
        for record in here[firsts]:
            place = int(record["reason"]) << 60 | int(record["address"])
            self._last[place, bool(record["flags"] & WRITE)] = (
                int(record["size"]),
                int(record["count"]),
                int(record["value"]),
                int(record["time_ns"]),
            )


def _name(key: Key) -> Name:
    if key.write is None:
        return (key.reason,)
    return (key.reason, -1 if key.address is None else key.address, int(key.write))


def _where(key: Key) -> str:
    io = key.reason == KVM_EXIT_IO
    verb = ("out" if key.write else "in") if io else ("wr" if key.write else "rd")
    return verb if key.address is None else f"{verb} {key.address:#x}"


def _spread(spread: Any) -> Spread:
    return Spread(int(spread.p50), int(spread.p95), int(spread.p99), spread.max)
