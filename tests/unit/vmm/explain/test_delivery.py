from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmm.cpustate import CpuState, DescriptorTable, Segment
from vmm.explain.delivery import delivery_failure, descriptor_problem
from vmm.explain.page_walk import Read


def delivery_problem(state: CpuState, read: Read, vector: int) -> str:
    failure = delivery_failure(state, read, vector)
    return "" if failure is None else failure.text


def test_a_complete_long_mode_idt_delivers(guest: Any) -> None:
    state = guest.handlers(guest.long(), 6)
    assert delivery_problem(state, guest.read, 6) == ""
    assert "IDT entry for #DF (vector 8) is not present (it is all zero)" in delivery_problem(
        state, guest.read, 8
    )


@pytest.mark.parametrize(("mode", "last"), [("real", 0x1B), ("protected", 0x37), ("long", 0x6F)])
def test_the_idt_must_be_long_enough(guest: Any, mode: str, last: int) -> None:
    state = getattr(guest, mode)(idt=DescriptorTable(0x5000, last - 1))
    problem = delivery_problem(state, guest.read, 6)
    assert f"no IDT entry for #UD (vector 6): the IDT's limit {last - 1:#x} is below" in problem
    assert "no IDT entry" not in delivery_problem(
        replace(state, idt=DescriptorTable(0x5000, last)), guest.read, 6
    )


def test_an_idt_that_is_not_mapped(guest: Any) -> None:
    state = guest.long(idt=DescriptorTable(0x4000_0000, 0xFFF))
    assert "memory that is not there" in delivery_problem(state, guest.read, 6)


def test_real_mode_vectors(guest: Any) -> None:
    state = guest.real()
    assert "is empty (0000:0000)" in delivery_problem(state, guest.read, 6)
    guest.u32(4 * 6, 0xF000_1234)
    assert delivery_problem(state, guest.read, 6) == ""
    guest.bytes = guest.bytes[:0x1000]
    guest.u32(4 * 6, 0xF000_0000)
    assert "f000:0000 is not in memory" in delivery_problem(state, guest.read, 6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: g & ~(1 << 47), "is not present"),
        (lambda g: g & ~(0x1F << 40) | 0x6 << 40, "is not a gate (type 0x6)"),
        (lambda g: g & ~(0xFFFF << 16), "names code selector 0x0: it is the null selector"),
        (lambda g: g | 0x10 << 16, "the GDT ends before it"),
        (lambda g: g & ~(0xFFFF << 16) | 0x10 << 16, "is a data segment"),
    ],
)
def test_bad_gates(guest: Any, change: Any, text: str) -> None:
    state = guest.handlers(guest.long(), 6)
    gate = int.from_bytes(guest.read(0x5000 + 16 * 6, 8), "little")
    guest.u64(0x5000 + 16 * 6, change(gate))
    assert text in delivery_problem(state, guest.read, 6)


def test_a_handler_that_is_not_mapped(guest: Any) -> None:
    state = guest.handlers(guest.long(), 14, handler=0xFFFF_8000_1234_5678)
    problem = delivery_problem(state, guest.read, 14)
    assert "the handler of #PF (vector 14) at 0xffff800012345678 cannot be executed" in problem
    assert "not present" in problem


def test_a_handler_outside_of_memory(guest: Any) -> None:
    guest.bytes = guest.bytes[:0x20000]
    state = guest.handlers(guest.long(), 14, handler=0x3_0000)
    assert "is not in memory" in delivery_problem(state, guest.read, 14)


def test_a_stack_that_is_not_mapped(guest: Any) -> None:
    state = guest.handlers(guest.long(rsp=0x4000_0000), 13)
    assert "the stack for #GP (vector 13) at 0x3ffffff8 cannot be written" in delivery_problem(
        state, guest.read, 13
    )


def test_a_ring_change_takes_the_stack_from_the_tss(guest: Any) -> None:
    state = guest.handlers(guest.long(cpl=3), 13)
    assert "no TSS is loaded" in delivery_problem(state, guest.read, 13)
    tss = Segment(0x18, 0x6000, 0x67, type=11, s=0)
    guest.u64(0x6004, 0x9000)
    state = replace(state, tr=tss)
    assert delivery_problem(state, guest.read, 13) == ""
    guest.u64(0x6004, 0x4000_0000)
    assert "the ring 0 stack of the TSS" in delivery_problem(state, guest.read, 13)
    assert "the TSS ends before it" in delivery_problem(
        replace(state, tr=replace(tss, limit=3)), guest.read, 13
    )


def test_an_interrupt_stack_table_entry(guest: Any) -> None:
    state = guest.handlers(guest.long(), 8)
    gate = int.from_bytes(guest.read(0x5000 + 16 * 8, 8), "little")
    guest.u64(0x5000 + 16 * 8, gate | 2 << 32)
    state = replace(state, tr=Segment(0x18, 0x6000, 0x67, type=11, s=0))
    guest.u64(0x6000 + 0x2C, 0x4000_0000)
    assert "IST2 of the TSS for #DF" in delivery_problem(state, guest.read, 8)
    guest.u64(0x6000 + 0x2C, 0x9000)
    assert delivery_problem(state, guest.read, 8) == ""


def test_a_protected_mode_gate(guest: Any) -> None:
    guest.u64(0x4008, 0x00CF_9B00_0000_FFFF)
    guest.u64(0x5000 + 8 * 6, 0x0001_8E00_0008_3000)
    state = guest.protected(gdt=DescriptorTable(0x4000, 0xF), idt=DescriptorTable(0x5000, 0xFF))
    assert delivery_problem(state, guest.read, 6) == ""
    # The upper half of the offset counts: 0x30003000 is outside of memory.
    guest.u64(0x5000 + 8 * 6, 0x3000_8E00_0008_3000)
    assert "0x30003000 is not in memory" in delivery_problem(state, guest.read, 6)


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        (0, "is all zero"),
        (0x00CF_1B00_0000_FFFF, "is not present"),
        (0x00CF_8B00_0000_FFFF, "is a system descriptor"),
        (0x00CF_9300_0000_FFFF, "is a data segment"),
        (0x00EF_9B00_0000_FFFF, "has both L and D set"),
    ],
)
def test_descriptors(guest: Any, descriptor: int, text: str) -> None:
    state = guest.long(gdt=DescriptorTable(0x4000, 0xF))
    guest.u64(0x4008, descriptor)
    assert text in descriptor_problem(state, guest.read, 8, code=True)[0]


def test_a_null_data_selector_is_fine(guest: Any) -> None:
    assert descriptor_problem(guest.long(), guest.read, 3, code=False) == ("", 0)
