"""The generation ID of a machine: 128 random bits in its memory, by which a guest notices that it
is a copy and draws anew what must not be the same twice (its random numbers first of all).

A machine whose operating system was left tables of the firmware's has one. Every machine that is
made of a snapshot, and every fork, gets a new one, and the guest is told by an interrupt. The same
machine that is reset keeps it: what it does is the same again, as it is meant to be.

Spec: Virtual Machine Generation ID (Microsoft), "Generation ID"; ACPI, "Generic Event Device".
"""

from __future__ import annotations

import os

from devices.wiring import GuestAddressError
from vmm.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uuid import UUID

    from vmm.machine import Machine

__all__ = ["SETTING", "generation_id", "renew_generation"]

SETTING = "generation"
"""The setting of a machine that says where its ID is and which interrupt tells of a new one."""
_SIZE = 16


def generation_id(machine: Machine) -> UUID | None:
    """The machine's generation ID; None where it has none."""
    where = machine.settings.get(SETTING)
    if where is None:
        return None
    from uuid import UUID

    gpa, _ = _place(where)
    return UUID(bytes_le=machine.memory.read(gpa, _SIZE))


def renew_generation(machine: Machine) -> None:
    """Give a machine that was made of a snapshot another generation ID, and tell its guest.

    Raises:
        SnapshotError: the snapshot says that it is where it cannot be.
    """
    where = machine.settings.get(SETTING)
    if where is None:
        return
    gpa, gsi = _place(where)
    try:
        machine.memory.write(gpa, os.urandom(_SIZE))
    except GuestAddressError as error:
        raise SnapshotError(f"the snapshot's generation ID: {error}") from None
    line = machine.irq(gsi)
    line(True)  # an edge
    line(False)


def _place(where: object) -> tuple[int, int]:
    match where:
        case [int() as gpa, int() as gsi] if gpa >= 0 and 0 <= gsi < 24:
            return gpa, gsi
    raise SnapshotError(f"the snapshot's generation ID cannot be at {where!r}")
