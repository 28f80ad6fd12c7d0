"""The memory map of a PC: what a guest asks INT 15h E820 or reads in the multiboot information.

The map says what is usable RAM. Two pieces below 1 MiB are not, as on any PC: the extended BIOS
data area under 640 KiB and the BIOS itself. The video window between them is not listed at all;
neither is the hole below 4 GiB.
"""

from __future__ import annotations

from devices.records import Record
from vmm.layout import MemoryLayout

__all__ = ["EBDA_START", "RAM", "RESERVED", "E820Entry", "conventional_end", "e820"]

RAM = 1
"""E820 type: memory that the guest may use."""
RESERVED = 2
"""E820 type: memory that the guest must leave alone."""

EBDA_START = 0x9FC00
"""Conventional memory ends here: the last KiB under 640 KiB is the extended BIOS data area."""
_VIDEO_START = 0xA0000
_BIOS_START = 0xF0000
_ONE_MIB = 0x100000


class E820Entry(Record):
    """`size` bytes from guest-physical address `start` are of `type` (1 RAM, 2 reserved)."""

    start: int
    size: int
    type: int

    @property
    def end(self) -> int:
        """The first address behind the entry."""
        return self.start + self.size


def conventional_end(layout: MemoryLayout) -> int:
    """Return the first address behind the usable RAM that starts at 0 (639 KiB at most)."""
    return min(layout.low_end, EBDA_START)


def e820(layout: MemoryLayout) -> tuple[E820Entry, ...]:
    """Return the memory map of a machine with `layout`, ascending and without overlaps.

    Spec: ACPI 6.5, INT 15H, E820H - Query System Address Map.
    """
    entries = [E820Entry(0, conventional_end(layout), RAM)]
    if layout.low_end > EBDA_START:
        entries.append(E820Entry(EBDA_START, _VIDEO_START - EBDA_START, RESERVED))
    entries.append(E820Entry(_BIOS_START, _ONE_MIB - _BIOS_START, RESERVED))
    for ram in layout.ranges:
        start = max(ram.start, _ONE_MIB)
        if start < ram.end:
            entries.append(E820Entry(start, ram.end - start, RAM))
    return tuple(entries)
