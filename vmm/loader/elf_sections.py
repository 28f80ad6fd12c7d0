"""An ELF kernel's section headers, handed to the kernel with its boot information.

Kernels read their own symbols through them to name the functions of a backtrace. The symbol and
string tables are not part of any segment, so they are put into free memory and the headers of
these sections are told where. Debug information is left out: it is often larger than the machine.

A table that is malformed or does not fit is left out whole: the kernel boots without.

Spec: Multiboot2 2.0, ELF-Symbols; Multiboot 0.6.96, Boot information format (flags bit 5).
"""

from __future__ import annotations

import struct

from devices.records import Record
from vmm.errors import BootError
from vmm.loader.elf import Elf
from vmm.loader.placement import Placement

__all__ = ["SectionHeaders", "place_sections"]

_SHT_SYMTAB, _SHT_STRTAB = 2, 3
_SHF_ALLOC = 2
_ALIGN = 16
_WHAT = "the symbol tables"

_ENTRIES = {32: struct.Struct("<IIIIIIIIII"), 64: struct.Struct("<IIQQQQIIQQ")}
"""name, type, flags, addr, offset, size, link, info, addralign, entsize."""
_ADDR = 3


class SectionHeaders(Record):
    """The table as the kernel gets it: `count` headers of `entry_size` bytes."""

    table: bytes
    entry_size: int
    count: int
    names_index: int
    """Which section holds the sections' names."""


def place_sections(
    elf: Elf, image: memoryview, placement: Placement, *, prefer: int
) -> SectionHeaders | None:
    """Put symbol and string tables into memory (from `prefer` up) and return the headers.

    None: the file has no section headers, they are malformed, or there is no room.
    """
    offset, entry_size, count, names_index = elf.section_table
    entry = _ENTRIES[elf.bits]
    if not count or entry_size != entry.size or names_index >= count:
        return None
    if offset + count * entry.size > len(image):
        return None
    headers = [list(entry.unpack_from(image, offset + i * entry.size)) for i in range(count)]
    loaded: list[tuple[list[int], memoryview]] = []
    room = 0
    for header in headers:
        _, kind, flags, _, start, size = header[:6]
        if kind not in (_SHT_SYMTAB, _SHT_STRTAB) or flags & _SHF_ALLOC or not size:
            continue
        if start + size > len(image):
            return None
        header[_ADDR] = room
        loaded.append((header, image[start : start + size]))
        room += -(-size // _ALIGN) * _ALIGN
    if room:
        try:
            base = placement.allocate(room, _WHAT, align=_ALIGN, prefer=prefer)
        except BootError:
            return None
        for header, data in loaded:
            header[_ADDR] += base
            placement.put(header[_ADDR], data, _WHAT)
    table = b"".join(entry.pack(*header) for header in headers)
    return SectionHeaders(table, entry_size, count, names_index)
