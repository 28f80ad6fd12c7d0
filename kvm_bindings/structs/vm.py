"""Structures of the VM, its interrupt chips and its devices.

Spec: KVM API, "API description"; layouts from `<linux/kvm.h>` and `<asm/kvm.h>`.
"""

from kvm_bindings.constants import KVM_IOAPIC_NUM_PINS, KVM_MSR_FILTER_MAX_RANGES
from kvm_bindings.structs.base import (
    Annotated,
    Array,
    Struct,
    Union,
    c_uint8,
    c_uint32,
    c_uint64,
    s16,
    s32,
    s64,
    u8,
    u16,
    u32,
    u64,
)


class kvm_pic_state(Struct):
    """One 8259A."""

    last_irr: u8
    irr: u8
    imr: u8
    isr: u8
    priority_add: u8
    irq_base: u8
    read_reg_select: u8
    poll: u8
    special_mask: u8
    init_state: u8
    auto_eoi: u8
    rotate_on_auto_eoi: u8
    special_fully_nested_mode: u8
    init4: u8
    elcr: u8
    elcr_mask: u8


class kvm_ioapic_state(Struct):
    """The IOAPIC; a redirection entry is its 64 bits."""

    base_address: u64
    ioregsel: u32
    id: u32
    irr: u32
    pad: u32
    redirtbl: Annotated[Array[c_uint64], KVM_IOAPIC_NUM_PINS]


class kvm_irqchip_chip(Union):
    """Which member holds is said by kvm_irqchip.chip_id."""

    dummy: Annotated[Array[c_uint8], 512]
    pic: kvm_pic_state
    ioapic: kvm_ioapic_state


class kvm_irqchip(Struct):
    """One interrupt chip: KVM_IRQCHIP_* in `chip_id`."""

    chip_id: u32
    pad: u32
    chip: kvm_irqchip_chip


class kvm_pit_channel_state(Struct):
    """One counter of the 8254; `count` reaches 65,536."""

    count: u32
    latched_count: u16
    count_latched: u8
    status_latched: u8
    status: u8
    read_state: u8
    write_state: u8
    write_latch: u8
    rw_mode: u8
    mode: u8
    bcd: u8
    gate: u8
    count_load_time: s64


class kvm_pit_state2(Struct):
    """The 8254: KVM_PIT_FLAGS_* in `flags`."""

    channels: Annotated[Array[kvm_pit_channel_state], 3]
    flags: u32
    reserved: Annotated[Array[c_uint32], 9]


class kvm_reinject_control(Struct):
    """Whether the PIT makes up for interrupts that were not taken in time."""

    pit_reinject: u8
    reserved: Annotated[Array[c_uint8], 31]


class kvm_irqfd(Struct):
    """Ties an eventfd to a gsi."""

    fd: u32
    gsi: u32
    flags: u32
    resamplefd: u32
    pad: Annotated[Array[c_uint8], 16]


class kvm_ioeventfd(Struct):
    """Ties an address to an eventfd; `len` is 1, 2, 4 or 8 bytes, or 0 for any."""

    datamatch: u64
    addr: u64
    len: u32
    fd: s32
    flags: u32
    pad: Annotated[Array[c_uint8], 36]


class kvm_coalesced_mmio_zone(Struct):
    """Addresses (or ports) whose writes are batched."""

    addr: u64
    size: u32
    pio: u32


class kvm_coalesced_mmio(Struct):
    """One batched write."""

    phys_addr: u64
    len: u32
    pio: u32
    data: Annotated[Array[c_uint8], 8]


class kvm_coalesced_mmio_ring(Struct):
    """Followed by kvm_coalesced_mmio, as many as fill the page."""

    first: u32
    last: u32


class kvm_enable_cap(Struct):
    """A capability to switch on."""

    cap: u32
    flags: u32
    args: Annotated[Array[c_uint64], 4]
    pad: Annotated[Array[c_uint8], 64]


class kvm_irq_routing_irqchip(Struct):
    """A pin of an interrupt chip."""

    irqchip: u32
    pin: u32


class kvm_irq_routing_msi(Struct):
    """A message-signalled interrupt."""

    address_lo: u32
    address_hi: u32
    data: u32
    devid: u32


class kvm_irq_routing_hv_sint(Struct):
    """A synthetic interrupt of Hyper-V."""

    vcpu: u32
    sint: u32


class kvm_irq_routing_u(Union):
    """Which member holds is said by kvm_irq_routing_entry.type."""

    irqchip: kvm_irq_routing_irqchip
    msi: kvm_irq_routing_msi
    hv_sint: kvm_irq_routing_hv_sint
    pad: Annotated[Array[c_uint32], 8]


class kvm_irq_routing_entry(Struct):
    """Where one gsi goes: KVM_IRQ_ROUTING_* in `type`."""

    gsi: u32
    type: u32
    flags: u32
    pad: u32
    u: kvm_irq_routing_u


class kvm_irq_routing(Struct):
    """Followed by `nr` kvm_irq_routing_entry."""

    nr: u32
    flags: u32


class kvm_msi(Struct):
    """A message to inject."""

    address_lo: u32
    address_hi: u32
    data: u32
    flags: u32
    devid: u32
    pad: Annotated[Array[c_uint8], 12]


class kvm_clock_data(Struct):
    """The VM's clock in nanoseconds: KVM_CLOCK_* in `flags`."""

    clock: u64
    flags: u32
    pad0: u32
    realtime: u64
    host_tsc: u64
    pad: Annotated[Array[c_uint32], 4]


class kvm_create_device(Struct):
    """In: KVM_DEV_TYPE_* in `type`. Out: the device's file descriptor."""

    type: u32
    fd: u32
    flags: u32


class kvm_device_attr(Struct):
    """An attribute; its value lies at the address `addr`."""

    flags: u32
    group: u32
    attr: u64
    addr: u64


class kvm_msr_filter_range(Struct):
    """`nmsrs` MSRs from `base`; `bitmap` is the address of one bit each, 1 lets it through."""

    flags: u32
    nmsrs: u32
    base: u32
    bitmap: u64


class kvm_msr_filter(Struct):
    """Which accesses to MSRs leave the kernel."""

    flags: u32
    ranges: Annotated[Array[kvm_msr_filter_range], KVM_MSR_FILTER_MAX_RANGES]


class kvm_stats_header(Struct):
    """The start of a statistics file; offsets count bytes from there."""

    flags: u32
    name_size: u32
    num_desc: u32
    id_offset: u32
    desc_offset: u32
    data_offset: u32


class kvm_stats_desc(Struct):
    """Followed by kvm_stats_header.name_size bytes of name."""

    flags: u32
    exponent: s16
    size: u16
    offset: u32
    bucket_size: u32
