"""Segments and descriptors, checked against a decoder of their own and against known values."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware import gdt
from firmware.gdt import (
    SEGMENTS,
    Segment,
    boot_segments,
    descriptor,
    flat_gdt,
    real_mode_segment,
    tss_segment,
)


def decode(raw: bytes) -> dict[str, int]:
    """Take a descriptor apart by its bytes, as a processor manual draws them."""
    limit_low, base_low, base_mid, access, flags, base_high = struct.unpack("<HHBBBB", raw)
    return {
        "base": base_low | base_mid << 16 | base_high << 24,
        "limit": limit_low | (flags & 0x0F) << 16,
        "type": access & 0x0F,
        "s": access >> 4 & 1,
        "dpl": access >> 5 & 3,
        "present": access >> 7,
        "avl": flags >> 4 & 1,
        "l": flags >> 5 & 1,
        "db": flags >> 6 & 1,
        "g": flags >> 7,
    }


def entry(table: bytes, selector: int) -> bytes:
    start = selector & ~7
    return table[start : start + 8]


BIT = st.integers(0, 1)
FIELDS = st.fixed_dictionaries(
    {
        "base": st.integers(0, 2**32 - 1),
        "limit": st.integers(0, 2**20 - 1),
        "type": st.integers(0, 15),
        "s": BIT,
        "dpl": st.integers(0, 3),
        "present": BIT,
        "avl": BIT,
        "l": BIT,
        "db": BIT,
        "g": BIT,
    }
)


@given(FIELDS)
def test_descriptor_decodes_to_what_it_was_made_of(fields: dict[str, int]) -> None:
    assert decode(descriptor(**fields).to_bytes(8, "little")) == fields


@pytest.mark.parametrize(
    ("name", "width"),
    [("base", 32), ("limit", 20), ("type", 4), ("dpl", 2)]
    + [(bit, 1) for bit in ("s", "present", "avl", "l", "db", "g")],
)
def test_descriptor_refuses_a_value_too_wide(name: str, width: int) -> None:
    fields = {"base": 0, "limit": 0, "type": 0, name: 1 << width}
    with pytest.raises(ValueError, match=f"{name} 0x[0-9a-f]+ does not fit {width} bits"):
        descriptor(**fields)
    with pytest.raises(ValueError, match=name):
        descriptor(**{**fields, name: -1})


# The values that kernels and tutorials write for flat segments, accessed bit set.
@pytest.mark.parametrize(
    ("selector", "value"),
    [
        (0x00, 0),
        (0x08, 0x00CF9B000000FFFF),
        (0x10, 0x00CF93000000FFFF),
        (0x18, 0x00AF9B000000FFFF),
        (0x20, 0x00CFFB000000FFFF),
        (0x28, 0x00CFF3000000FFFF),
        (0x30, 0x00AFFB000000FFFF),
    ],
)
def test_flat_table_has_the_usual_descriptors(selector: int, value: int) -> None:
    assert int.from_bytes(entry(flat_gdt(), selector), "little") == value


def test_selectors() -> None:
    assert (gdt.KERNEL_CODE32, gdt.KERNEL_DATA, gdt.KERNEL_CODE64) == (0x08, 0x10, 0x18)
    assert (gdt.USER_CODE32, gdt.USER_DATA, gdt.USER_CODE64) == (0x23, 0x2B, 0x33)
    assert gdt.TSS == 0x38
    assert len(flat_gdt()) == gdt.GDT_SIZE == 0x48


def test_loaded_segments_say_what_the_table_says() -> None:
    table = flat_gdt()
    for selector, segment in SEGMENTS.items():
        fields = decode(entry(table, selector))
        assert segment.selector == selector
        assert segment.dpl == selector & 3
        assert (fields["limit"] << 12 | 0xFFF) == segment.limit == 0xFFFF_FFFF
        for name in ("base", "type", "s", "dpl", "present", "avl", "l", "db", "g"):
            assert fields[name] == getattr(segment, name), (hex(selector), name)
        assert not segment.unusable


def test_long_mode_code_never_has_both_l_and_d() -> None:
    assert not any(segment.l and segment.db for segment in SEGMENTS.values())


@pytest.mark.parametrize("long", [False, True])
def test_segments_of_the_boot_protocol(long: bool) -> None:
    table = flat_gdt(segments=boot_segments(long=long))
    code = 0x00AF9B000000FFFF if long else 0x00CF9B000000FFFF
    assert struct.unpack_from("<QQQQ", table) == (0, 0, code, 0x00CF93000000FFFF)
    assert (gdt.BOOT_CODE, gdt.BOOT_DATA) == (0x10, 0x18)


def test_no_tss_unless_asked_for() -> None:
    assert flat_gdt()[gdt.TSS :] == bytes(16)


@pytest.mark.parametrize("base", [0x1FE100, 0xFFFF_F000, 0xFFFF_8000_1234_5678])
def test_tss_descriptor_takes_sixteen_bytes(base: int) -> None:
    table = flat_gdt(tss_segment(base, 0x1234))
    low = decode(entry(table, gdt.TSS))
    high = int.from_bytes(table[gdt.TSS + 8 : gdt.TSS + 16], "little")
    assert high << 32 | low["base"] == base
    assert low["limit"] == 0x1233
    assert (low["type"], low["s"], low["present"], low["g"]) == (0xB, 0, 1, 0)


def test_tss_without_a_bitmap_ends_behind_its_last_field() -> None:
    assert tss_segment(0x1000).limit == 0x67


@pytest.mark.parametrize("code", [False, True])
def test_real_mode_segment(code: bool) -> None:
    segment = real_mode_segment(0xF000, code=code)
    assert (segment.base, segment.limit, segment.selector) == (0xF0000, 0xFFFF, 0xF000)
    assert (segment.type, segment.s, segment.present) == (0xB if code else 0x3, 1, 1)
    assert (segment.dpl, segment.db, segment.l, segment.g) == (0, 0, 0, 0)


@pytest.mark.parametrize("selector", [-1, 0x10000])
def test_real_mode_selector_has_sixteen_bits(selector: int) -> None:
    with pytest.raises(ValueError, match="16 bits"):
        real_mode_segment(selector)


def test_byte_granular_segment_keeps_its_limit() -> None:
    fields = decode(Segment(0x1000, 0xFFFF, 0x08, 0xB).descriptor.to_bytes(8, "little"))
    assert (fields["base"], fields["limit"], fields["g"]) == (0x1000, 0xFFFF, 0)
