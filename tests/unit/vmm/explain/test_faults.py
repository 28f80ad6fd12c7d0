from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState, DescriptorTable, Segment
from vmm.explain.faults import likely_fault

pytest.importorskip("capstone")

FXSR = 0x20 | 1 << 9


@pytest.mark.parametrize(
    ("code", "changes", "vector", "reason"),
    [
        ("0f 0b", {}, 6, "invalid opcode on purpose"),
        ("cc", {}, 3, "breakpoint"),
        ("f1", {}, 1, "debug exception"),
        ("cd 80", {}, 0x80, '"int 0x80" asked for it'),
        ("ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff", {}, 6, "all ones"),
        ("06", {}, 6, "the bytes 06"),  # push es is gone in 64-bit code
        ("48 f7 f1", {}, 0, "divides by zero"),
        ("48 f7 f1", {"rcx": 5}, None, ""),
        ("0f 05", {}, 6, "EFER.SCE is clear"),
        ("0f 28 c1", {}, 6, "CR4.OSFXSR is clear"),
        ("0f 28 c1", {"cr4": FXSR}, None, ""),
        ("0f 28 c1", {"cr4": FXSR, "cr0": 0x8000_0019}, 7, "CR0.TS is set"),
        ("0f 28 c1", {"cr4": FXSR, "cr0": 0x8000_0015}, 6, "CR0.EM is set"),
        ("d9 e8", {"cr0": 0x8000_0015}, 7, "CR0.EM is set"),
        ("c5 f8 57 c0", {"cr4": FXSR}, 6, "CR4.OSXSAVE is clear"),
        ("0f ae e8", {}, None, ""),  # lfence needs nothing
        ("8b 04 25 00 00 20 00", {}, 14, "reads 0x200000: not present: PD entry 0x1"),
        ("89 04 25 00 00 20 00", {}, 14, "writes 0x200000"),
        ("8b 00", {"rax": 0x8000_0000_0000}, 13, "canonical"),
        ("8b 45 00", {"rbp": 0x8000_0000_0000}, 12, "canonical"),
        ("48 8d 04 25 00 00 00 40", {}, None, ""),  # lea touches nothing
        ("50", {"rsp": 0x20_0000 + 0x1008}, 14, "writes 0x201000"),
        ("c3", {"rsp": 0x20_0000}, 14, '"ret" reads 0x200000'),
        ("48 0f c7 0f", {"rdi": 0x8008}, 13, "not a multiple of 16"),
        ("48 0f c7 0f", {"rdi": 0x8010}, None, ""),
        ("0f 30", {}, 13, '"wrmsr" was refused'),
        ("0f 22 e0", {}, 13, '"mov cr4, rax" was refused'),
        ("f3 48 ab", {"rdi": 0x20_0000}, None, ""),  # rcx is 0: nothing is stored
        ("f3 48 ab", {"rdi": 0x20_0000, "rcx": 1}, 14, "writes 0x200000"),
        ("65 8b 00", {"gs": Segment(base=0x20_0000)}, 14, "reads 0x200000"),
        ("8b 05 f9 ff 1f 00", {}, 14, "reads 0x200fff"),  # RIP-relative
        ("8b 04 c5 00 00 00 00", {"rax": 0x4_0000}, 14, "reads 0x200000"),  # scaled index
        ("00 00", {}, None, "zeroed memory"),
        ("00 00", {"rax": 0x20_0000}, 14, "zeroed memory"),
        ("8e d8", {"rax": 0x10}, 13, "the GDT ends before it"),
        ("90", {}, None, ""),
        ("90", {"cr2": 0x20_0000}, 14, "CR2 tells of a page fault at 0x200000"),
    ],
)
def test_64_bit_code(
    guest: Any, code: str, changes: dict[str, Any], vector: int | None, reason: str
) -> None:
    guest.code(code)
    fault = likely_fault(guest.long(**changes), guest.read)
    assert fault.vector == vector
    assert reason in fault.reason
    assert bool(reason) == bool(fault.reason)


@pytest.mark.parametrize(
    ("code", "vector"), [("f4", 13), ("fa", 13), ("0f 30", 13), ("0f 22 d8", 13), ("90", None)]
)
def test_ring_3_may_not(guest: Any, code: str, vector: int | None) -> None:
    guest.code(code)
    fault = likely_fault(guest.long(cpl=3), guest.read)
    assert fault.vector == vector
    if vector:
        assert "ring 3" in fault.reason


