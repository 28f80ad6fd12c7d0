from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmm.cpustate import CpuState, DescriptorTable, Segment
from vmm.entry_state import entry_failure_reason, inconsistencies, refused_sregs


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_sound_states_break_no_rule(guest: Any, mode: str) -> None:
    assert inconsistencies(getattr(guest, mode)()) == []


def test_the_reset_state_is_sound() -> None:
    assert inconsistencies(CpuState()) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"cr0": 0x8000_0010}, "CR0.PG (paging) is set and CR0.PE"),
        ({"cr0": 0x2000_0011}, "CR0.NW is set and CR0.CD is clear"),
        ({"cr0": 1 << 32 | 0x8000_0011}, "CR0 has bits set above bit 31"),
        ({"cr4": 0}, "needs CR4.PAE"),
        ({"cr4": 0x20 | 1 << 15}, "CR4 has reserved bits set (0x8000)"),
        ({"cr4": 0x20 | 1 << 23}, "CR4.CET is set and CR0.WP is clear"),
        ({"efer": 0x100}, "EFER.LMA is 0"),
        ({"efer": 0x400}, "EFER.LMA is 1"),
        ({"cr3": 1 << 60}, "CR3 has bits set above"),
        ({"rip": 1 << 47}, "RIP 0x800000000000 is not canonical"),
        ({"gdt": DescriptorTable(1 << 63, 0)}, "GDTR.base"),
        ({"rflags": 0}, "RFLAGS bit 1 is clear"),
        ({"rflags": 2 | 1 << 15}, "RFLAGS has reserved bits set (0x8000)"),
        ({"rflags": 2 | 1 << 17}, "RFLAGS.VM is set outside of protected mode"),
        ({"efer": 0x500 | 1 << 9}, "EFER has reserved bits set (0x200)"),
        ({"ss": Segment(type=1)}, "SS is not a writable data segment (type 0x1)"),
        ({"ds": Segment(type=9)}, "DS is code that cannot be read (type 0x9)"),
        ({"es": Segment(s=0)}, "ES is a system segment (S is clear)"),
        ({"ldt": Segment(type=3, s=0)}, "LDTR must hold an LDT (type 2); its type is 3"),
        ({"ldt": Segment(4, type=2, s=0)}, "LDTR's selector 0x4 points into the LDT"),
        ({"tr": Segment(type=11, s=1)}, "TR is not present or not a system segment"),
        ({"tr": Segment(type=3, s=0)}, "TR must hold a busy 64-bit TSS"),
    ],
)
def test_rules_of_long_mode(guest: Any, changes: dict[str, Any], rule: str) -> None:
    assert any(rule in broken for broken in inconsistencies(guest.long(**changes)))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"l": 1, "db": 1}, "CS.L and CS.D are both set"),
        ({"present": 0}, "CS is not present"),
        ({"type": 3}, "CS is a data segment"),
        ({"type": 0xA}, "CS is not marked accessed"),
        ({"dpl": 3}, "CS.DPL is 3 and SS.DPL is 0"),
        ({"limit": 0xFFFF_F000}, "CS.G is set, so the limit"),
        ({"g": 0}, "CS.G is clear, so the limit"),
    ],
)
def test_rules_of_the_code_segment(guest: Any, changes: dict[str, int], rule: str) -> None:
    state = guest.long()
    broken = inconsistencies(replace(state, cs=replace(state.cs, **changes)))
    assert any(rule in line for line in broken)


def test_rules_outside_of_long_mode(guest: Any) -> None:
    assert "CR4.PCIDE is set outside of long mode" in inconsistencies(guest.protected(cr4=1 << 17))
    assert any("more than 32 bits" in r for r in inconsistencies(guest.protected(rip=1 << 32)))
    vm86 = guest.protected(rflags=2 | 1 << 17)
    assert any("CS's base is not its selector times 16" in r for r in inconsistencies(vm86))


@pytest.mark.parametrize(
    ("reason", "backend", "words"),
    [
        (0xFFFF_FFFF, "kvm_amd", "VMEXIT_INVALID"),
        (0xFFFF_FFFF_FFFF_FFFF, "kvm_amd", "VMEXIT_INVALID"),
        (0x8000_0021, "kvm_intel", "invalid guest state"),
        (0x8000_0022, "kvm_intel", "MSR could not be loaded"),
        (0x8000_0029, "kvm_intel", "machine check"),
        (0x8000_0001, "kvm_intel", "exit reason 1"),
        (7, "kvm_intel", "invalid control fields"),
        (8, "kvm_intel", "invalid host state"),
        (7, "kvm_amd", "reason 0x7"),
    ],
)
def test_the_hardware_reason_in_words(reason: int, backend: str, words: str) -> None:
    assert words in entry_failure_reason(reason, backend)


def test_5_level_paging_widens_canonical_addresses(guest: Any) -> None:
    assert inconsistencies(guest.long(rip=1 << 47, cr4=0x20 | 1 << 12)) == []
    assert inconsistencies(guest.long(rip=1 << 56, cr4=0x20 | 1 << 12))


def test_amd_checks_control_registers_only(guest: Any) -> None:
    state = guest.long(rip=1 << 47, tr=Segment(type=3, s=0))
    assert inconsistencies(state)
    assert inconsistencies(state, "kvm_amd") == []
    assert any("CR4.PAE" in r for r in inconsistencies(replace(state, cr4=0), "kvm_amd"))


def test_what_kvm_refuses_to_take(guest: Any) -> None:
    assert refused_sregs(guest.long()) == []
    assert refused_sregs(guest.real()) == []
    assert any("EFER.LMA is 1" in r for r in refused_sregs(guest.long(cr0=0x11)))
    state = guest.protected()
    assert refused_sregs(replace(state, cs=replace(state.cs, l=1))) == [
        "CS.L (64-bit code) is set and EFER.LMA is clear"
    ]
