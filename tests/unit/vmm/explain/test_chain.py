"""From the first exception to the triple fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmm.cpustate import DescriptorTable
from vmm.explain.chain import follow


def gate(guest: Any, vector: int, change: Any) -> None:
    where = 0x5000 + 16 * vector
    guest.u64(where, change(int.from_bytes(guest.read(where, 8), "little")))


def test_an_exception_with_a_handler_is_the_end_of_its_chain(guest: Any) -> None:
    chain = follow(guest.handlers(guest.long(), 6), guest.read, 6)
    assert (chain.vectors, chain.failures, chain.fatal) == ((6,), (), False)
    assert chain.arrows == "#UD"


# What a fault during delivery makes of it (Intel SDM vol. 3, "Conditions for Generating a Double
# Fault"): without any IDT every delivery raises #GP.
@pytest.mark.parametrize(
    ("vector", "arrows"),
    [
        (6, "#UD -> #GP -> #DF -> triple fault"),  # benign first: one more turn
        (3, "#BP -> #GP -> #DF -> triple fault"),
        (0, "#DE -> #DF -> triple fault"),
        (13, "#GP -> #DF -> triple fault"),
        (14, "#PF -> #DF -> triple fault"),
        (8, "#DF -> triple fault"),
    ],
)
def test_without_an_idt(guest: Any, vector: int, arrows: str) -> None:
    assert follow(guest.long(), guest.read, vector).arrows == arrows


def test_a_page_fault_in_the_delivery_of_a_contributory_one_is_a_page_fault(guest: Any) -> None:
    # #GP finds its IDT entry in memory that is not there; so does the #PF, and that is double.
    state = guest.long(idt=DescriptorTable(0x4000_0000, 0xFFF))
    chain = follow(state, guest.read, 13)
    assert chain.arrows == "#GP -> #PF -> #DF -> triple fault"


def test_a_double_fault_that_is_handled_is_no_death(guest: Any) -> None:
    chain = follow(guest.handlers(guest.long(), 8), guest.read, 14)
    assert chain.arrows == "#PF -> #DF"
    assert not chain.fatal


def test_a_gate_that_is_not_present_raises_np(guest: Any) -> None:
    state = guest.handlers(guest.long(), 14)
    gate(guest, 14, lambda g: g & ~(1 << 47))
    chain = follow(state, guest.read, 14)
    assert [failure.raises for failure in chain.failures] == [11, 13]  # 8 is of no type
    lines = chain.lines()
    assert lines[0] == (
        "the IDT entry for #PF (vector 14) is not present; that raises #NP (vector 11), "
        "and the two make a double fault"
    )
    assert lines[1] == "the IDT entry for #DF (vector 8) is not present (it is all zero)"


def test_a_stack_that_is_not_there(guest: Any) -> None:
    state = guest.handlers(guest.long(rsp=0x4000_0000), 8, 14)
    assert follow(state, guest.read, 14).arrows == "#PF -> #DF -> triple fault"
    wild = guest.handlers(guest.long(rsp=1 << 60), 8, 14)
    chain = follow(wild, guest.read, 14)
    assert [failure.raises for failure in chain.failures] == [12, 12]


def test_a_handler_that_is_not_mapped_faults_itself_afterwards(guest: Any) -> None:
    state = guest.handlers(guest.long(), 6, handler=0x4000_0000)
    chain = follow(state, guest.read, 6)
    assert chain.failures[0].delivered
    assert chain.arrows == "#UD -> #PF -> #DF -> triple fault"
    # Where the page fault's own handler is the one that is missing, it never gets further.
    assert follow(guest.handlers(state, 14, handler=0x4000_0000), guest.read, 14).fatal


def test_nothing_is_claimed_without_paging(guest: Any) -> None:
    state = guest.protected(idt=DescriptorTable(0x4000_0000, 0xFFF))
    chain = follow(state, guest.read, 6)
    assert chain.vectors == (6,)
    assert len(chain.lines()) == 1


def test_the_ring_does_not_matter_for_the_chain(guest: Any) -> None:
    state = replace(guest.handlers(guest.long(cpl=3), 14), idt=DescriptorTable(0x5000, 0xFFF))
    # No TSS: #TS while #PF is delivered.
    assert follow(state, guest.read, 14).failures[0].raises == 10
