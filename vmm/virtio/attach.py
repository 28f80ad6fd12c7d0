"""Putting a virtio device into a machine (`Machine.add_virtio`)."""

from __future__ import annotations

import itertools

from vmm.errors import ConfigError
from vmm.virtio.place import VirtioPlace
from vmm.virtio_slots import SLOTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.virtio.device import VirtioDevice
    from vmm.machine import Machine

__all__ = ["attach"]


def attach(machine: Machine, device: VirtioDevice, name: str | None, *, exits: bool) -> VirtioPlace:
    """Put a device into the next slot (see `Machine.add_virtio`).

    Raises:
        ConfigError: there is none; or the device is in a machine already.
        MappingOverlap: something else is at its address.
    """
    number = len(machine.virtio)
    if number >= len(SLOTS):
        raise ConfigError(f"{device.name}: a machine has room for {len(SLOTS)} virtio devices")
    if device.transport is not None:
        raise ConfigError(f"{device.name} is in a machine already; make another one")
    slot = SLOTS[number]
    place = VirtioPlace(
        machine, device, slot, name or _free_name(machine, device.name), exits=exits
    )
    machine.add_device(place.registers, mmio=range(slot.gpa, slot.gpa + slot.size))
    machine.virtio.append(place)
    machine.pausables.append(place)
    place.wake()
    return place


def _free_name(machine: Machine, name: str) -> str:
    if name not in machine.devices:
        return name
    return next(f"{name}{n}" for n in itertools.count(1) if f"{name}{n}" not in machine.devices)