def test_code_that_cannot_be_fetched(guest: Any) -> None:
    fault = likely_fault(guest.long(rip=0x4000_0000), guest.read)
    assert (fault.vector, fault.address) == (14, 0x4000_0000)
    assert "cannot be fetched: not present" in fault.reason
    assert likely_fault(guest.long(rip=1 << 47), guest.read).vector == 13


def test_rip_where_no_memory_is(guest: Any) -> None:
    fault = likely_fault(guest.protected(rip=0xF000_0000), guest.read)
    assert fault.vector is None
    assert "guest-physical 0xf0000000, where there is no memory" in fault.reason


def test_rip_behind_the_code_segment(guest: Any) -> None:
    state = guest.protected(rip=0x1_0000, cs=Segment(8, 0, 0xFFFF, type=0xB, db=1))
    fault = likely_fault(state, guest.read)
    assert fault.vector == 13
    assert "behind the end of CS" in fault.reason


def test_a_1_gib_page_that_the_guest_does_not_have(guest: Any) -> None:
    # kvm_pvm without pdpe1gb: the walk would go on, the processor faulted (CR2 is RIP).
    state = guest.long(cr2=0x1000)
    guest.u64(guest.PDPT, 0x87)
    fault = likely_fault(state, guest.read)
    assert fault.vector == 14
    assert "pdpe1gb" in fault.reason


@pytest.mark.parametrize(
    ("changes", "code", "vector", "reason"),
    [
        ({}, "a3 ff ff", 13, "behind the end of DS (limit 0xffff)"),  # mov [0xffff], ax
        ({}, "a3 fe ff", None, ""),
        ({"rbp": 0xFFFF}, "8b 46 00", 12, "behind the end of SS"),  # mov ax, [bp]
        ({}, "50", None, ""),
    ],
)
def test_real_mode_limits(
    guest: Any, changes: dict[str, int], code: str, vector: int | None, reason: str
) -> None:
    guest.code(code)
    fault = likely_fault(guest.real(**changes), guest.read)
    assert fault.vector == vector
    assert reason in fault.reason


def test_protected_mode_segments(guest: Any) -> None:
    guest.code("8b 03")
    state = guest.protected(rbx=0x8000)
    assert likely_fault(state, guest.read).vector is None
    unusable = replace(state, ds=replace(state.ds, unusable=1))
    assert "DS, which is not usable" in likely_fault(unusable, guest.read).reason
    short = replace(state, ds=replace(state.ds, limit=0x8002))
    assert likely_fault(short, guest.read).vector == 13


def test_a_far_jump_to_a_missing_descriptor(guest: Any) -> None:
    guest.code("ea 00 20 00 00 08 00")  # ljmp 8:0x2000
    state = guest.protected(gdt=DescriptorTable(0x4000, 0xF))
    fault = likely_fault(state, guest.read)
    assert fault.vector == 13
    assert (
        '"ljmp 8:0x2000" loads selector 0x8, but the GDT entry at 0x4008 is all zero'
        in fault.reason
    )
    guest.u64(0x4008, 0x00CF_1B00_0000_FFFF)
    assert likely_fault(state, guest.read).vector == 11
    guest.u64(0x4008, 0x00CF_9B00_0000_FFFF)
    assert likely_fault(state, guest.read).vector is None


@given(
    code=st.binary(min_size=1, max_size=15),
    registers=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4),
    long=st.booleans(),
    cpl=st.sampled_from((0, 3)),
)
@settings(max_examples=300, deadline=None)
def test_no_code_and_no_registers_raise(
    code: bytes, registers: list[int], long: bool, cpl: int
) -> None:
    def read(gpa: int, size: int) -> bytes:
        if gpa + size > 0x2000:
            raise GuestAddressError
        return (bytes(0x1000) + code + bytes(0x1000))[gpa : gpa + size]

    a, b, c, d = registers
    data = Segment(0x10, 0, 0xFFFF_FFFF, type=3, dpl=cpl)
    state = CpuState(
        cr0=0x11, rip=0x1000, rax=a, rcx=b, rsp=c, rdi=d, ss=data, ds=data,
        cs=Segment(8, 0, 0xFFFF_FFFF, type=0xB, l=int(long), db=int(not long)),
        efer=0x500 if long else 0,
    )  # fmt: skip
    fault = likely_fault(state, read)
    assert fault.vector is None or 0 <= fault.vector <= 0xFF
