"""The ioctl requests of the KVM API for x86, as one table.

A request is an int with a name. Its number is put together from the structure that it takes, so
that a wrong layout shows as a wrong number.

Spec: KVM API, "API description"; the encoding is that of `<asm-generic/ioctl.h>`.
"""

from __future__ import annotations

import ctypes
from typing import Literal, Self

from kvm_bindings import structs
from kvm_bindings.constants import KVMIO

__all__ = ["IOCTLS", "Ioctl", "Level"]

Level = Literal["system", "vm", "vcpu", "device"]
"""Which kind of file descriptor takes the request."""

_DIRECTIONS = {"": 0, "W": 1, "R": 2, "WR": 3}


class Ioctl(int):
    """The number of a request, with its name, its level and what it needs.

    `argument` is the structure it takes, or None where it takes an integer or nothing.
    `capability` is the KVM_CAP_* that says whether it is there, or None where it always is.
    """

    name: str
    level: Level
    argument: type | None
    capability: str | None
    as_ulong: ctypes.c_ulong
    """The number ready for libc's ioctl, which takes an unsigned long."""

    @classmethod
    def make(
        cls,
        name: str,
        level: Level,
        direction: str,
        number: int,
        argument: type | None,
        capability: str | None,
    ) -> Self:
        """Encode a request; `direction` is "", "R", "W" or "WR" as in _IO, _IOR, _IOW, _IOWR."""
        size = ctypes.sizeof(argument) if argument and direction else 0
        made = cls(_DIRECTIONS[direction] << 30 | size << 16 | KVMIO << 8 | number)
        made.name, made.level, made.argument, made.capability = name, level, argument, capability
        made.as_ulong = ctypes.c_ulong(made)
        return made

    def __repr__(self) -> str:
        return self.name


IOCTLS: dict[str, Ioctl] = {}
"""Every request by name."""


def _request(
    name: str,
    level: Level,
    direction: str,
    number: int,
    argument: type | None = None,
    capability: str | None = None,
) -> Ioctl:
    made = IOCTLS[name] = Ioctl.make(name, level, direction, number, argument, capability)
    return made


# /dev/kvm
KVM_GET_API_VERSION = _request("KVM_GET_API_VERSION", "system", "", 0x00)
KVM_CREATE_VM = _request("KVM_CREATE_VM", "system", "", 0x01)
KVM_GET_MSR_INDEX_LIST = _request(
    "KVM_GET_MSR_INDEX_LIST", "system", "WR", 0x02, structs.kvm_msr_list
)
KVM_CHECK_EXTENSION = _request("KVM_CHECK_EXTENSION", "system", "", 0x03)
KVM_GET_VCPU_MMAP_SIZE = _request("KVM_GET_VCPU_MMAP_SIZE", "system", "", 0x04)
KVM_GET_SUPPORTED_CPUID = _request(
    "KVM_GET_SUPPORTED_CPUID", "system", "WR", 0x05, structs.kvm_cpuid2, "KVM_CAP_EXT_CPUID"
)
KVM_GET_EMULATED_CPUID = _request(
    "KVM_GET_EMULATED_CPUID", "system", "WR", 0x09, structs.kvm_cpuid2, "KVM_CAP_EXT_EMUL_CPUID"
)
KVM_GET_MSR_FEATURE_INDEX_LIST = _request(
    "KVM_GET_MSR_FEATURE_INDEX_LIST",
    "system",
    "WR",
    0x0A,
    structs.kvm_msr_list,
    "KVM_CAP_GET_MSR_FEATURES",
)

