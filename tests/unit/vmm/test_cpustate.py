from __future__ import annotations

from dataclasses import replace

import pytest

from kvm_bindings.structs import kvm_regs, kvm_sregs
from vmm.cpustate import CpuState, Segment, register_lines

PE, PG = 1, 1 << 31
PAE, LA57 = 1 << 5, 1 << 12
LME_LMA = 0x500
CODE32 = Segment(0x08, 0, 0xFFFF_FFFF, type=0xB, db=1, g=1)
CODE64 = Segment(0x08, 0, 0xFFFF_FFFF, type=0xB, l=1, g=1)
CODE16 = Segment(0x08, 0, 0xFFFF, type=0xB)


@pytest.mark.parametrize(
    ("state", "mode", "size"),
    [
        (CpuState(), "real", 16),
        (CpuState(cr0=PE, cs=CODE16), "protected 16-bit", 16),
        (CpuState(cr0=PE, cs=CODE32), "protected 32-bit", 32),
        (CpuState(cr0=PE, cs=CODE32, rflags=2 | 1 << 17), "virtual-8086", 16),
        (CpuState(cr0=PE | PG, cr4=PAE, efer=LME_LMA, cs=CODE64), "long 64-bit", 64),
        (CpuState(cr0=PE | PG, cr4=PAE, efer=LME_LMA, cs=CODE32), "long compatibility 32-bit", 32),
        (CpuState(cr0=PE | PG, cr4=PAE, efer=LME_LMA, cs=CODE16), "long compatibility 16-bit", 16),
    ],
)
def test_mode_and_code_size(state: CpuState, mode: str, size: int) -> None:
    assert state.mode == mode
    assert state.code_size == size


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "paging"),
    [
        (PE, PAE, LME_LMA, "off"),
        (PE | PG, 0, 0, "32-bit"),
        (PE | PG, PAE, 0, "PAE"),
        (PE | PG, PAE, LME_LMA, "4-level"),
        (PE | PG, PAE | LA57, LME_LMA, "5-level"),
        # LA57 means nothing outside of long mode.
        (PE | PG, PAE | LA57, 0, "PAE"),
    ],
)
def test_paging(cr0: int, cr4: int, efer: int, paging: str) -> None:
    assert CpuState(cr0=cr0, cr4=cr4, efer=efer).paging == paging


def test_linear_addresses() -> None:
    reset = CpuState()
    assert reset.linear_rip == 0xFFFF_FFF0
    assert reset.location == "f000:fff0"
    real = CpuState(cs=Segment(0x07C0, 0x7C00), rip=5, ss=Segment(0x9000, 0x90000), rsp=0x1_0010)
    assert real.linear_rip == 0x7C05
    assert real.linear_rsp == 0x90010  # 16-bit stack
    long = CpuState(
        cr0=PE | PG, cr4=PAE, efer=LME_LMA, cs=replace(CODE64, base=0x1000),
        rip=0xFFFF_FFFF_8100_0000, rsp=0xFFFF_8000_0000_0000, fs=Segment(base=0x5000),
    )  # fmt: skip
    assert long.linear_rip == 0xFFFF_FFFF_8100_0000  # CS.base is ignored
    assert long.linear_rsp == 0xFFFF_8000_0000_0000
    assert long.linear(long.fs, 8) == 0x5008
    assert long.location == "ffffffff81000000"


def test_cpl_comes_from_ss() -> None:
    # Between setting CR0.PE and the far jump, the selector's low bits are a real-mode paragraph.
    assert CpuState(cr0=PE, cs=Segment(0x7C3, 0x7C30)).cpl == 0
    assert CpuState(cr0=PE, ss=Segment(0x23, dpl=3)).cpl == 3
    assert CpuState(ss=Segment(0x23, dpl=3)).cpl == 0
    assert CpuState(cr0=PE, rflags=1 << 17).cpl == 3


def test_reset_state_is_recognised() -> None:
    assert CpuState().is_reset_state
    assert CpuState(rdx=0x600).is_reset_state
    assert CpuState(cr0=0x10).is_reset_state  # INIT keeps CD and NW
    assert not CpuState(rax=1).is_reset_state
    assert not CpuState(rip=0xFFF1).is_reset_state
    assert not CpuState(cr0=0x11).is_reset_state


def test_from_kvm_copies_every_field() -> None:
    regs, sregs = kvm_regs(), kvm_sregs()
    for number, (name, *_) in enumerate(kvm_regs._fields_, 100):
        setattr(regs, name, number)
    for number, name in enumerate(("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"), 1):
        segment = getattr(sregs, name)
        segment.selector, segment.base, segment.limit = number * 8, number << 16, 0xFFFF
        segment.type, segment.present, segment.dpl = 3, 1, 2
        segment.db, segment.s, segment.l, segment.g, segment.avl = 1, 1, 0, 1, 1
        segment.unusable = 1
    sregs.gdt.base, sregs.gdt.limit = 0x1000, 0x17
    sregs.idt.base, sregs.idt.limit = 0x2000, 0xFFF
    for number, name in enumerate(("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"), 7):
        setattr(sregs, name, number)
    state = CpuState.from_kvm(regs, sregs)
    for number, (name, *_) in enumerate(kvm_regs._fields_, 100):
        assert getattr(state, name) == number
    assert state.tr == Segment(56, 7 << 16, 0xFFFF, 3, 1, 2, 1, 1, 0, 1, 1, 1)
    assert (state.gdt.base, state.gdt.limit) == (0x1000, 0x17)
    assert (state.idt.base, state.idt.limit) == (0x2000, 0xFFF)
    assert (state.cr0, state.cr2, state.cr3, state.cr4) == (7, 8, 9, 10)
    assert (state.cr8, state.efer, state.apic_base) == (11, 12, 13)


def test_flags_in_words() -> None:
    assert CpuState(rflags=0x246).flags == "PF ZF IF"
    assert CpuState(rflags=0x2).flags == ""
    assert CpuState(rflags=1 << 22).flags == "bit22"


@pytest.mark.parametrize("wide", [False, True])
def test_register_lines_fit_and_show_every_value(wide: bool) -> None:
    state = CpuState(
        rax=0x1122_3344_5566_7788 if wide else 0x5566_7788, rsi=0xDEAD_BEEF, cr0=PE | PG,
        cr4=PAE if wide else 0, efer=LME_LMA if wide else 0, cs=CODE64 if wide else CODE32,
        cr2=0xC0FFEE, cr3=0x123000,
    )  # fmt: skip
    lines = register_lines(state)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 100
    assert ("rax 1122334455667788" if wide else "eax 55667788") in text
    assert ("r15" in text) is wide
    for shown in ("deadbeef", "c0ffee", "123000", "[PE PG]", state.mode):
        assert shown in text
    assert ("code 64-bit, DPL 0" if wide else "code 32-bit, DPL 0") in text


def test_register_lines_never_hide_an_upper_half() -> None:
    assert "00000001deadbeef" in "\n".join(register_lines(CpuState(rbx=0x1_DEAD_BEEF)))


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        (Segment(unusable=1), "unusable"),
        (Segment(present=0), "not present"),
        (Segment(type=0xB, s=0), "TSS busy"),
        (Segment(type=2, s=0), "LDT"),
        (Segment(type=1, dpl=3), "data read-only, DPL 3"),
    ],
)
def test_segment_in_words(segment: Segment, words: str) -> None:
    assert segment.describe() == words
