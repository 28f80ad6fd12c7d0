"""Where virtio devices lie: one slot of the address map and one interrupt line each.

The lines behind the ISA interrupts come first; a machine with more devices than those takes what a
PC leaves free of the others. All of them are edges, and no two devices share one.
"""

from __future__ import annotations

from devices.records import Record

__all__ = ["SLOTS", "SLOT_SIZE", "Slot"]

SLOT_SIZE = 0x1000
_FIRST = 0xD000_0000
_LINES = (*range(16, 24), 5, 10, 11, 6, 7, 3)


class Slot(Record):
    """The place of one device: `size` bytes at guest-physical address `gpa`, and line `gsi`."""

    number: int
    gpa: int
    size: int
    gsi: int


SLOTS = tuple(Slot(n, _FIRST + n * SLOT_SIZE, SLOT_SIZE, gsi) for n, gsi in enumerate(_LINES))
"""All there are, in the order in which they are taken."""
