"""Devices that are made when somebody first wants them.

A PC has a dozen devices and a guest touches a few of them, in any order or never. A device that is
late stands on the bus from the beginning under its name; its module is imported and the device is
made when the guest first touches it or the host first asks for it. Nobody can tell the difference:
`make` is to give what the device would be had it been made at power-on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from devices.protocols import Device

__all__ = ["Devices", "LateDevice"]


class LateDevice:
    """The place of a device until it is wanted.

    Args:
        name: the device's.
        make: makes the device; called once, with the lock held.
        lock: the machine's device lock.
    """

    def __init__(self, name: str, make: Callable[[], Device], lock: threading.RLock) -> None:
        self.name = name
        self._make = make
        self._lock = lock
        self._made: Device | None = None

    @property
    def made(self) -> bool:
        """Whether somebody has wanted the device already."""
        return self._made is not None

    @property
    def device(self) -> Device:
        """The device; it is made now if it was not."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made

    def replace(self, device: Device) -> None:
        """Let another device take its place; what a bus has remembered is the caller's matter."""
        self._made = device


class Devices(Mapping[str, "Device"]):
    """The devices of a machine by name. To look at one makes it, to look at names makes none."""

    def __init__(self) -> None:
        self._places: dict[str, Device | LateDevice] = {}

    def add(self, device: Device | LateDevice) -> None:
        """Take a device in; it replaces one of the same name."""
        self._places[device.name] = device

    def places(self) -> list[Device | LateDevice]:
        """The devices, those that are late as their places."""
        return list(self._places.values())

    def made(self) -> list[Device]:
        """The devices that there are already: those that nobody has wanted yet are left out."""
        return [
            place.device if isinstance(place, LateDevice) else place
            for place in self._places.values()
            if not isinstance(place, LateDevice) or place.made
        ]

    def __getitem__(self, name: str) -> Device:
        place = self._places[name]
        return place.device if isinstance(place, LateDevice) else place

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
