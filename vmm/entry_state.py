"""Guest state that a processor refuses to enter, or KVM to take.

The checks are those that state set through KVM can fail; what concerns only the VMCB or the
VMCS, which the kernel fills, is left out. AMD's processors check control registers alone: segments
are taken as they are, and base addresses made canonical. Intel's check everything.

Spec: AMD64 APM vol. 2, "Canonicalization and Consistency Checks"; Intel SDM vol. 3, "Checks on
the Guest State Area".
"""

from __future__ import annotations

from collections.abc import Iterator

from vmm.cpustate import CR4_BITS, EFER_BITS, CpuState, Segment

__all__ = ["entry_failure_reason", "inconsistencies", "refused_sregs"]

_VMX_EXITS = {
    33: "VM entry failed: invalid guest state",
    34: "VM entry failed: an MSR could not be loaded",
    41: "VM entry failed: machine check",
}
_VMX_INSTRUCTION_ERRORS = {
    7: "VM entry with invalid control fields",
    8: "VM entry with invalid host state",
}
_CR4_KNOWN = sum(1 << bit for bit in CR4_BITS)
_EFER_KNOWN = sum(1 << bit for bit in EFER_BITS)


def entry_failure_reason(reason: int, backend: str = "") -> str:
    """Name the `hardware_entry_failure_reason` of KVM_EXIT_FAIL_ENTRY.

    Spec: AMD64 APM vol. 2, "SVM Intercept Exit Codes"; Intel SDM vol. 3, "VMX Basic Exit Reasons"
    and "VM Instruction Error Numbers".
    """
    # The kernel kept the code in 32 bits for long; both widths of -1 are seen.
    if reason in (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):
        return "VMEXIT_INVALID: the processor found the guest's state inconsistent"
    if reason >> 31 & 1:
        return _VMX_EXITS.get(reason & 0xFFFF, f"VM entry failed: exit reason {reason & 0xFFFF}")
    if backend != "kvm_amd" and reason in _VMX_INSTRUCTION_ERRORS:
        return _VMX_INSTRUCTION_ERRORS[reason]
    return f"reason {reason:#x}"


def inconsistencies(state: CpuState, backend: str = "") -> list[str]:
    """Every rule that `state` breaks, in words; empty if none that is known here.

    With the backend "kvm_amd" these are the rules of AMD's processors only.
    """
    if backend == "kvm_amd":
        return list(_control(state))
    return [*_control(state), *_segments(state), *_pointers(state)]


def refused_sregs(state: CpuState) -> list[str]:
    """Why KVM_SET_SREGS refuses `state`, as far as it can be told without the guest's CPUID.

    Spec: KVM API, KVM_SET_SREGS.
    """
    broken = list(_control(state))
    if state.cs.l and not state.efer >> 10 & 1:
        broken.append("CS.L (64-bit code) is set and EFER.LMA is clear")
    return broken


def _control(state: CpuState) -> Iterator[str]:
    cr0, cr4, efer = state.cr0, state.cr4, state.efer
    pe, pg, pae = cr0 & 1, cr0 >> 31 & 1, cr4 >> 5 & 1
    lme, lma = efer >> 8 & 1, efer >> 10 & 1
    if cr0 >> 32:
        yield "CR0 has bits set above bit 31"
    if cr0 >> 29 & 1 and not cr0 >> 30 & 1:
        yield "CR0.NW is set and CR0.CD is clear"
    if pg and not pe:
        yield "CR0.PG (paging) is set and CR0.PE (protected mode) is clear"
    if cr4 & ~_CR4_KNOWN:
        yield f"CR4 has reserved bits set ({cr4 & ~_CR4_KNOWN:#x})"
    if efer & ~_EFER_KNOWN:
        yield f"EFER has reserved bits set ({efer & ~_EFER_KNOWN:#x})"
    if pg and lme and not pae:
        yield "long mode (EFER.LME) with paging needs CR4.PAE, which is clear"
    if lma != (lme & pg):
        yield (
            f"EFER.LMA is {lma}, but EFER.LME and CR0.PG say {lme & pg}: "
            "set LMA by hand together with LME and PG"
        )
    if lma and state.cs.l and state.cs.db:
        yield "CS.L and CS.D are both set in long mode"
    if cr4 >> 17 & 1 and not lma:
        yield "CR4.PCIDE is set outside of long mode"
    if cr4 >> 23 & 1 and not cr0 >> 16 & 1:
        yield "CR4.CET is set and CR0.WP is clear"
    if state.cr3 >> 52 and not state.cr4 >> 28 & 1:
        yield f"CR3 has bits set above the physical addresses ({state.cr3:#x})"


