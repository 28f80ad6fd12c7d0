"""Page tables of long mode that map every address to itself.

Every entry allows writing and execution. The accessed and dirty bits are set from the start, so
that the processor leaves the tables alone and a dirty log shows only what the guest wrote.

Spec: AMD64 APM vol. 2, Page Translation and Protection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

__all__ = ["GIB", "KIB", "MIB", "TABLES_SIZE", "identity_map", "tables_size"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_TABLE_SIZE = 4 * KIB
_ENTRIES = 512
_PML4_SHIFT = 39
_PAGE_SHIFTS = {4 * KIB: 12, 2 * MIB: 21, GIB: 30}

_PRESENT, _WRITE, _USER = 1 << 0, 1 << 1, 1 << 2
_ACCESSED, _DIRTY, _LARGE = 1 << 5, 1 << 6, 1 << 7


def _tables_per_level(size: int, page_size: int) -> list[int]:
    """How many tables each level takes, the PML4 first.

    Raises:
        ValueError: no such page size, or a size that is not made of such pages.
    """
    shift = _PAGE_SHIFTS.get(page_size)
    if shift is None:
        raise ValueError(f"page size {page_size:#x}: only 4 KiB, 2 MiB and 1 GiB exist")
    if not 0 < size <= _ENTRIES << _PML4_SHIFT or size % page_size:
        raise ValueError(f"size {size:#x} is not 1 page to 256 TiB in pages of {page_size:#x}")
    return [
        -(-size // (_ENTRIES << level_shift)) for level_shift in range(_PML4_SHIFT, shift - 1, -9)
    ]


def tables_size(size: int = 4 * GIB, *, page_size: int = 2 * MIB) -> int:
    """Return how many bytes `identity_map` returns for the same arguments.

    Raises:
        ValueError: as `identity_map`.
    """
    return sum(_tables_per_level(size, page_size)) * _TABLE_SIZE


TABLES_SIZE = tables_size()
"""Bytes of the default map, 4 GiB in pages of 2 MiB: 24 KiB."""


def identity_map(
    base_gpa: int, size: int = 4 * GIB, *, user: bool = False, page_size: int = 2 * MIB
) -> bytes:
    """Return page tables that map the first `size` bytes to themselves.

    They are to be written at guest-physical address `base_gpa`, which is also the value for CR3:
    the PML4 comes first, then the tables of each level below. `page_size` is 4 KiB, 2 MiB or
    1 GiB (the last needs a processor with CPUID Page1GB). `user` lets CPL 3 in; the bit has to be
    set at every level.

    Raises:
        ValueError: `base_gpa` is not a multiple of 4 KiB or beyond 52 bits, `page_size` is none
            of the three, or `size` is not a multiple of it between one page and 256 TiB.

    Spec: AMD64 APM vol. 2, Long-Mode Page Translation.
    """
    if base_gpa % _TABLE_SIZE or not 0 <= base_gpa < 1 << 52:
        raise ValueError(f"page tables at {base_gpa:#x}: not a 4 KiB frame")
    counts = _tables_per_level(size, page_size)
    flags = _PRESENT | _WRITE | _ACCESSED | (_USER if user else 0)
    result = bytearray()
    next_level = base_gpa
    for count, below in pairwise(counts):
        next_level += count * _TABLE_SIZE
        result += _tables(count, (next_level + i * _TABLE_SIZE | flags for i in range(below)))
    flags |= _DIRTY | (_LARGE if page_size > _TABLE_SIZE else 0)
    result += _tables(counts[-1], (page | flags for page in range(0, size, page_size)))
    return bytes(result)


def _tables(count: int, entries: Iterable[int]) -> bytes:
    """`count` tables that hold `entries` one after the other, the rest not present."""
    packed = b"".join(map(struct.Struct("<Q").pack, entries))
    return packed.ljust(count * _TABLE_SIZE, b"\0")
