"""The start block: what lies where, and that its parts agree with the registers."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from firmware.gdt import flat_gdt
from firmware.page_tables import identity_map
from firmware.start_tables import START_TABLES_SIZE, start_tables

GPA = 0x1F8000


def test_block_is_32_kib_of_page_tables_gdt_and_tss() -> None:
    tables = start_tables(GPA)
    assert len(tables.data) == START_TABLES_SIZE == 0x8000
    assert tables.gpa == tables.cr3 == GPA
    assert tables.data[:0x6000] == identity_map(GPA)
    gdt = tables.gdt_base - GPA
    assert tables.data[gdt : gdt + tables.gdt_limit + 1] == flat_gdt(tables.tr)


def test_parts_do_not_overlap() -> None:
    tables = start_tables(GPA)
    spans = [
        (GPA, GPA + 0x6000),
        (tables.gdt_base, tables.gdt_base + tables.gdt_limit + 1),
        (tables.tr.base, tables.tr.base + tables.tr.limit + 1),
    ]
    assert spans == sorted(spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= GPA + START_TABLES_SIZE


def test_user_reaches_every_page_only_when_asked() -> None:
    assert start_tables(GPA, user=True).data[:0x6000] == identity_map(GPA, user=True)
    assert start_tables(GPA).data[0] & 4 == 0
    assert start_tables(GPA, user=True).data[0] & 4 == 4


def test_table_describes_the_task_register() -> None:
    tables = start_tables(GPA)
    tss = tables.gdt_base - GPA + 0x38
    low, high = struct.unpack_from("<QQ", tables.data, tss)
    assert (low >> 16 & 0xFF_FFFF) | (low >> 56) << 24 == tables.tr.base
    assert low & 0xFFFF == tables.tr.limit
    assert low >> 40 & 0xFF == 0x8B  # present, system, busy TSS
    assert high == 0


@pytest.mark.parametrize(
    ("port", "size", "allowed"),
    [
        (0xF4, 4, True),
        (0x3F8, 1, True),
        (0x511, 1, True),
        (0xEFFC, 4, True),
        (0xEFFF, 1, True),
        (0xEFFF, 2, False),
        (0xF000, 1, False),
        (0xFFFF, 1, False),
    ],
)
def test_io_bitmap_opens_ports_to_cpl_3(port: int, size: int, allowed: bool) -> None:
    """The check of the processor: two bytes of the bitmap, inside the limit, bits clear."""
    tables = start_tables(GPA, user=True)
    tss = tables.data[tables.tr.base - GPA :][: tables.tr.limit + 1]
    (io_map,) = struct.unpack_from("<H", tss, 102)
    where = io_map + port // 8
    pair = tss[where : where + 2]
    bits = int.from_bytes(pair, "little") >> port % 8 & (1 << size) - 1
    assert (len(pair) == 2 and bits == 0) is allowed


def test_task_state_holds_no_stack() -> None:
    tables = start_tables(GPA)
    start = tables.tr.base - GPA
    assert tables.data[start : start + 102] == bytes(102)


@pytest.mark.parametrize("gpa", [-0x1000, 0x1_0000_0000 - 0x7000, 0x1_0000_0000])
def test_block_lies_below_four_gib(gpa: int) -> None:
    with pytest.raises(ValueError, match="below 4 GiB"):
        start_tables(gpa)


def test_block_lies_on_a_frame() -> None:
    with pytest.raises(ValueError, match="frame"):
        start_tables(0x1800)


def test_block_at_zero_and_at_the_end() -> None:
    assert start_tables(0).cr3 == 0
    last = start_tables((1 << 32) - START_TABLES_SIZE)
    assert last.tr.base + last.tr.limit < 1 << 32
