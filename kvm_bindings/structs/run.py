"""kvm_run: the page that the kernel and the VMM share for one vCPU.

Spec: KVM API, "The kvm_run structure".
"""

from kvm_bindings.structs.base import (
    Annotated,
    Array,
    Struct,
    Union,
    c_uint8,
    c_uint64,
    u8,
    u16,
    u32,
    u64,
)
from kvm_bindings.structs.cpu import kvm_vcpu_events
from kvm_bindings.structs.registers import kvm_regs, kvm_sregs

TYPE_CHECKING = False


class kvm_run_hw(Struct):
    """KVM_EXIT_UNKNOWN."""

    hardware_exit_reason: u64


class kvm_run_fail_entry(Struct):
    """KVM_EXIT_FAIL_ENTRY."""

    hardware_entry_failure_reason: u64
    cpu: u32


class kvm_run_ex(Struct):
    """KVM_EXIT_EXCEPTION."""

    exception: u32
    error_code: u32


class kvm_run_io(Struct):
    """KVM_EXIT_IO: `count` elements of `size` bytes, `data_offset` bytes into the page."""

    direction: u8
    size: u8
    port: u16
    count: u32
    data_offset: u64


class kvm_debug_exit_arch(Struct):
    """Which debug exception it was, and where."""

    exception: u32
    pad: u32
    pc: u64
    dr6: u64
    dr7: u64


class kvm_run_debug(Struct):
    """KVM_EXIT_DEBUG."""

    arch: kvm_debug_exit_arch


class kvm_run_mmio(Struct):
    """KVM_EXIT_MMIO: `len` bytes (1 to 8) of `data`."""

    phys_addr: u64
    data: Annotated[Array[c_uint8], 8]
    len: u32
    is_write: u8


class kvm_run_hypercall(Struct):
    """KVM_EXIT_HYPERCALL."""

    nr: u64
    args: Annotated[Array[c_uint64], 6]
    ret: u64
    longmode: u32


class kvm_run_tpr_access(Struct):
    """KVM_EXIT_TPR_ACCESS."""

    rip: u64
    is_write: u32
    pad: u32


class kvm_run_internal(Struct):
    """KVM_EXIT_INTERNAL_ERROR: the first `ndata` of `data` are valid."""

    suberror: u32
    ndata: u32
    data: Annotated[Array[c_uint64], 16]


class kvm_run_emulation_failure(Struct):
    """The same with suberror KVM_INTERNAL_ERROR_EMULATION."""

    suberror: u32
    ndata: u32
    flags: u64
    insn_size: u8
    insn_bytes: Annotated[Array[c_uint8], 15]


class kvm_run_system_event(Struct):
    """KVM_EXIT_SYSTEM_EVENT: the first `ndata` of `data` are valid."""

    type: u32
    ndata: u32
    data: Annotated[Array[c_uint64], 16]


class kvm_run_eoi(Struct):
    """KVM_EXIT_IOAPIC_EOI."""

    vector: u8


class kvm_run_msr(Struct):
    """KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR."""

    error: u8
    pad: Annotated[Array[c_uint8], 7]
    reason: u32
    index: u32
    data: u64


class kvm_run_notify(Struct):
    """KVM_EXIT_NOTIFY."""

    flags: u32


class kvm_run_memory_fault(Struct):
    """KVM_EXIT_MEMORY_FAULT."""

    flags: u64
    gpa: u64
    size: u64


class kvm_run_exit(Union):
    """What belongs to the exit reason. It has no name in the kernel's header."""

    hw: kvm_run_hw
    fail_entry: kvm_run_fail_entry
    ex: kvm_run_ex
    io: kvm_run_io
    debug: kvm_run_debug
    mmio: kvm_run_mmio
    hypercall: kvm_run_hypercall
    tpr_access: kvm_run_tpr_access
    internal: kvm_run_internal
    emulation_failure: kvm_run_emulation_failure
    system_event: kvm_run_system_event
    eoi: kvm_run_eoi
    msr: kvm_run_msr
    notify: kvm_run_notify
    memory_fault: kvm_run_memory_fault
    padding: Annotated[Array[c_uint8], 256]


class kvm_sync_regs(Struct):
    """The registers that KVM_CAP_SYNC_REGS delivers with an exit."""

    regs: kvm_regs
    sregs: kvm_sregs
    events: kvm_vcpu_events


class kvm_run_s(Union):
    """The room for kvm_sync_regs."""

    regs: kvm_sync_regs
    padding: Annotated[Array[c_uint8], 2048]


class kvm_run(Struct):
    """The shared page. Members of the exit union are reached directly: `run.io.port`."""

    _anonymous_ = ("exit_union",)

    request_interrupt_window: u8
    immediate_exit: u8
    padding1: Annotated[Array[c_uint8], 6]
    exit_reason: u32
    ready_for_interrupt_injection: u8
    if_flag: u8
    flags: u16
    cr8: u64
    apic_base: u64
    exit_union: kvm_run_exit
    kvm_valid_regs: u64
    kvm_dirty_regs: u64
    s: kvm_run_s

    if TYPE_CHECKING:
        hw: kvm_run_hw
        fail_entry: kvm_run_fail_entry
        ex: kvm_run_ex
        io: kvm_run_io
        debug: kvm_run_debug
        mmio: kvm_run_mmio
        hypercall: kvm_run_hypercall
        tpr_access: kvm_run_tpr_access
        internal: kvm_run_internal
        emulation_failure: kvm_run_emulation_failure
        system_event: kvm_run_system_event
        eoi: kvm_run_eoi
        msr: kvm_run_msr
        notify: kvm_run_notify
        memory_fault: kvm_run_memory_fault
