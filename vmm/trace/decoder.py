"""What the accesses of a trace meant, in the words of the devices' registers.

Which register answers may hang on another one: on DLAB of a UART's LCR, on the index port of a
clock. What the guest wrote there is in the trace too, so that every access is told by what was set
at its time.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from devices.registers import Register, RegisterTable
from devices.wiring import open_bus
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import WRITE
from vmm.decode import decode_access
from vmm.exits import Exit
from vmm.trace.devicemap import DeviceMap
from vmm.trace.records import Records

__all__ = ["Decoder"]

_REASONS = {"port": KVM_EXIT_IO, "MMIO": KVM_EXIT_MMIO}
_BUSES = (KVM_EXIT_IO, KVM_EXIT_MMIO)


class _History(NamedTuple):
    """What a register that selects others was set to, and when."""

    register: Register
    times: list[int]
    values: list[int]
    before: int | None
    """Its value before that, where it is known."""

    def at(self, time_ns: int) -> int | None:
        place = bisect_left(self.times, time_ns)
        return self.values[place - 1] if place else self.before

    def set_within(self, offset: int, size: int) -> bool:
        """Whether a write sets this register and more: what else it does hangs on the new value."""
        register = self.register
        covers = offset <= register.offset < offset + size
        return covers and size > register.size


class Decoder:
    """Decodes the accesses of one trace.

    Args:
        devices: who answered where.
        exits: all exits of the trace, in the order of time.
        from_start: whether they begin where the machine did; if not, what was set before them is
            not known.
    """

    def __init__(self, devices: DeviceMap, exits: Records, *, from_start: bool) -> None:
        self.devices = devices
        self._histories = _histories(devices, exits, from_start)
        self._find = lru_cache(1 << 14)(devices.find)
        self._say = lru_cache(1 << 14)(_say)

    def decode(
        self, reason: int, address: int, size: int, write: bool, value: int, time_ns: int
    ) -> str:
        """What an access at `time_ns` meant: "LSR = THRE|TEMT"; "" where nothing is known of it."""
        place = self._find(reason, address)
        if place is None or place.table is None:
            return ""
        offset = address - place.base
        histories = self._histories.get(place.name)
        known: tuple[tuple[str, int], ...] | None = None
        if histories is not None and not (
            write and any(h.set_within(offset, size) for h in histories)
        ):
            values = [(history.register.name, history.at(time_ns)) for history in histories]
            if all(value is not None for _, value in values):
                known = tuple((name, value) for name, value in values if value is not None)
        return self._say(place.table, known, offset, size, write, value)

    def meaning(self, event: Exit) -> str:
        """What an exit meant; "" for strings too, which are told by their bytes."""
        if event.count != 1:
            return ""
        return self.decode(
            event.reason, event.address, event.size, event.write, event.value, event.time_ns
        )


def _say(
    table: RegisterTable,
    known: tuple[tuple[str, int], ...] | None,
    offset: int,
    size: int,
    write: bool,
    value: int,
) -> str:
    values = None if known is None else dict(known)
    return decode_access(table, offset, size, write, value, values=values) or ""


def _histories(
    devices: DeviceMap, exits: Records, from_start: bool
) -> dict[str, tuple[_History, ...] | None]:
    """By device, what selects among its registers; None where that cannot be told."""
    made: dict[str, dict[str, _History] | None] = {}
    writes = exits[(exits["flags"] & WRITE != 0) & np.isin(exits["reason"], _BUSES)]
    for place in devices.places:
        selectors = None if place.table is None else _selectors(place.table)
        if selectors is None:
            made[place.name] = None
            continue
        histories = made.setdefault(place.name, {})
        for register in selectors:
            address = place.base + register.offset
            if histories is None or not place.start <= address < place.end:
                continue
            found = _writes_to(writes, _REASONS[place.bus], address, register.size)
            if found is None:
                made[place.name] = None
                break
            before = register.reset if from_start else None
            histories[register.name] = _History(register, *found, before)
    return {
        name: None if histories is None else tuple(histories.values())
        for name, histories in made.items()
    }


def _selectors(table: RegisterTable) -> list[Register] | None:
    """The registers that decide which others answer; None where they hang on others themselves,
    or are not written where they are read."""
    names = dict.fromkeys(r.when.register for r in table if r.when is not None)
    found = [table[name] for name in names if name in table]
    plain = all(r.when is None and "w" in r.access and not r.exact for r in found)
    return found if plain and len(found) == len(names) else None


def _writes_to(
    writes: Records, reason: int, address: int, size: int
) -> tuple[list[int], list[int]] | None:
    """When a register was written, and with what; None where one write was to a part of it, or a
    string."""
    start, end = writes["address"], writes["address"] + writes["size"]
    found = writes[(writes["reason"] == reason) & (start < address + size) & (end > address)]
    whole = (found["address"] <= address) & (found["address"] + found["size"] >= address + size)
    if not (whole & (found["count"] == 1) & (found["size"] <= 8)).all():
        return None
    shifts = (address - found["address"].astype(np.int64)).astype(np.uint64) * np.uint64(8)
    values = (found["value"] >> shifts) & np.uint64(open_bus(size))
    return found["time_ns"].tolist(), values.tolist()
