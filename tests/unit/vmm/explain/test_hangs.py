"""What a guest that ended by the clock was doing: polling, waiting, looping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firmware.bios_rom import STUB_SIZE, STUBS
from vmm.explain import Death, SeenExit, explain
from vmm.explain.hangs import find_loop
from vmm.interrupts import Interrupts

pytest.importorskip("capstone")

STATUS = SeenExit(
    "IO in 0x64 1b 0x1c i8042 STATUS = SYS|CMD|UNLOCKED",
    "port 0x64 (i8042 STATUS)",
    value=0x1C,
    meaning="SYS|CMD|UNLOCKED",
    bits={1: "OBF", 2: "IBF", 4: "SYS", 8: "CMD", 16: "UNLOCKED"},
)
OTHER = SeenExit("IO in 0x3fd 1b 0x60 com1 LSR = THRE|TEMT", "port 0x3fd (com1 LSR)", value=0x60)


def test_a_loop_on_itself(guest: Any) -> None:
    guest.code("f4 eb fe")
    cause = explain(Death(kind="timeout", cpu=guest.real(rip=0x1001), read=guest.read)).cause
    assert cause.sentence == "an endless loop of one instruction: jmp 0x1001"


def test_no_loop(guest: Any) -> None:
    guest.code("90 90 c3 eb fa")  # the jump back is behind a return
    assert find_loop(guest.protected(), guest.read) == []
    guest.code("90 eb 10 90")  # forward
    assert find_loop(guest.protected(), guest.read) == []
    death = Death(
        kind="timeout",
        cpu=guest.protected(),
        read=guest.read,
        last_exits=(SeenExit("a"), SeenExit("b")),
    )
    assert "still running in protected 32-bit mode, ring 0" in explain(death).cause.sentence


def polling(guest: Any, code: str, *exits: SeenExit) -> Any:
    guest.code(code)
    state = guest.protected(rip=0x1003)
    return explain(Death(kind="timeout", cpu=state, read=guest.read, last_exits=exits)).cause


def test_polling_says_what_is_read_and_what_is_waited_for(guest: Any) -> None:
    # cli; in al,0x64; test al,1; jz -6; ret
    cause = polling(guest, "fa e4 64 a8 01 74 fa c3", *(STATUS,) * 5)
    assert cause.sentence == (
        "it polls port 0x64 (i8042 STATUS), which always reads 0x1c (SYS|CMD|UNLOCKED): "
        "it waits for OBF to be set"
    )
    assert cause.details == (
        "it is in a loop of 3 instructions, from 0x1001 to 0x1005",
        f"the last 5 exits are all: {STATUS.text}",
    )


def test_a_bit_that_must_go_away(guest: Any) -> None:
    cause = polling(guest, "fa e4 64 24 04 75 fa c3", *(STATUS,) * 5)  # and al,4; jnz
    assert cause.sentence.endswith(": it waits for SYS to be cleared")
    cause = polling(guest, "fa e4 64 a8 80 74 fa c3", *(STATUS,) * 5)
    assert cause.sentence.endswith(": it waits for bit 7 to be set")


def test_polling_without_a_loop_that_can_be_read(guest: Any) -> None:
    cause = polling(guest, "fa e4 64 c3 c3", *(STATUS,) * 4)
    assert cause.sentence == (
        "it polls port 0x64 (i8042 STATUS), which always reads 0x1c (SYS|CMD|UNLOCKED)"
    )


def test_exits_before_the_polling_do_not_count(guest: Any) -> None:
    exits = (SeenExit("IO out 0x80 1b 0x1"), OTHER, *(STATUS,) * 6)
    cause = polling(guest, "c3 c3 c3 c3", *exits)
    assert f"the last 6 exits are all: {STATUS.text}" in cause.details
    assert "still running" in polling(guest, "c3 c3 c3 c3", *exits[:5]).sentence


def test_several_exits_that_repeat(guest: Any) -> None:
    cause = polling(guest, "c3 c3 c3 c3", *(STATUS, OTHER) * 4)
    assert cause.sentence == (
        "it repeats the same 2 exits, and reads port 0x3fd (com1 LSR) and port 0x64 (i8042 STATUS)"
    )
    assert cause.details == tuple(f"again and again: {one.text}" for one in (STATUS, OTHER))


def test_writing_the_same_again_and_again(guest: Any) -> None:
    write = SeenExit("IO out 0x80 1b 0x1 post", "port 0x80 (post POST)", write=True, value=1)
    cause = polling(guest, "c3 c3 c3 c3", *(write,) * 4)
    assert cause.sentence == "it writes 0x1 to port 0x80 (post POST) again and again"
    assert polling(guest, "c3 c3 c3 c3", *(SeenExit("HLT"),) * 4).sentence.endswith(": HLT")


def waiting(guest: Any, code: str, **changes: Any) -> str:
    guest.code(code)
    state = guest.protected(rip=0x1002, rflags=changes.pop("rflags", 2))
    death = Death(kind="timeout", cpu=state, read=guest.read, **changes)
    return explain(death).cause.sentence


def test_waiting_for_memory(guest: Any) -> None:
    code = "f3 90 83 3d 00 20 00 00 05 75 f5"  # pause; cmp dword [0x2000], 5; jne -11
    guest.u32(0x2000, 7)
    sentence = waiting(guest, code)
    assert sentence == (
        "it waits for memory at 0x2000, which is 0x7, to change, with interrupts disabled "
        "(RFLAGS.IF is clear): no handler can run"
    )
    assert "interrupts" not in waiting(guest, code, rflags=0x202)
    assert "interrupts" not in waiting(guest, code, cpus=2)  # another processor may write there


def test_a_loop_that_works_on_memory_does_not_wait_for_it(guest: Any) -> None:
    assert waiting(guest, "f3 90 83 05 00 20 00 00 05 75 f5") == (  # add dword [0x2000], 5
        "an endless loop of 3 instructions, from 0x1000 to 0x1009"
    )


def test_a_loop_in_a_caller(guest: Any) -> None:
    guest.code("e8 0b 00 00 00 85 c0 74 f7")  # call 0x1010; test eax, eax; jz -9
    guest.write(0x1010, bytes.fromhex("31 c0 c3"))  # xor eax, eax; ret
    guest.u32(0x7FFC, 0x1005)
    state = guest.protected(rip=0x1012, rsp=0x7FFC)
    cause = explain(Death(kind="timeout", cpu=state, read=guest.read)).cause
    assert cause.sentence == (
        "an endless loop of 3 instructions, from 0x1000 to 0x1007, 1 call deeper now"
    )


HALTED = {"halted": True, "rflags": 0x202}


@pytest.mark.parametrize(
    ("interrupts", "words"),
    [
        (
            Interrupts(masked=0xFFFF, requested=1),
            "that is masked: IRQ 0 (timer) asks, but the PIC masks it (IMR 0xff)",
        ),
        (
            Interrupts(masked=0xFF00, requested=0x1000),
            "IRQ 12 (mouse) asks, but the PIC masks it (IMR 0xff)",
        ),
        (Interrupts(masked=0xFFFF), "masked: every line is, in the PIC, in the IOAPIC and in the"),
        (Interrupts(masked=0xFFFE), "the timer's line is open, but the PIT is not programmed"),
        (Interrupts(masked=0xFFEE, pit_runs=True), "open are IRQ 0 (timer), IRQ 4 (COM1)"),
        (
            Interrupts(requested=0x10, in_service=0x02),
            "held back: the handler of IRQ 1 (keyboard) sent no end of interrupt to the PIC",
        ),
        (Interrupts(requested=1, lint0=1 << 16 | 7 << 8), "LINT0 does not let it through"),
        (
            Interrupts(
                masked=0xFFFF, apic_requested=(0x30,), apic_in_service=(0x40,), priority=0x40
            ),
            "vector 0x30 waits in the local APIC behind 0x40, whose handler sent no end of",
        ),
        (
            Interrupts(masked=0xFFFF, apic_requested=(0x30,), priority=0x50),
            "vector 0x30 waits in the local APIC, below the task priority 0x50",
        ),
        (
            Interrupts(masked=0xFFFF, apic_enabled=True, apic_timer=0x30, apic_timer_count=9),
            "only the local APIC's timer is open",
        ),
        (
            Interrupts(masked=0xFFFF, redirections=(1 << 16, 0x31)),
            "every line is",  # the local APIC is not enabled: the IOAPIC reaches nobody
        ),
        (
            Interrupts(masked=0xFFFF, apic_enabled=True, redirections=(1 << 16, 0x31)),
            "open are IRQ 1 (keyboard)",
        ),
    ],
)
def test_why_no_interrupt_comes(guest: Any, interrupts: Interrupts, words: str) -> None:
    sentence = waiting(guest, "90 f4", interrupts=interrupts, **HALTED)
    assert sentence.startswith("HLT waits for an interrupt")
    assert words in sentence


def test_hlt_with_interrupts_disabled_or_without_controllers(guest: Any) -> None:
    assert "RFLAGS.IF is clear" in waiting(guest, "90 f4", halted=True)
    assert "nothing is set up to send one" in waiting(guest, "90 f4", **HALTED)


def test_the_controllers_are_told_one_by_one(guest: Any) -> None:
    guest.code("f4")
    death = Death(
        kind="timeout", cpu=guest.real(rflags=0x202), read=guest.read, halted=True,
        interrupts=Interrupts(masked=0xFFEF),
    )  # fmt: skip
    assert explain(death).cause.details == (
        "PIC: IMR 0xef and 0xff, open are IRQ 4 (COM1)",
        "IOAPIC: open pins are nothing",
        "local APIC: not enabled by software (SVR), LINT0 lets the PIC through",
        "PIT: channel 0 was never programmed",
    )


def test_waiting_for_a_key_in_the_bios(guest: Any) -> None:
    stub = 0xF0000 + STUBS + STUB_SIZE * 0x16
    guest.write(0x7000, bytes.fromhex("047c 0000 0202"))  # IP, CS, FLAGS of the INT
    cs = replace(guest.real().cs, selector=0xF000, base=0xF0000)
    state = guest.real(cs=cs, rip=stub + 3 - 0xF0000, rsp=0x7000, rax=0x1000)
    death = Death(kind="timeout", cpu=state, read=guest.read, bios=True)
    assert explain(death).cause.sentence == (
        "it waits in the BIOS for a key (INT 16h, AH=10h, called at 0000:7c02)"
    )
    state = replace(state, rip=state.rip - STUB_SIZE)
    cause = explain(replace(death, cpu=state)).cause
    assert cause.sentence == "it is in the BIOS (INT 15h, AH=10h, called at 0000:7c02)"
    assert "BIOS" not in explain(replace(death, bios=False)).cause.sentence
