"""Who answered at an address: from a trace's own description."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from devices.registers import RegisterTable
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from vmm.trace.tables import table_from_data

__all__ = ["DeviceMap", "Place"]

_BUSES = {KVM_EXIT_IO: "port", KVM_EXIT_MMIO: "MMIO"}
_MOST_PLACES = 1 << 16


class Place(NamedTuple):
    """Where a device answered: `start`..`end - 1` of a bus, offsets counted from `base`."""

    bus: str
    """"port" or "MMIO"."""
    start: int
    end: int
    base: int
    name: str
    table: RegisterTable | None


class DeviceMap:
    """The devices of one machine by address."""

    def __init__(self, places: Iterable[Place] = ()) -> None:
        self.places = sorted(places, key=lambda place: place[:2])
        self._of_bus: dict[str, list[Place]] = {bus: [] for bus in _BUSES.values()}
        for place in self.places:
            self._of_bus[place.bus].append(place)
        self._starts = {bus: [p.start for p in places] for bus, places in self._of_bus.items()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> DeviceMap:
        """Make the map of a trace's description.

        Raises:
            ValueError: it is not one.
        """
        devices = meta.get("devices", [])
        if not isinstance(devices, list) or len(devices) > _MOST_PLACES:
            raise ValueError("no list of devices")
        # A device that answers at several places has its registers with one of them.
        tables: dict[str, RegisterTable] = {}
        for entry in devices:
            if isinstance(entry, dict) and entry.get("registers") is not None:
                tables[str(entry.get("name"))] = table_from_data(entry["registers"])
        return cls(_place(entry, tables) for entry in devices)

    @property
    def names(self) -> list[str]:
        """The devices' names, each once."""
        return sorted({place.name for place in self.places})

    def find(self, reason: int, address: int) -> Place | None:
        """Who answers at an address; `reason` is KVM_EXIT_IO or KVM_EXIT_MMIO."""
        bus = _BUSES.get(reason)
        if bus is None:
            return None
        index = bisect_right(self._starts[bus], address) - 1
        place = self._of_bus[bus][index] if index >= 0 else None
        return place if place is not None and address < place.end else None

    def name_at(self, reason: int, address: int) -> str:
        """The name of who answers: "nobody" where no device is, "" for exits that have no address
        and for a trace that does not say which devices there were."""
        place = self.find(reason, address)
        if place is not None:
            return place.name
        return "nobody" if self.places and reason in _BUSES else ""


def _place(entry: Any, tables: Mapping[str, RegisterTable]) -> Place:
    try:
        bus, name = entry["bus"], entry["name"]
        start, end, base = entry["start"], entry["end"], entry["base"]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"no device: {error!r}") from None
    numbers = all(type(n) is int and 0 <= n < 1 << 62 for n in (start, end, base))
    if bus not in _BUSES.values() or type(name) is not str or not numbers:
        raise ValueError(f"no device: {name!r}")
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return Place(bus, start, end, base, shown, tables.get(name))