# A VM
KVM_CREATE_VCPU = _request("KVM_CREATE_VCPU", "vm", "", 0x41)
KVM_GET_DIRTY_LOG = _request("KVM_GET_DIRTY_LOG", "vm", "W", 0x42, structs.kvm_dirty_log)
KVM_SET_USER_MEMORY_REGION = _request(
    "KVM_SET_USER_MEMORY_REGION",
    "vm",
    "W",
    0x46,
    structs.kvm_userspace_memory_region,
    "KVM_CAP_USER_MEMORY",
)
KVM_SET_TSS_ADDR = _request("KVM_SET_TSS_ADDR", "vm", "", 0x47, None, "KVM_CAP_SET_TSS_ADDR")
KVM_SET_IDENTITY_MAP_ADDR = _request(
    "KVM_SET_IDENTITY_MAP_ADDR", "vm", "W", 0x48, ctypes.c_uint64, "KVM_CAP_SET_IDENTITY_MAP_ADDR"
)
KVM_CREATE_IRQCHIP = _request("KVM_CREATE_IRQCHIP", "vm", "", 0x60, None, "KVM_CAP_IRQCHIP")
KVM_IRQ_LINE = _request("KVM_IRQ_LINE", "vm", "W", 0x61, structs.kvm_irq_level, "KVM_CAP_IRQCHIP")
KVM_GET_IRQCHIP = _request(
    "KVM_GET_IRQCHIP", "vm", "WR", 0x62, structs.kvm_irqchip, "KVM_CAP_IRQCHIP"
)
KVM_SET_IRQCHIP = _request(
    "KVM_SET_IRQCHIP", "vm", "R", 0x63, structs.kvm_irqchip, "KVM_CAP_IRQCHIP"
)
KVM_REGISTER_COALESCED_MMIO = _request(
    "KVM_REGISTER_COALESCED_MMIO",
    "vm",
    "W",
    0x67,
    structs.kvm_coalesced_mmio_zone,
    "KVM_CAP_COALESCED_MMIO",
)
KVM_UNREGISTER_COALESCED_MMIO = _request(
    "KVM_UNREGISTER_COALESCED_MMIO",
    "vm",
    "W",
    0x68,
    structs.kvm_coalesced_mmio_zone,
    "KVM_CAP_COALESCED_MMIO",
)
KVM_SET_GSI_ROUTING = _request(
    "KVM_SET_GSI_ROUTING", "vm", "W", 0x6A, structs.kvm_irq_routing, "KVM_CAP_IRQ_ROUTING"
)
KVM_REINJECT_CONTROL = _request(
    "KVM_REINJECT_CONTROL", "vm", "", 0x71, structs.kvm_reinject_control, "KVM_CAP_REINJECT_CONTROL"
)
KVM_IRQFD = _request("KVM_IRQFD", "vm", "W", 0x76, structs.kvm_irqfd, "KVM_CAP_IRQFD")
KVM_CREATE_PIT2 = _request(
    "KVM_CREATE_PIT2", "vm", "W", 0x77, structs.kvm_pit_config, "KVM_CAP_PIT2"
)
KVM_SET_BOOT_CPU_ID = _request(
    "KVM_SET_BOOT_CPU_ID", "vm", "", 0x78, None, "KVM_CAP_SET_BOOT_CPU_ID"
)
KVM_IOEVENTFD = _request(
    "KVM_IOEVENTFD", "vm", "W", 0x79, structs.kvm_ioeventfd, "KVM_CAP_IOEVENTFD"
)
KVM_SET_CLOCK = _request(
    "KVM_SET_CLOCK", "vm", "W", 0x7B, structs.kvm_clock_data, "KVM_CAP_ADJUST_CLOCK"
)
KVM_GET_CLOCK = _request(
    "KVM_GET_CLOCK", "vm", "R", 0x7C, structs.kvm_clock_data, "KVM_CAP_ADJUST_CLOCK"
)
KVM_GET_PIT2 = _request(
    "KVM_GET_PIT2", "vm", "R", 0x9F, structs.kvm_pit_state2, "KVM_CAP_PIT_STATE2"
)
KVM_SET_PIT2 = _request(
    "KVM_SET_PIT2", "vm", "W", 0xA0, structs.kvm_pit_state2, "KVM_CAP_PIT_STATE2"
)
KVM_SIGNAL_MSI = _request("KVM_SIGNAL_MSI", "vm", "W", 0xA5, structs.kvm_msi, "KVM_CAP_SIGNAL_MSI")
KVM_CLEAR_DIRTY_LOG = _request(
    "KVM_CLEAR_DIRTY_LOG",
    "vm",
    "WR",
    0xC0,
    structs.kvm_clear_dirty_log,
    "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
)
KVM_X86_SET_MSR_FILTER = _request(
    "KVM_X86_SET_MSR_FILTER", "vm", "W", 0xC6, structs.kvm_msr_filter, "KVM_CAP_X86_MSR_FILTER"
)
KVM_RESET_DIRTY_RINGS = _request(
    "KVM_RESET_DIRTY_RINGS", "vm", "", 0xC7, None, "KVM_CAP_DIRTY_LOG_RING"
)
KVM_CREATE_DEVICE = _request(
    "KVM_CREATE_DEVICE", "vm", "WR", 0xE0, structs.kvm_create_device, "KVM_CAP_DEVICE_CTRL"
)

