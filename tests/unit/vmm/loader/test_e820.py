from __future__ import annotations

from itertools import pairwise

import pytest

from vmm.layout import MemoryLayout
from vmm.loader.e820 import E820Entry, conventional_end, e820

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def entries(size: int) -> list[tuple[int, int, int]]:
    return [(e.start, e.size, e.type) for e in e820(MemoryLayout.for_size(size))]


def test_a_small_pc() -> None:
    assert entries(16 * MIB) == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xF0000, 0x10000, 2),
        (0x100000, 15 * MIB, 1),
    ]


def test_memory_beyond_the_hole() -> None:
    assert entries(4 * GIB)[-2:] == [(MIB, 3 * GIB - MIB, 1), (4 * GIB, GIB, 1)]


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB, 0x9F000])
def test_less_than_640_kib(size: int) -> None:
    assert entries(size) == [(0, size, 1), (0xF0000, 0x10000, 2)]


def test_nothing_above_1_mib() -> None:
    assert [e for e in entries(MIB) if e[2] == 1] == [(0, 0x9FC00, 1)]


@pytest.mark.parametrize("size", [4 * KIB, 640 * KIB, MIB, MIB + 4096, 3 * GIB, 8 * GIB])
def test_ascending_without_overlaps_and_ram_is_ram(size: int) -> None:
    layout = MemoryLayout.for_size(size)
    found = e820(layout)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert all(layout.contains(e.start, e.size) for e in found if e.type == 1)


def test_conventional_memory_ends_under_the_ebda() -> None:
    assert conventional_end(MemoryLayout.for_size(64 * KIB)) == 64 * KIB
    assert conventional_end(MemoryLayout.for_size(GIB)) == 639 * KIB
    assert E820Entry(0x1000, 0x2000, 1).end == 0x3000
