"""What the accesses of a trace meant, in the words of the devices' registers.

Which register answers may hang on another one: on DLAB of a UART's LCR, on the index port of a
clock. What the guest wrote there is in the trace too, so that every access is told by what was set
at its time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from devices.registers import Register, RegisterTable
from devices.wiring import open_bus
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import WRITE
from vmm.decode import decode_access
from vmm.exits import Exit
from vmm.trace.devicemap import DeviceMap
from vmm.trace.records import Records

__all__ = ["Decoder", "selectors"]

_REASONS = {"port": KVM_EXIT_IO, "MMIO": KVM_EXIT_MMIO}
_BUSES = (KVM_EXIT_IO, KVM_EXIT_MMIO)
_MOST_WRITES = 1 << 16
"""So many are remembered of a register: more than exits that a screen can show."""


class _History:
    """What a register that selects others was set to, and when.

    Args:
        register: the register.
        reason: of exits for accesses to its bus.
        address: where it is.
        before: its value before the first writes, where it is known.
    """

    def __init__(self, register: Register, reason: int, address: int, before: int | None) -> None:
        self.register = register
        self.before = before
        self._reason = reason
        self._address = address
        self._times: list[int] = []
        self._values: list[int | None] = []

    def add(self, writes: Records) -> bool:
        """Take later writes; False where one was to a part of the register, or a string."""
        found = _writes_to(writes, self._reason, self._address, self.register.size)
        if found is None:
            return False
        times, values = found
        late = bool(times and self._times and times[0] < self._times[-1])
        self._times += times
        self._values += values
        if late:  # of another vCPU, whose records came before
            order = sorted(range(len(self._times)), key=self._times.__getitem__)
            self._times = [self._times[n] for n in order]
            self._values = [self._values[n] for n in order]
        if len(self._times) > 2 * _MOST_WRITES:
            self.before = None
            del self._times[:-_MOST_WRITES], self._values[:-_MOST_WRITES]
        return True

    def forget(self, time_ns: int) -> None:
        """What it holds is not known from then on, until it is written again."""
        self._times.append(time_ns)
        self._values.append(None)

    def know(self, value: int, time_ns: int) -> None:
        """It held a value at a moment up to which all writes that there are were taken."""
        if not self._times or self._times[0] > time_ns:
            self.before = value

    def at(self, time_ns: int) -> int | None:
        """Its value at a moment; None where it is not known."""
        place = bisect_left(self._times, time_ns)
        return self._values[place - 1] if place else self.before

    def set_within(self, offset: int, size: int) -> bool:
        """Whether a write sets this register and more: what else it does hangs on the new value."""
        register = self.register
        covers = offset <= register.offset < offset + size
        return covers and size > register.size


class Decoder:
    """Decodes the accesses of one trace, which may go on.

    Args:
        devices: who answered where.
        exits: all exits of the trace so far, in the order of time.
        from_start: whether they begin where the machine did; if not, what was set before them is
            not known.
    """

    def __init__(self, devices: DeviceMap, exits: Records, *, from_start: bool) -> None:
        self.devices = devices
        self._histories = _histories(devices, from_start)
        self.add(exits)
        self._find = lru_cache(1 << 14)(devices.find)
        self._say = lru_cache(1 << 14)(_say)

    def add(self, exits: Records) -> None:
        """Take exits that came since."""
        writes = exits[(exits["flags"] & WRITE != 0) & np.isin(exits["reason"], _BUSES)]
        if len(writes):
            for name, histories in self._histories.items():
                if histories is not None and not all(h.add(writes) for h in histories):
                    self._histories[name] = None

    def forget(self, time_ns: int) -> None:
        """Exits are missing from then on."""
        for histories in self._histories.values():
            for history in histories or ():
                history.forget(time_ns)

    def know(self, held: Mapping[str, Mapping[str, int]], time_ns: int) -> None:
        """Say what registers that select others held at a moment, by device and name, when all
        exits up to then were taken."""
        for name, histories in self._histories.items():
            for history in histories or ():
                value = held.get(name, {}).get(history.register.name)
                if value is not None:
                    history.know(value, time_ns)

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

    def selected(
        self, reason: int, address: int, size: int, write: bool
    ) -> Callable[[int], object] | None:
        """What tells accesses of a kind apart by their time: accesses with one value, for whose
        times this gives the same, mean the same. None where the time does not matter."""
        place = self._find(reason, address)
        histories = None if place is None else self._histories.get(place.name)
        if place is None or place.table is None or not histories:
            return None
        offset = address - place.base
        if not any(
            one.when is not None and one.offset < offset + size and offset < one.offset + one.size
            for one in place.table
        ):
            return None
        if len(histories) == 1:
            return histories[0].at
        return lambda time_ns: tuple([history.at(time_ns) for history in histories])

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


def _histories(devices: DeviceMap, from_start: bool) -> dict[str, tuple[_History, ...] | None]:
    """By device, what selects among its registers; None where that cannot be told."""
    made: dict[str, dict[str, _History] | None] = {}
    for place in devices.places:
        registers = None if place.table is None else selectors(place.table)
        if registers is None:
            made[place.name] = None
            continue
        histories = made.setdefault(place.name, {})
        for register in registers:
            address = place.base + register.offset
            if histories is not None and place.start <= address < place.end:
                before = register.reset if from_start else None
                history = _History(register, _REASONS[place.bus], address, before)
                histories[register.name] = history
    return {
        name: None if histories is None else tuple(histories.values())
        for name, histories in made.items()
    }


def selectors(table: RegisterTable) -> list[Register] | None:
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
