from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState
from vmm.explain.page_walk import read_linear, walk

P, W, U, PS, NX = 1, 2, 4, 0x80, 1 << 63
WP, NXE, SMEP, SMAP, PSE = 1 << 16, 1 << 11, 1 << 20, 1 << 21, 1 << 4


def test_without_paging_addresses_are_physical(guest: Any) -> None:
    step = walk(guest.real(), guest.read, 0x1_2345)
    assert (step.gpa, step.ok, step.entries) == (0x1_2345, True, ())
    assert walk(guest.protected(), guest.read, 0x1_0000_0004).gpa == 4


def test_4_levels_with_4k_pages(guest: Any) -> None:
    state = guest.long()
    gva = 0xFFFF_8000_0040_1ABC  # PML4 0x100, PDPT 0, PD 2, PT 1
    guest.u64(guest.PML4 + 0x100 * 8, guest.PDPT | P | W)
    guest.u64(guest.PD + 2 * 8, guest.PT | P | W)
    guest.u64(guest.PT + 8, 0x7000 | P | W)
    step = walk(state, guest.read, gva, "write")
    assert step.gpa == 0x7ABC
    assert [(e.table, e.index, e.maps) for e in step.entries] == [
        ("PML4", 0x100, 0), ("PDPT", 0, 0), ("PD", 2, 0), ("PT", 1, 4096),
    ]  # fmt: skip
    assert step.entries[3].gpa == guest.PT + 8
    assert step.lines()[-1] == "leads to guest-physical 0x7abc"


@pytest.mark.parametrize(("level", "low"), [("PDPT", 30), ("PD", 21)])
def test_large_pages(guest: Any, level: str, low: int) -> None:
    state = guest.long()
    size = 1 << low
    if level == "PDPT":
        guest.u64(guest.PDPT + 8, size | P | PS)
        gva = size + 0x1234
    else:
        guest.u64(guest.PD + 8, size | P | PS)
        gva = size + 0x1234
    step = walk(state, guest.read, gva)
    assert step.gpa == size + 0x1234
    assert step.entries[-1].maps == size
    # Address bits below the page's size are reserved, down to bit 13.
    table = guest.PDPT if level == "PDPT" else guest.PD
    guest.u64(table + 8, size | 1 << 13 | P | PS)
    assert f"reserved bits 0x2000 are set in {level}" in walk(state, guest.read, gva).stop


def test_5_levels(guest: Any) -> None:
    state = guest.long(cr4=0x20 | 1 << 12)
    guest.u64(0x14000, guest.PML4 | P | W)
    state = replace(state, cr3=0x14000)
    step = walk(state, guest.read, 0x1000)
    assert [e.table for e in step.entries] == ["PML5", "PML4", "PDPT", "PD"]
    assert step.gpa == 0x1000
    # 57 bits of address: the one that 4 levels refuse is canonical here.
    assert "canonical" not in walk(state, guest.read, 0x00FF_0000_0000_0000).stop
    assert "canonical" in walk(state, guest.read, 0x0100_0000_0000_0000).stop


def test_pae(guest: Any) -> None:
    state = guest.protected(cr0=0x8000_0011, cr4=0x20, cr3=0x10020)
    guest.u64(0x10020 + 3 * 8, guest.PD | P)
    guest.u64(guest.PD + 8, 0x40_0000 | P | W | PS)
    step = walk(state, guest.read, 0xC020_0123, "write")
    assert [(e.table, e.index) for e in step.entries] == [("PDPT", 3), ("PD", 1)]
    assert step.gpa == 0x40_0123
    # R/W is reserved in the directory pointers of PAE.
    guest.u64(0x10020 + 3 * 8, guest.PD | P | W)
    assert "reserved bits 0x2 are set in PDPT" in walk(state, guest.read, 0xC020_0123).stop


@pytest.mark.parametrize("pse", [False, True])
def test_32_bit_paging(guest: Any, pse: bool) -> None:
    state = guest.protected(cr0=0x8000_0011, cr4=PSE if pse else 0, cr3=0x10000)
    guest.u32(0x10000 + 0x300 * 4, guest.PT | P | W | PS)
    guest.u32(guest.PT + 5 * 4, 0x9000 | P | W)
    step = walk(state, guest.read, 0xC000_5010)
    if pse:
        # Bits 20:13 of the entry are bits 39:32 of the address (0x13000: 9 and a half).
        assert "PT" not in [e.table for e in step.entries]
        assert step.entries[0].maps == 4 << 20
        assert step.gpa == (0x13000 >> 13 & 0xFF) << 32 | 0x5010
    else:
        assert step.gpa == 0x9010


@pytest.mark.parametrize(
    ("table", "value", "stop"),
    [
        ("PML4", 0, "not present: PML4 entry 0x0"),
        ("PDPT", 0xF00, "not present: PDPT entry 0x0 is 0xf00"),
        ("PML4", 0x11000 | P | PS, "reserved bits 0x80 are set in PML4"),
        ("PD", 0x20_0000_0000_0000 | P, "leads nowhere"),
        ("PD", NX | P | PS, "reserved bits 0x8000000000000000 are set in PD"),
        ("PML4", 0x4000_0000 | P, "the PDPT at guest-physical 0x40000000 is not in memory"),
    ],
)
def test_what_stops_a_walk(guest: Any, table: str, value: int, stop: str) -> None:
    state = guest.long()
    guest.u64(getattr(guest, table), value)
    step = walk(state, guest.read, 0x1000)
    if stop == "leads nowhere":  # bits 62:52 are the system's own in long mode
        assert "reserved" not in step.stop
        return
    assert not step.ok
    assert not step.mapped
    assert step.gpa is None
    assert stop in step.stop


