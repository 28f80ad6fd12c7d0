from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.cpustate import CpuState, DescriptorTable
from vmm.explain import Death, Kind, OtherVcpu, SeenExit, explain
from vmm.interrupts import Interrupts
from vmm.symbols import Symbols

pytest.importorskip("capstone")


def test_a_triple_fault_without_an_idt(guest: Any) -> None:
    guest.code("b0 41 e6 e9 0f 0b")
    state = guest.protected(rip=0x1004)
    death = Death(
        kind="shutdown", cpu=state, read=guest.read, exits=12, backend="kvm_pvm",
        last_exits=(SeenExit("IO out 0xe9 1b 0x41 'A'"),), notes=("a note",),
    )  # fmt: skip
    explanation = explain(death)
    assert explanation.headline == (
        "guest died: triple fault at 00001004 (protected 32-bit mode) after 12 exits: "
        '"ud2" is an invalid opcode on purpose, and '
        "no IDT entry for #UD (vector 6): the IDT's limit 0x0 is below 0x37"
    )
    text = explanation.text()
    for part in (
        '"ud2" is an invalid opcode on purpose', "no IDT entry for #DF (vector 8)", "LIDT",
        "many kernels reboot in this way", "last exits", "'A'", "notes:", "a note",
        "-> 00001004  0f 0b", "registers of vCPU 0", "out 0xe9, al",
    ):  # fmt: skip
        assert part in text
    assert "page walk" not in text  # paging is off


def test_a_page_fault_without_a_handler_shows_both_walks(guest: Any) -> None:
    guest.code("8b 04 25 00 00 20 00")
    death = Death(kind="shutdown", cpu=guest.long(cr2=0x20_0000), read=guest.read, exits=1)
    explanation = explain(death)
    assert "after 1 exit:" in explanation.headline
    assert "no IDT entry for #PF (vector 14)" in explanation.headline
    titles = [section.title for section in explanation.sections]
    assert "page walk of RIP" in titles
    assert "page walk of the fault at 0x200000" in titles
    assert explanation.cause.advice[0].startswith("map the address")


def test_a_handler_that_failed_itself(guest: Any) -> None:
    guest.code("0f 0b")
    state = guest.handlers(guest.long(), 6)
    cause = explain(Death(kind="shutdown", cpu=state, read=guest.read)).cause
    assert "#UD (vector 6), invalid opcode, could be delivered" in cause.sentence
    assert any("#DF (vector 8) is not present" in detail for detail in cause.details)


def test_sse_before_it_is_switched_on(guest: Any) -> None:
    guest.code("0f 28 c1")
    cause = explain(Death(kind="shutdown", cpu=guest.long(), read=guest.read)).cause
    assert any("CR4.OSFXSR is clear" in detail for detail in cause.details)
    assert "CR4.OSFXSR=1" in cause.advice[0]


def test_an_exception_that_cannot_be_named(guest: Any) -> None:
    guest.code("90")
    none = explain(Death(kind="shutdown", cpu=guest.protected(), read=guest.read)).cause
    assert none.sentence.startswith("an exception, and no IDT entry for #DF")
    state = guest.handlers(guest.long(), 8)
    handled = explain(Death(kind="shutdown", cpu=state, read=guest.read)).cause
    assert "whose handler failed" in handled.sentence


def test_registers_that_the_kernel_reset(guest: Any) -> None:
    # kvm_amd resets the vCPU at a triple fault: nothing of the reset state is evidence.
    lost = Death(kind="shutdown", cpu=CpuState(), read=guest.read, exits=3, backend="kvm_amd")
    explanation = explain(lost)
    assert " at " not in explanation.headline.split(":")[1]
    assert "registers of that moment are lost" in explanation.cause.details[0]
    titles = [section.title for section in explanation.sections]
    assert titles == ["registers of vCPU 0 after the reset"]

    guest.code("8b 03 0f 0b")  # what the load brings, nobody knows any more
    seen = explain(replace(lost, last_seen=guest.protected()))
    assert "near 00001000 (protected 32-bit mode)" in seen.headline
    assert "an exception, and no IDT entry for #DF" in seen.headline
    assert "#UD" not in seen.text()
    assert any("the state at the exit before" in detail for detail in seen.cause.details)
    assert seen.sections[0].title == "registers of vCPU 0 last seen"


