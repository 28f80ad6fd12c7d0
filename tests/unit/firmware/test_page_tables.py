"""Page tables, read back by a page walk written for the test."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.page_tables import GIB, KIB, MIB, TABLES_SIZE, identity_map, tables_size

BASE = 0x1F8000

# Declared anew, so that a mistyped bit in the source is seen.
PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE = 0x01, 0x02, 0x04, 0x20, 0x40, 0x80
ADDRESS = 0x000F_FFFF_FFFF_F000


def walk(tables: bytes, base: int, address: int) -> tuple[int, list[int]] | None:
    """Translate as the processor does: (physical address, the entries on the way), or None."""
    table, entries = base, []
    for shift in (39, 30, 21, 12):
        place = table - base + (address >> shift & 511) * 8
        entry = int.from_bytes(tables[place : place + 8], "little")
        if not entry & PRESENT:
            return None
        entries.append(entry)
        offset_mask = (1 << shift) - 1
        if shift == 12 or (shift < 39 and entry & LARGE):
            frame = entry & ADDRESS
            assert frame & offset_mask == 0, "reserved bits of a large page are set"
            return frame | (address & offset_mask), entries
        table = entry & ADDRESS
    raise AssertionError("a walk ends at the last level")


@pytest.fixture(scope="module")
def default_map() -> bytes:
    return identity_map(BASE)


def test_default_takes_24_kib(default_map: bytes) -> None:
    assert len(default_map) == TABLES_SIZE == 24 * 1024


@given(address=st.integers(0, 4 * GIB - 1))
def test_default_maps_four_gib_to_themselves(default_map: bytes, address: int) -> None:
    found = walk(default_map, BASE, address)
    assert found is not None
    assert found[0] == address
    assert len(found[1]) == 3
    assert found[1][-1] & LARGE


def test_nothing_behind_is_mapped(default_map: bytes) -> None:
    for address in (4 * GIB, 4 * GIB + 0x180000, 512 * GIB, (1 << 48) - 1):
        assert walk(default_map, BASE, address) is None


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(
    ("size", "page_size", "levels"),
    [(4 * MIB, 4 * KIB, 4), (2 * GIB, 2 * MIB, 3), (600 * GIB, GIB, 2)],
)
def test_rights_at_every_level(user: bool, size: int, page_size: int, levels: int) -> None:
    tables = identity_map(BASE, size, user=user, page_size=page_size)
    for address in (0, size // 2 + 0x123, size - 1):
        found = walk(tables, BASE, address)
        assert found is not None
        assert found[0] == address
        assert len(found[1]) == levels
        for entry in found[1]:
            assert entry & (PRESENT | WRITE | ACCESSED) == PRESENT | WRITE | ACCESSED
            assert bool(entry & USER) is user
            assert not entry >> 63, "no-execute is not set"
        assert found[1][-1] & DIRTY
        assert bool(found[1][-1] & LARGE) is (page_size > 4 * KIB)
        assert not any(entry & LARGE for entry in found[1][:-1])
    assert walk(tables, BASE, size) is None


@settings(max_examples=40)
@given(
    pages=st.integers(1, 3000),
    page_size=st.sampled_from([4 * KIB, 2 * MIB, GIB]),
    frame=st.integers(0, 1 << 30),
    data=st.data(),
)
def test_any_size_anywhere(pages: int, page_size: int, frame: int, data: st.DataObject) -> None:
    base, size = frame * 4096, pages * page_size
    tables = identity_map(base, size, page_size=page_size)
    assert len(tables) == tables_size(size, page_size=page_size)
    address = data.draw(st.integers(0, size - 1))
    found = walk(tables, base, address)
    assert found is not None
    assert found[0] == address
    assert walk(tables, base, size) is None


@pytest.mark.parametrize("base", [1, 0x1F8800, -4096, 1 << 52])
def test_tables_lie_on_a_frame(base: int) -> None:
    with pytest.raises(ValueError, match="not a 4 KiB frame"):
        identity_map(base)


@pytest.mark.parametrize("size", [0, -(2 * MIB), 2 * MIB + 4096, (1 << 48) + GIB])
def test_sizes_that_cannot_be_mapped(size: int) -> None:
    with pytest.raises(ValueError, match="is not 1 page to 256 TiB"):
        identity_map(BASE, size)


def test_page_sizes_are_those_of_the_processor() -> None:
    with pytest.raises(ValueError, match="only 4 KiB, 2 MiB and 1 GiB exist"):
        identity_map(BASE, page_size=4 * MIB)