def _segments(state: CpuState) -> Iterator[str]:
    if state.mode == "virtual-8086":
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            segment: Segment = getattr(state, name)
            if segment.base != segment.selector << 4:
                yield f"virtual-8086 mode: {name.upper()}'s base is not its selector times 16"
            if segment.limit != 0xFFFF:
                yield f"virtual-8086 mode: {name.upper()}'s limit is not 0xffff"
        return
    cs, ss = state.cs, state.ss
    if not cs.present or not cs.s or cs.unusable:
        yield "CS is not present, not usable or a system segment"
    elif state.cr0 & 1:
        if not cs.type & 8:
            yield f"CS is a data segment (type {cs.type:#x})"
        elif not cs.type & 1:
            yield f"CS is not marked accessed (type {cs.type:#x}); set bit 0"
        elif cs.type & 4 == 0 and cs.dpl != ss.dpl:
            yield f"CS.DPL is {cs.dpl} and SS.DPL is {ss.dpl}; they must agree"
    for name in ("ss", "ds", "es", "fs", "gs"):
        segment = getattr(state, name)
        if not segment.unusable and segment.present and not segment.type & 1:
            yield f"{name.upper()} is not marked accessed (type {segment.type:#x}); set bit 0"
        elif not segment.unusable and segment.type & 8 and not segment.type & 2:
            yield f"{name.upper()} is code that cannot be read (type {segment.type:#x})"
    if not ss.unusable and ss.type not in (3, 7):
        yield f"SS is not a writable data segment (type {ss.type:#x})"
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        segment = getattr(state, name)
        if segment.unusable:
            continue
        if not segment.s:
            yield f"{name.upper()} is a system segment (S is clear)"
        if segment.g and segment.limit & 0xFFF != 0xFFF:
            yield f"{name.upper()}.G is set, so the limit {segment.limit:#x} must end in fff"
        if not segment.g and segment.limit >> 20:
            yield f"{name.upper()}.G is clear, so the limit {segment.limit:#x} is too large"
    if state.long_mode and (state.tr.type != 11 or state.tr.unusable):
        yield f"TR must hold a busy 64-bit TSS (type 11) in long mode; its type is {state.tr.type}"
    elif not state.tr.unusable and state.tr.type not in (3, 11):
        yield f"TR must hold a busy TSS (type 3 or 11); its type is {state.tr.type}"
    for name, table in (("TR", state.tr), ("LDTR", state.ldt)):
        if table.unusable:
            continue
        if table.s or not table.present:
            yield f"{name} is not present or not a system segment"
        if table.selector >> 2 & 1:
            yield f"{name}'s selector {table.selector:#x} points into the LDT"
    if not state.ldt.unusable and state.ldt.type != 2:
        yield f"LDTR must hold an LDT (type 2); its type is {state.ldt.type}"


def _pointers(state: CpuState) -> Iterator[str]:
    if not state.rflags & 2:
        yield "RFLAGS bit 1 is clear; it is always one"
    if state.rflags & ~0x3F7FD7:
        yield f"RFLAGS has reserved bits set ({state.rflags & ~0x3F7FD7:#x})"
    if state.rflags >> 17 & 1 and (state.long_mode or not state.cr0 & 1):
        yield "RFLAGS.VM is set outside of protected mode"
    if state.code_size != 64 and state.rip >> 32:
        yield f"RIP {state.rip:#x} has more than 32 bits outside of 64-bit code"
    width = 57 if state.cr4 >> 12 & 1 else 48
    for name, value in (
        ("RIP", state.rip), ("FS.base", state.fs.base), ("GS.base", state.gs.base),
        ("GDTR.base", state.gdt.base), ("IDTR.base", state.idt.base), ("TR.base", state.tr.base),
    ):  # fmt: skip
        if state.long_mode and value >> (width - 1) not in (0, (1 << (65 - width)) - 1):
            yield f"{name} {value:#x} is not canonical"
