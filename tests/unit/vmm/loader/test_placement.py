from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.layout import MemoryLayout
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import START_TABLES_SIZE, BootOptions

MIB = 1 << 20
Options = Callable[..., BootOptions]


def test_puts_are_kept_in_order(options: Options) -> None:
    placement = Placement(options(), start_tables=False)
    placement.put(0x2000, b"two", "b")
    placement.put(0x1000, b"one", "a", zeros_after=5)
    placement.put(0x3000, b"", "nothing")
    assert [(w.gpa, w.data, w.size) for w in placement.writes] == [
        (0x2000, b"two", 3),
        (0x1000, b"one", 8),
    ]


def test_start_tables_are_the_last_32_kib_of_low_memory(options: Options) -> None:
    assert START_TABLES_SIZE == 32768
    placement = Placement(options(4 * MIB), start_tables=True)
    assert placement.start_tables == 4 * MIB - 32768
    placement.claim(4 * MIB - 32768 - 1, 1, "below")
    with pytest.raises(BootError, match=r"image at .* overlaps the machine's start tables"):
        placement.claim(4 * MIB - 32768, 1, "image")
    # The tables must be below 4 GiB, where a 32-bit GDT pointer reaches.
    high = Placement(options(5 << 30), start_tables=True)
    assert high.start_tables == (3 << 30) - 32768


def test_start_tables_need_memory(options: Options) -> None:
    with pytest.raises(BootError, match="memory of 32768 bytes is too small"):
        Placement(options(32768), start_tables=True)


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x1FFF, 1), (0x1000, 0x2000), (0, 0x2001), (0x1500, 1), (0x2FFF, 2)]
)
def test_overlaps_are_refused_naming_both(options: Options, gpa: int, size: int) -> None:
    placement = Placement(options(), start_tables=False)
    placement.claim(0x2000, 0x1000, "first")
    placement.claim(0x1000, 0x1000, "zeroth")
    with pytest.raises(BootError, match=r"k: new at .* overlaps (first|zeroth) at "):
        placement.claim(gpa, size, "new")


def test_neighbours_are_no_overlap(options: Options) -> None:
    placement = Placement(options(), start_tables=False)
    placement.claim(0x2000, 0x1000, "first")
    placement.claim(0x1000, 0x1000, "below")
    placement.claim(0x3000, 0x1000, "above")


@pytest.mark.parametrize("gpa", [4 * MIB, 4 * MIB - 1, 1 << 40, -1])
def test_outside_of_memory_tells_both_numbers(options: Options, gpa: int) -> None:
    placement = Placement(options(), start_tables=False)
    with pytest.raises(BootError, match=r"image of 2 bytes at .* ends at .*0x0\.\.0x400000"):
        placement.put(gpa, b"xx", "image")


def test_room_is_found_around_what_is_taken(options: Options) -> None:
    placement = Placement(options(), start_tables=False)
    assert placement.find(1) == 0x1000  # never page 0
    assert placement.find(0x9F000) is None or placement.find(0x9F000) == MIB
    placement.claim(0x1000, 0x1234, "a")
    assert placement.find(1) == 0x2234
    assert placement.find(1, align=0x1000) == 0x3000
    assert placement.find(1, floor=0x9FC00) == MIB  # not in the EBDA, video or BIOS
    assert placement.find(1, highest=True) == 4 * MIB - 1
    assert placement.find(0x10, highest=True, ceiling=0x8000, align=0x1000) == 0x7000
    assert placement.find(4 * MIB) is None


def test_allocate_prefers_but_does_not_insist(options: Options) -> None:
    placement = Placement(options(), start_tables=False)
    assert placement.allocate(0x1000, "x", prefer=2 * MIB) == 2 * MIB
    assert placement.allocate(0x1000, "x", prefer=4 * MIB) == 0x1000
    with pytest.raises(BootError, match="no room for x of 8388608 bytes in memory of 4194304"):
        placement.allocate(8 * MIB, "x")


SIZES = st.lists(
    st.tuples(st.integers(1, 0x60000), st.sampled_from([1, 8, 4096, 1 << 16]), st.booleans()),
    max_size=20,
)


@given(SIZES, st.integers(9, 600))
def test_found_room_is_free_aligned_and_usable(
    sizes: list[tuple[int, int, bool]], pages: int
) -> None:
    layout = MemoryLayout.for_size(pages * 4096)
    placement = Placement(BootOptions(layout), start_tables=True)
    for size, align, highest in sizes:
        gpa = placement.find(size, align=align, highest=highest)
        if gpa is None:
            continue
        assert gpa % align == 0
        assert not (gpa < 0x100000 and gpa + size > 0x9FC00)
        placement.claim(gpa, size, "x")  # raises if it is not free RAM


def test_strings_end_in_nul(options: Options) -> None:
    assert c_string("a=ä", "x", "k") == b"a=\xc3\xa4\0"
    assert c_string("\udcff", "x", "k") == b"\xff\0"  # bytes of argv that were not UTF-8
    with pytest.raises(BootError, match="k: x has a NUL"):
        c_string("a\0b", "x", "k")
    with pytest.raises(BootError, match="cannot be written as UTF-8"):
        c_string("\ud800", "x", "k")