def test_physical_address_bits_above_the_guests_are_reserved(guest: Any) -> None:
    state = guest.long()
    guest.u64(guest.PD, 1 << 41 | P | PS)
    assert walk(state, guest.read, 0).gpa == 1 << 41
    assert "reserved" in walk(state, guest.read, 0, physical_bits=40).stop


@pytest.mark.parametrize(
    ("entry", "access", "cpl", "extra", "stop"),
    [
        (P, "read", 3, {}, "supervisor"),
        (P | U, "read", 3, {}, ""),
        (P | U, "write", 3, {}, "write-protected"),
        (P, "write", 0, {}, ""),
        (P, "write", 0, {"cr0": 0x8000_0011 | WP}, "write-protected"),
        (P | W, "write", 0, {"cr0": 0x8000_0011 | WP}, ""),
        (P | NX, "execute", 0, {"efer": 0x500 | NXE}, "NX"),
        (P | NX, "read", 0, {"efer": 0x500 | NXE}, ""),
        (P | U, "execute", 0, {"cr4": 0x20 | SMEP}, "SMEP"),
        (P | U, "read", 0, {"cr4": 0x20 | SMAP}, "SMAP"),
        (P | U, "read", 0, {"cr4": 0x20 | SMAP, "rflags": 1 << 18}, ""),
        (P, "read", 0, {"cr4": 0x20 | SMAP}, ""),
    ],
)
def test_protection(
    guest: Any, entry: int, access: Any, cpl: int, extra: dict[str, int], stop: str
) -> None:
    state = guest.long(**extra)
    guest.u64(guest.PD, entry | PS)
    step = walk(state, guest.read, 0x1000, access, cpl=cpl)
    assert step.mapped
    assert step.ok == (not stop)
    assert stop in step.stop
    assert (step.gpa == 0x1000) == step.ok


def test_an_upper_level_takes_a_right_away(guest: Any) -> None:
    state = guest.long()
    guest.u64(guest.PML4, guest.PDPT | P | W)
    assert "supervisor" in walk(state, guest.read, 0x1000, cpl=3).stop


@given(
    cr0=st.integers(0, 2**32 - 1),
    cr3=st.integers(0, 2**64 - 1),
    cr4=st.integers(0, 2**32 - 1),
    efer=st.integers(0, 2**16 - 1),
    gva=st.integers(0, 2**64 - 1),
    fill=st.binary(min_size=8, max_size=64),
)
@settings(max_examples=200, deadline=None)
def test_no_state_and_no_table_raises(
    cr0: int, cr3: int, cr4: int, efer: int, gva: int, fill: bytes
) -> None:
    state = CpuState(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)

    def read(gpa: int, size: int) -> bytes:
        if gpa >> 40:
            raise GuestAddressError
        return (fill * (size // len(fill) + 2))[gpa % len(fill) :][:size]

    step = walk(state, read, gva, "write")
    assert (step.gpa is None) == bool(step.stop)
    assert len(step.entries) <= 5
    assert len(read_linear(state, read, gva, 32)) <= 32
    assert all(line for line in step.lines())


def test_read_linear_crosses_pages_and_stops_at_a_hole(guest: Any) -> None:
    state = guest.long()
    guest.u64(guest.PD, guest.PT | P | W | U)
    guest.u64(guest.PT + 8, 0x7000 | P)
    guest.u64(guest.PT + 16, 0x3000 | P)
    guest.write(0x7FFC, b"abcd")
    guest.write(0x3000, b"efgh")
    assert read_linear(state, guest.read, 0x1FFC, 8) == b"abcdefgh"
    assert len(read_linear(state, guest.read, 0x2FFC, 8)) == 4
    assert read_linear(state, guest.read, 0x5000, 8) == b""


def test_read_linear_looks_where_smap_forbids_the_guest(guest: Any) -> None:
    state = guest.long(cr4=0x20 | SMAP)
    guest.write(0x1000, b"code")
    assert read_linear(state, guest.read, 0x1000, 4) == b"code"


def test_read_linear_takes_what_is_left_before_the_end_of_memory(guest: Any) -> None:
    guest.bytes = guest.bytes[:0x1004]
    assert len(read_linear(guest.protected(), guest.read, 0x1000, 16)) == 4


def test_bit_7_of_a_last_level_entry_is_pat_and_not_a_size(guest: Any) -> None:
    state = guest.long()
    guest.u64(guest.PD, guest.PT | P)
    guest.u64(guest.PT + 8, 0x7000 | P | W | PS)
    step = walk(state, guest.read, 0x1000)
    assert step.gpa == 0x7000
    assert step.entries[-1].flags == "P W"
    guest.u64(guest.PD, P | W | U | PS | NX)
    nx = walk(guest.long_unmapped(efer=0x500 | NXE), guest.read, 0x1000)
    assert nx.entries[-1].flags == "P W U PS NX"
