"""The MP tables, read as a kernel reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.mp_table import mp_tables

GPA = 0xF_8000
SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


def read(cpus: int, **more) -> tuple[bytes, list[bytes]]:
    """The header of the configuration table, and its entries."""
    block = mp_tables(GPA, cpus=cpus, sci=9, **more)
    assert block[:4] == b"_MP_"
    assert (block[8], block[9], block[11], block[12]) == (1, 4, 0, 0)
    assert sum(block[:16]) % 256 == 0
    table = block[int.from_bytes(block[4:8], "little") - GPA :]
    assert table[:4] == b"PCMP"
    size, revision = struct.unpack_from("<HB", table, 4)
    assert (size, revision) == (len(table), 4)
    assert sum(table) % 256 == 0
    found, at = [], 44
    while at < size:
        found.append(table[at : at + SIZES[table[at]]])
        at += SIZES[table[at]]
    assert struct.unpack_from("<HI", table, 34) == (len(found), 0xFEE0_0000)
    assert sorted(e[0] for e in found) == [e[0] for e in found]
    return table[:44], found


@given(st.integers(1, 254))
def test_one_processor_boots_and_the_ids_are_unique(cpus):
    _, found = read(cpus, signature=0x800F12, features=0x178BFBFF)
    processors = [e for e in found if e[0] == 0]
    assert [e[1] for e in processors] == list(range(cpus))
    assert [e[3] for e in processors] == [3] + [1] * (cpus - 1)
    assert {struct.unpack_from("<II", e, 4) for e in processors} == {(0x800F12, 0x178BFBFF)}
    (ioapic,) = (e for e in found if e[0] == 2)
    assert ioapic[1] not in [e[1] for e in processors]
    assert (ioapic[1], ioapic[3]) == (cpus, 1)
    assert struct.unpack_from("<I", ioapic, 4) == (0xFEC0_0000,)
    assert {e[6] for e in found if e[0] == 3} == {cpus}


def test_lines_of_the_isa_bus():
    header, found = read(2)
    assert header[8:28] == b"GLASSVMMglassvm     "
    assert [e for e in found if e[0] == 1] == [b"\x01\x00ISA   "]
    lines = {e[5]: (e[1], struct.unpack_from("<H", e, 2)[0], e[7]) for e in found if e[0] == 3}
    assert set(lines) == set(range(16)) - {2}
    assert lines[0] == (0, 0, 2)
    assert lines[4] == (0, 0, 4)
    assert lines[9] == (0, 0b1101, 9)
    local = [(e[1], e[6], e[7]) for e in found if e[0] == 4]
    assert local == [(3, 0xFF, 0), (1, 0xFF, 1)]


@pytest.mark.parametrize(("gpa", "cpus"), [(GPA, 0), (GPA, 255), (GPA + 8, 1), (1 << 32, 1)])
def test_what_cannot_be_told_is_refused(gpa, cpus):
    with pytest.raises(ValueError, match="MP table"):
        mp_tables(gpa, cpus=cpus, sci=9)
