"""Structures that hold the state of one vCPU.

Spec: KVM API, "API description"; layouts from `<asm/kvm.h>`.
"""

from kvm_bindings.constants import KVM_APIC_REG_SIZE, KVM_MAX_XCRS
from kvm_bindings.structs.base import (
    Annotated,
    Array,
    Struct,
    Union,
    c_uint8,
    c_uint32,
    c_uint64,
    u8,
    u16,
    u32,
    u64,
)
from kvm_bindings.structs.registers import kvm_dtable, kvm_segment


class kvm_sregs2(Struct):
    """As kvm_sregs, with the PAE page directory pointers instead of the pending interrupt."""

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
    flags: u64
    pdptrs: Annotated[Array[c_uint64], 4]


class kvm_fpu(Struct):
    """x87 and SSE registers; `fpr` and `xmm` are arrays of 16-byte registers."""

    fpr: Annotated[Array[Array[c_uint8]], 8, 16]
    fcw: u16
    fsw: u16
    ftwx: u8
    pad1: u8
    last_opcode: u16
    last_ip: u64
    last_dp: u64
    xmm: Annotated[Array[Array[c_uint8]], 16, 16]
    mxcsr: u32
    pad2: u32


class kvm_xsave(Struct):
    """The XSAVE area in its standard form. With KVM_CAP_XSAVE2 more bytes may follow."""

    region: Annotated[Array[c_uint32], 1024]


class kvm_xcr(Struct):
    """One extended control register."""

    xcr: u32
    reserved: u32
    value: u64


class kvm_xcrs(Struct):
    """The first `nr_xcrs` of `xcrs` are valid."""

    nr_xcrs: u32
    flags: u32
    xcrs: Annotated[Array[kvm_xcr], KVM_MAX_XCRS]
    padding: Annotated[Array[c_uint64], 16]


class kvm_lapic_state(Struct):
    """The local APIC's register page, 1,024 bytes."""

    regs: Annotated[Array[c_uint8], KVM_APIC_REG_SIZE]


class kvm_msr_entry(Struct):
    """One model-specific register."""

    index: u32
    reserved: u32
    data: u64


class kvm_msrs(Struct):
    """Followed by `nmsrs` kvm_msr_entry."""

    nmsrs: u32
    pad: u32


class kvm_msr_list(Struct):
    """Followed by `nmsrs` MSR indices of 32 bits."""

    nmsrs: u32


class kvm_vcpu_events_exception(Struct):
    """An exception that waits or is being delivered."""

    injected: u8
    nr: u8
    has_error_code: u8
    pending: u8
    error_code: u32


class kvm_vcpu_events_interrupt(Struct):
    """An interrupt that is being delivered, and the interrupt shadow."""

    injected: u8
    nr: u8
    soft: u8
    shadow: u8


class kvm_vcpu_events_nmi(Struct):
    """The state of non-maskable interrupts."""

    injected: u8
    pending: u8
    masked: u8
    pad: u8


class kvm_vcpu_events_smi(Struct):
    """The state of system management interrupts."""

    smm: u8
    pending: u8
    smm_inside_nmi: u8
    latched_init: u8


class kvm_vcpu_events_triple_fault(Struct):
    """A triple fault that waits."""

    pending: u8


class kvm_vcpu_events(Struct):
    """Events that wait or are being delivered."""

    exception: kvm_vcpu_events_exception
    interrupt: kvm_vcpu_events_interrupt
    nmi: kvm_vcpu_events_nmi
    sipi_vector: u32
    flags: u32
    smi: kvm_vcpu_events_smi
    triple_fault: kvm_vcpu_events_triple_fault
    reserved: Annotated[Array[c_uint8], 26]
    exception_has_payload: u8
    exception_payload: u64


class kvm_debugregs(Struct):
    """The guest's debug registers."""

    db: Annotated[Array[c_uint64], 4]
    dr6: u64
    dr7: u64
    flags: u64
    reserved: Annotated[Array[c_uint64], 9]


class kvm_guest_debug_arch(Struct):
    """The debug registers that the host wants to be in force."""

    debugreg: Annotated[Array[c_uint64], 8]


class kvm_guest_debug(Struct):
    """What KVM_SET_GUEST_DEBUG switches on: KVM_GUESTDBG_* in `control`."""

    control: u32
    pad: u32
    arch: kvm_guest_debug_arch


class kvm_translation(Struct):
    """In: a linear address. Out: what the guest's page tables make of it."""

    linear_address: u64
    physical_address: u64
    valid: u8
    writeable: u8
    usermode: u8
    pad: Annotated[Array[c_uint8], 5]


class kvm_interrupt(Struct):
    """The vector to inject where no interrupt chip is in the kernel."""

    irq: u32


class kvm_signal_mask(Struct):
    """Followed by `len` bytes of signal set."""

    len: u32


class kvm_vmx_nested_state_smm(Struct):
    """KVM_STATE_NESTED_SMM_*."""

    flags: u16


class kvm_vmx_nested_state_hdr(Struct):
    """Nested virtualization on VT-x."""

    vmxon_pa: u64
    vmcs12_pa: u64
    smm: kvm_vmx_nested_state_smm
    pad: u16
    flags: u32
    preemption_timer_deadline: u64


class kvm_svm_nested_state_hdr(Struct):
    """Nested virtualization on AMD-V."""

    vmcb_pa: u64


class kvm_nested_state_hdr(Union):
    """Which member holds is said by kvm_nested_state.format."""

    vmx: kvm_vmx_nested_state_hdr
    svm: kvm_svm_nested_state_hdr
    pad: Annotated[Array[c_uint8], 120]


class kvm_nested_state(Struct):
    """A header of 128 bytes; `size` counts it and the data that follows."""

    flags: u16
    format: u16
    size: u32
    hdr: kvm_nested_state_hdr