@pytest.mark.parametrize(
    ("code", "steps", "words"),
    [
        ("0f 0b", 0, '"ud2" is an invalid opcode on purpose, and no IDT entry for #UD'),
        ("e6 80 0f 0b", 1, '"ud2" is an invalid opcode on purpose, and no IDT entry for #UD'),
        ("e6 80 90 f7 f1", 2, '"div ecx" divides by zero, and no IDT entry for #DE'),
        ("e6 80 eb 02 f4 f4 0f 0b", 2, '"ud2" is an invalid opcode on purpose'),
        ("e6 80 31 c9 f7 f1", 2, '"div ecx" divides by zero'),
        ("e6 80 b9 00 00 00 40 8b 01 f4", 2, None),  # without paging, no memory is no fault
        ("e6 80 b9 05 00 00 00 f7 f1", 2, None),
        ("e6 80 bb 70 00 00 00 8e db", 2, '"mov ds, ebx" loads selector 0x70'),
        ("0f 01 1d 00 20 00 00 0f 0b", 1, "the IDT's limit 0x1f is below 0x37"),
    ],
)
def test_lost_registers_are_followed_while_it_is_certain(
    guest: Any, code: str, steps: int, words: str | None
) -> None:
    guest.code(code)
    guest.write(0x2000, bytes.fromhex("1f 00 00 50 00 00"))
    death = Death(
        kind="shutdown", cpu=CpuState(), read=guest.read, backend="kvm_amd",
        last_seen=guest.protected(),
    )  # fmt: skip
    explanation = explain(death)
    if words is None:
        assert "an exception" in explanation.cause.sentence
        return
    assert words in explanation.headline
    assert f"follows {steps} instruction" in explanation.cause.details[-1]


def test_a_fault_with_a_handler_is_not_to_blame(guest: Any) -> None:
    guest.code("e6 80 0f 0b")
    state = guest.handlers(guest.long(), 6)
    death = Death(
        kind="shutdown", cpu=CpuState(), read=guest.read, backend="kvm_amd", last_seen=state
    )
    assert "#UD" not in explain(death).text()


def test_the_reset_vector_itself_is_evidence_on_vtx(guest: Any) -> None:
    state = Death(kind="shutdown", cpu=CpuState(), backend="kvm_intel", read=guest.read)
    assert not state.state_was_reset
    assert "f000:fff0" in explain(state).headline


def test_a_failed_entry(guest: Any) -> None:
    state = guest.long(cr4=0)
    death = Death(kind="fail_entry", cpu=state, hardware_reason=0xFFFF_FFFF, backend="kvm_amd")
    explanation = explain(death)
    assert "the processor refused to enter it" in explanation.headline
    assert "needs CR4.PAE" in explanation.headline
    assert "VMEXIT_INVALID" in explanation.cause.details[0]
    sound = explain(replace(death, cpu=guest.long()))
    assert "no rule that is known here is broken" in sound.cause.sentence


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (Death(kind="memory_fault", gpa=0x1000), "at guest-physical 0x1000"),
        (Death(kind="unhandled_exit", reason_name="NOTIFY"), "KVM returned NOTIFY"),
        (
            Death(kind="unhandled_exit", reason_name="UNKNOWN", hardware_reason=0x2A),
            "hardware exit reason 0x2a",
        ),
        (
            Death(kind="device_fault", reason_name="com1", error="KeyError: 'LCR'"),
            "the model of com1 raised KeyError: 'LCR'",
        ),
        (Death(kind="shutdown", vcpu=2), "on vCPU 2"),
        (Death(kind="halt"), "HLT waits for an interrupt"),
        (Death(kind="halt", cpu=CpuState(rflags=2)), "interrupts disabled"),
        (Death(kind="halt", cpu=CpuState(rflags=0x202)), "nothing is set up to send one"),
        (Death(kind="timeout", exits=5, seconds=2.04), "after 5 exits and 2.0 s"),
    ],
)
def test_the_other_deaths(death: Death, words: str) -> None:
    assert words in explain(death).headline


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_without_any_fact(kind: Any) -> None:
    explanation = explain(Death(kind=kind))
    assert explanation.headline.endswith(explanation.cause.sentence)
    assert explanation.text()