# A vCPU (KVM_ENABLE_CAP and KVM_GET_STATS_FD: a VM too)
KVM_RUN = _request("KVM_RUN", "vcpu", "", 0x80)
KVM_GET_REGS = _request("KVM_GET_REGS", "vcpu", "R", 0x81, structs.kvm_regs)
KVM_SET_REGS = _request("KVM_SET_REGS", "vcpu", "W", 0x82, structs.kvm_regs)
KVM_GET_SREGS = _request("KVM_GET_SREGS", "vcpu", "R", 0x83, structs.kvm_sregs)
KVM_SET_SREGS = _request("KVM_SET_SREGS", "vcpu", "W", 0x84, structs.kvm_sregs)
KVM_TRANSLATE = _request("KVM_TRANSLATE", "vcpu", "WR", 0x85, structs.kvm_translation)
KVM_INTERRUPT = _request("KVM_INTERRUPT", "vcpu", "W", 0x86, structs.kvm_interrupt)
KVM_GET_MSRS = _request("KVM_GET_MSRS", "vcpu", "WR", 0x88, structs.kvm_msrs)
KVM_SET_MSRS = _request("KVM_SET_MSRS", "vcpu", "W", 0x89, structs.kvm_msrs)
KVM_SET_SIGNAL_MASK = _request("KVM_SET_SIGNAL_MASK", "vcpu", "W", 0x8B, structs.kvm_signal_mask)
KVM_GET_FPU = _request("KVM_GET_FPU", "vcpu", "R", 0x8C, structs.kvm_fpu)
KVM_SET_FPU = _request("KVM_SET_FPU", "vcpu", "W", 0x8D, structs.kvm_fpu)
KVM_GET_LAPIC = _request(
    "KVM_GET_LAPIC", "vcpu", "R", 0x8E, structs.kvm_lapic_state, "KVM_CAP_IRQCHIP"
)
KVM_SET_LAPIC = _request(
    "KVM_SET_LAPIC", "vcpu", "W", 0x8F, structs.kvm_lapic_state, "KVM_CAP_IRQCHIP"
)
KVM_SET_CPUID2 = _request(
    "KVM_SET_CPUID2", "vcpu", "W", 0x90, structs.kvm_cpuid2, "KVM_CAP_EXT_CPUID"
)
KVM_GET_CPUID2 = _request(
    "KVM_GET_CPUID2", "vcpu", "WR", 0x91, structs.kvm_cpuid2, "KVM_CAP_EXT_CPUID"
)
KVM_GET_MP_STATE = _request(
    "KVM_GET_MP_STATE", "vcpu", "R", 0x98, structs.kvm_mp_state, "KVM_CAP_MP_STATE"
)
KVM_SET_MP_STATE = _request(
    "KVM_SET_MP_STATE", "vcpu", "W", 0x99, structs.kvm_mp_state, "KVM_CAP_MP_STATE"
)
KVM_NMI = _request("KVM_NMI", "vcpu", "", 0x9A, None, "KVM_CAP_USER_NMI")
KVM_SET_GUEST_DEBUG = _request(
    "KVM_SET_GUEST_DEBUG", "vcpu", "W", 0x9B, structs.kvm_guest_debug, "KVM_CAP_SET_GUEST_DEBUG"
)
KVM_GET_VCPU_EVENTS = _request(
    "KVM_GET_VCPU_EVENTS", "vcpu", "R", 0x9F, structs.kvm_vcpu_events, "KVM_CAP_VCPU_EVENTS"
)
KVM_SET_VCPU_EVENTS = _request(
    "KVM_SET_VCPU_EVENTS", "vcpu", "W", 0xA0, structs.kvm_vcpu_events, "KVM_CAP_VCPU_EVENTS"
)
KVM_GET_DEBUGREGS = _request(
    "KVM_GET_DEBUGREGS", "vcpu", "R", 0xA1, structs.kvm_debugregs, "KVM_CAP_DEBUGREGS"
)
KVM_SET_DEBUGREGS = _request(
    "KVM_SET_DEBUGREGS", "vcpu", "W", 0xA2, structs.kvm_debugregs, "KVM_CAP_DEBUGREGS"
)
KVM_SET_TSC_KHZ = _request("KVM_SET_TSC_KHZ", "vcpu", "", 0xA2, None, "KVM_CAP_TSC_CONTROL")
KVM_GET_TSC_KHZ = _request("KVM_GET_TSC_KHZ", "vcpu", "", 0xA3, None, "KVM_CAP_GET_TSC_KHZ")
KVM_ENABLE_CAP = _request(
    "KVM_ENABLE_CAP", "vcpu", "W", 0xA3, structs.kvm_enable_cap, "KVM_CAP_ENABLE_CAP"
)
KVM_GET_XSAVE = _request("KVM_GET_XSAVE", "vcpu", "R", 0xA4, structs.kvm_xsave, "KVM_CAP_XSAVE")
KVM_SET_XSAVE = _request("KVM_SET_XSAVE", "vcpu", "W", 0xA5, structs.kvm_xsave, "KVM_CAP_XSAVE")
KVM_GET_XCRS = _request("KVM_GET_XCRS", "vcpu", "R", 0xA6, structs.kvm_xcrs, "KVM_CAP_XCRS")
KVM_SET_XCRS = _request("KVM_SET_XCRS", "vcpu", "W", 0xA7, structs.kvm_xcrs, "KVM_CAP_XCRS")
KVM_KVMCLOCK_CTRL = _request("KVM_KVMCLOCK_CTRL", "vcpu", "", 0xAD, None, "KVM_CAP_KVMCLOCK_CTRL")
KVM_SMI = _request("KVM_SMI", "vcpu", "", 0xB7, None, "KVM_CAP_X86_SMM")
KVM_GET_NESTED_STATE = _request(
    "KVM_GET_NESTED_STATE", "vcpu", "WR", 0xBE, structs.kvm_nested_state, "KVM_CAP_NESTED_STATE"
)
KVM_SET_NESTED_STATE = _request(
    "KVM_SET_NESTED_STATE", "vcpu", "W", 0xBF, structs.kvm_nested_state, "KVM_CAP_NESTED_STATE"
)
KVM_GET_SREGS2 = _request("KVM_GET_SREGS2", "vcpu", "R", 0xCC, structs.kvm_sregs2, "KVM_CAP_SREGS2")
KVM_SET_SREGS2 = _request("KVM_SET_SREGS2", "vcpu", "W", 0xCD, structs.kvm_sregs2, "KVM_CAP_SREGS2")
KVM_GET_STATS_FD = _request("KVM_GET_STATS_FD", "vcpu", "", 0xCE, None, "KVM_CAP_BINARY_STATS_FD")
KVM_GET_XSAVE2 = _request("KVM_GET_XSAVE2", "vcpu", "R", 0xCF, structs.kvm_xsave, "KVM_CAP_XSAVE2")

# A device made with KVM_CREATE_DEVICE
KVM_SET_DEVICE_ATTR = _request(
    "KVM_SET_DEVICE_ATTR", "device", "W", 0xE1, structs.kvm_device_attr, "KVM_CAP_DEVICE_CTRL"
)
KVM_GET_DEVICE_ATTR = _request(
    "KVM_GET_DEVICE_ATTR", "device", "W", 0xE2, structs.kvm_device_attr, "KVM_CAP_DEVICE_CTRL"
)
KVM_HAS_DEVICE_ATTR = _request(
    "KVM_HAS_DEVICE_ATTR", "device", "W", 0xE3, structs.kvm_device_attr, "KVM_CAP_DEVICE_CTRL"
)
