"""The registers of a vCPU, and whether it runs: all that a start needs.

Spec: KVM API, KVM_GET_REGS, KVM_GET_SREGS and KVM_GET_MP_STATE; layouts from `<asm/kvm.h>`.
"""

from kvm_bindings.structs.base import (
    Annotated,
    Array,
    Struct,
    c_uint16,
    c_uint64,
    u8,
    u16,
    u32,
    u64,
)


class kvm_regs(Struct):
    """General registers."""

    rax: u64
    rbx: u64
    rcx: u64
    rdx: u64
    rsi: u64
    rdi: u64
    rsp: u64
    rbp: u64
    r8: u64
    r9: u64
    r10: u64
    r11: u64
    r12: u64
    r13: u64
    r14: u64
    r15: u64
    rip: u64
    rflags: u64


class kvm_segment(Struct):
    """A segment register with its hidden part; `limit` counts bytes, whatever `g` says."""

    base: u64
    limit: u32
    selector: u16
    type: u8
    present: u8
    dpl: u8
    db: u8
    s: u8
    l: u8  # noqa: E741 (the kernel's name)
    g: u8
    avl: u8
    unusable: u8
    padding: u8


class kvm_dtable(Struct):
    """GDTR or IDTR."""

    base: u64
    limit: u16
    padding: Annotated[Array[c_uint16], 3]


class kvm_sregs(Struct):
    """Segment, descriptor table and control registers."""

    cs: kvm_segment
    ds: kvm_segment
    es: kvm_segment
    fs: kvm_segment
    gs: kvm_segment
    ss: kvm_segment
    tr: kvm_segment
    ldt: kvm_segment
    gdt: kvm_dtable
    idt: kvm_dtable
    cr0: u64
    cr2: u64
    cr3: u64
    cr4: u64
    cr8: u64
    efer: u64
    apic_base: u64
    interrupt_bitmap: Annotated[Array[c_uint64], 4]


class kvm_mp_state(Struct):
    """KVM_MP_STATE_*."""

    mp_state: u32