def test_equal_exits_in_a_row_are_told_once(guest: Any) -> None:
    line = SeenExit("IO in 0x64 1b 0x0")
    death = Death(kind="shutdown", last_exits=(SeenExit("HLT"), line, line, SeenExit("HLT")))
    assert explain(death).sections[0].lines == ("HLT", f"{line.text}  (2 times)", "HLT")


def test_the_other_vcpus_are_told(guest: Any) -> None:
    guest.code("eb fe")
    names = Symbols.load(b"1000 T idle\n")
    others = (
        OtherVcpu(1, "halts", guest.long(rip=0x1004, rflags=0x202)),
        OtherVcpu(2, "was never started", CpuState()),
    )
    death = Death(
        kind="timeout", cpu=guest.long(), read=guest.read, cpus=3, others=others, symbols=names
    )
    explanation = explain(death)
    told = next(s.lines for s in explanation.sections if s.title == "other vCPUs")
    assert told == (
        "vCPU 1 halts at 0000000000001004 idle+0x4 (long 64-bit mode, interrupts enabled)",
        "vCPU 2 was never started",
    )
    assert explanation.to_dict()["other_vcpus"][0]["symbol"] == "idle+0x4"


def test_text_keeps_to_its_width(guest: Any) -> None:
    guest.code("8b 04 25 00 00 20 00")
    text = explain(Death(kind="shutdown", cpu=guest.long(), read=guest.read, exits=1)).text()
    assert max(map(len, text.splitlines())) <= 100
    assert not text.endswith("\n")
    assert all(line == line.rstrip() for line in text.splitlines())
    assert text.isascii()


def test_names_that_are_too_long_are_cut(guest: Any) -> None:
    guest.code("e8 00 00 00 00 0f 0b")
    names = Symbols.load(b"1000 T _ZN" + b"4core" * 40 + b"\n")
    state = guest.long(rip=0x1005)
    text = explain(Death(kind="shutdown", cpu=state, read=guest.read, symbols=names)).text()
    evidence = text[text.index("code around RIP") :]
    assert max(map(len, evidence.splitlines())) == 100
    assert any(line.endswith("..") for line in evidence.splitlines())


def test_to_dict_is_json(guest: Any) -> None:
    guest.code("0f 0b")
    explanation = explain(Death(kind="shutdown", cpu=guest.protected(), read=guest.read))
    values = json.loads(json.dumps(explanation.to_dict()))
    assert values["headline"] == explanation.headline
    assert values["sections"]["code around RIP"][0].startswith("->")


@given(
    kind=st.sampled_from(get_args(Kind)),
    numbers=st.lists(st.integers(0, 2**64 - 1), min_size=9, max_size=9),
    suberror=st.integers(0, 5),
    fill=st.binary(min_size=1, max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_no_guest_makes_it_raise(kind: Any, numbers: list[int], suberror: int, fill: bytes) -> None:
    cr0, cr3, cr4, efer, rip, rsp, idt, rflags, data = numbers
    state = CpuState(
        cr0=cr0, cr3=cr3, cr4=cr4, efer=efer, rip=rip, rsp=rsp, rflags=rflags,
        idt=DescriptorTable(idt, 0xFFFF), gdt=DescriptorTable(idt, 0xFFFF),
    )  # fmt: skip

    def read(gpa: int, size: int) -> bytes:
        return (fill * (size // len(fill) + 2))[gpa % len(fill) :][:size]

    death = Death(
        kind=kind, cpu=state, read=read, suberror=suberror, data=(data, cr0, cr3, cr4),
        hardware_reason=data, backend="kvm_pvm", symbols=Symbols.load(b"1000 T start\n"), bios=True,
        halted=bool(data & 1), interrupts=Interrupts(masked=data & 0xFFFF, requested=cr3 & 0xFFFF),
        last_exits=(SeenExit("a", "port 0x1 (x)", value=data),) * (suberror * 2),
        others=(OtherVcpu(1, "runs", state),),
    )  # fmt: skip
    explanation = explain(death)
    assert explanation.text()
    assert json.dumps(explanation.to_dict())
