"""The ioctl requests of the KVM API for x86, as one table.

A request is an int with a name, made when it is first used: `ioctls.KVM_GET_REGS`. Its number is
put together from the structure that it takes, so that a wrong layout shows as a wrong number.

Spec: KVM API, "API description"; the encoding is that of `<asm-generic/ioctl.h>`.
"""

from __future__ import annotations

import ctypes

from kvm_bindings import structs
from kvm_bindings.constants import KVMIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self, TypeAlias

    Level: TypeAlias = Literal["system", "vm", "vcpu", "device", "vhost"]
    """Which kind of file descriptor takes the request."""

__all__ = ["NAMES", "Ioctl"]

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
        capability: str | None = None,
        *,
        type: int = KVMIO,
    ) -> Self:
        """Encode a request; `direction` is "", "R", "W" or "WR" as in _IO, _IOR, _IOW, _IOWR.

        `type` is the byte that tells the requests of one interface of the kernel from another's.
        """
        size = ctypes.sizeof(argument) if argument and direction else 0
        made = cls(_DIRECTIONS[direction] << 30 | size << 16 | type << 8 | number)
        made.name, made.level, made.argument, made.capability = name, level, argument, capability
        made.as_ulong = ctypes.c_ulong(made)
        return made

    def __repr__(self) -> str:
        return self.name


# name: (level, direction, number, structure, capability)
_TABLE: dict[str, tuple[Level, str, int, str | None, str | None]] = {
    # /dev/kvm
    "KVM_GET_API_VERSION": ("system", "", 0x00, None, None),
    "KVM_CREATE_VM": ("system", "", 0x01, None, None),
    "KVM_GET_MSR_INDEX_LIST": ("system", "WR", 0x02, "kvm_msr_list", None),
    "KVM_CHECK_EXTENSION": ("system", "", 0x03, None, None),
    "KVM_GET_VCPU_MMAP_SIZE": ("system", "", 0x04, None, None),
    "KVM_GET_SUPPORTED_CPUID": ("system", "WR", 0x05, "kvm_cpuid2", "KVM_CAP_EXT_CPUID"),
    "KVM_GET_EMULATED_CPUID": ("system", "WR", 0x09, "kvm_cpuid2", "KVM_CAP_EXT_EMUL_CPUID"),
    "KVM_GET_MSR_FEATURE_INDEX_LIST": (
        "system",
        "WR",
        0x0A,
        "kvm_msr_list",
        "KVM_CAP_GET_MSR_FEATURES",
    ),
    # A VM
    "KVM_CREATE_VCPU": ("vm", "", 0x41, None, None),
    "KVM_GET_DIRTY_LOG": ("vm", "W", 0x42, "kvm_dirty_log", None),
    "KVM_SET_USER_MEMORY_REGION": (
        "vm",
        "W",
        0x46,
        "kvm_userspace_memory_region",
        "KVM_CAP_USER_MEMORY",
    ),
    "KVM_SET_TSS_ADDR": ("vm", "", 0x47, None, "KVM_CAP_SET_TSS_ADDR"),
    "KVM_SET_IDENTITY_MAP_ADDR": ("vm", "W", 0x48, "c_uint64", "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    "KVM_CREATE_IRQCHIP": ("vm", "", 0x60, None, "KVM_CAP_IRQCHIP"),
    "KVM_IRQ_LINE": ("vm", "W", 0x61, "kvm_irq_level", "KVM_CAP_IRQCHIP"),
    "KVM_GET_IRQCHIP": ("vm", "WR", 0x62, "kvm_irqchip", "KVM_CAP_IRQCHIP"),
    "KVM_SET_IRQCHIP": ("vm", "R", 0x63, "kvm_irqchip", "KVM_CAP_IRQCHIP"),
    "KVM_REGISTER_COALESCED_MMIO": (
        "vm",
        "W",
        0x67,
        "kvm_coalesced_mmio_zone",
        "KVM_CAP_COALESCED_MMIO",
    ),
    "KVM_UNREGISTER_COALESCED_MMIO": (
        "vm",
        "W",
        0x68,
        "kvm_coalesced_mmio_zone",
        "KVM_CAP_COALESCED_MMIO",
    ),
    "KVM_SET_GSI_ROUTING": ("vm", "W", 0x6A, "kvm_irq_routing", "KVM_CAP_IRQ_ROUTING"),
    "KVM_REINJECT_CONTROL": ("vm", "", 0x71, "kvm_reinject_control", "KVM_CAP_REINJECT_CONTROL"),
    "KVM_IRQFD": ("vm", "W", 0x76, "kvm_irqfd", "KVM_CAP_IRQFD"),
    "KVM_CREATE_PIT2": ("vm", "W", 0x77, "kvm_pit_config", "KVM_CAP_PIT2"),
    "KVM_SET_BOOT_CPU_ID": ("vm", "", 0x78, None, "KVM_CAP_SET_BOOT_CPU_ID"),
    "KVM_IOEVENTFD": ("vm", "W", 0x79, "kvm_ioeventfd", "KVM_CAP_IOEVENTFD"),
    "KVM_SET_CLOCK": ("vm", "W", 0x7B, "kvm_clock_data", "KVM_CAP_ADJUST_CLOCK"),
    "KVM_GET_CLOCK": ("vm", "R", 0x7C, "kvm_clock_data", "KVM_CAP_ADJUST_CLOCK"),
    "KVM_GET_PIT2": ("vm", "R", 0x9F, "kvm_pit_state2", "KVM_CAP_PIT_STATE2"),
    "KVM_SET_PIT2": ("vm", "W", 0xA0, "kvm_pit_state2", "KVM_CAP_PIT_STATE2"),
    "KVM_SIGNAL_MSI": ("vm", "W", 0xA5, "kvm_msi", "KVM_CAP_SIGNAL_MSI"),
    "KVM_CLEAR_DIRTY_LOG": (
        "vm",
        "WR",
        0xC0,
        "kvm_clear_dirty_log",
        "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
    ),
    "KVM_X86_SET_MSR_FILTER": ("vm", "W", 0xC6, "kvm_msr_filter", "KVM_CAP_X86_MSR_FILTER"),
    "KVM_RESET_DIRTY_RINGS": ("vm", "", 0xC7, None, "KVM_CAP_DIRTY_LOG_RING"),
    "KVM_CREATE_DEVICE": ("vm", "WR", 0xE0, "kvm_create_device", "KVM_CAP_DEVICE_CTRL"),
    # A vCPU (KVM_ENABLE_CAP and KVM_GET_STATS_FD: a VM too)
    "KVM_RUN": ("vcpu", "", 0x80, None, None),
    "KVM_GET_REGS": ("vcpu", "R", 0x81, "kvm_regs", None),
    "KVM_SET_REGS": ("vcpu", "W", 0x82, "kvm_regs", None),
    "KVM_GET_SREGS": ("vcpu", "R", 0x83, "kvm_sregs", None),
    "KVM_SET_SREGS": ("vcpu", "W", 0x84, "kvm_sregs", None),
    "KVM_TRANSLATE": ("vcpu", "WR", 0x85, "kvm_translation", None),
    "KVM_INTERRUPT": ("vcpu", "W", 0x86, "kvm_interrupt", None),
    "KVM_GET_MSRS": ("vcpu", "WR", 0x88, "kvm_msrs", None),
    "KVM_SET_MSRS": ("vcpu", "W", 0x89, "kvm_msrs", None),
    "KVM_SET_SIGNAL_MASK": ("vcpu", "W", 0x8B, "kvm_signal_mask", None),
    "KVM_GET_FPU": ("vcpu", "R", 0x8C, "kvm_fpu", None),
    "KVM_SET_FPU": ("vcpu", "W", 0x8D, "kvm_fpu", None),
    "KVM_GET_LAPIC": ("vcpu", "R", 0x8E, "kvm_lapic_state", "KVM_CAP_IRQCHIP"),
    "KVM_SET_LAPIC": ("vcpu", "W", 0x8F, "kvm_lapic_state", "KVM_CAP_IRQCHIP"),
    "KVM_SET_CPUID2": ("vcpu", "W", 0x90, "kvm_cpuid2", "KVM_CAP_EXT_CPUID"),
    "KVM_GET_CPUID2": ("vcpu", "WR", 0x91, "kvm_cpuid2", "KVM_CAP_EXT_CPUID"),
    "KVM_GET_MP_STATE": ("vcpu", "R", 0x98, "kvm_mp_state", "KVM_CAP_MP_STATE"),
    "KVM_SET_MP_STATE": ("vcpu", "W", 0x99, "kvm_mp_state", "KVM_CAP_MP_STATE"),
    "KVM_NMI": ("vcpu", "", 0x9A, None, "KVM_CAP_USER_NMI"),
    "KVM_SET_GUEST_DEBUG": ("vcpu", "W", 0x9B, "kvm_guest_debug", "KVM_CAP_SET_GUEST_DEBUG"),
    "KVM_GET_VCPU_EVENTS": ("vcpu", "R", 0x9F, "kvm_vcpu_events", "KVM_CAP_VCPU_EVENTS"),
    "KVM_SET_VCPU_EVENTS": ("vcpu", "W", 0xA0, "kvm_vcpu_events", "KVM_CAP_VCPU_EVENTS"),
    "KVM_GET_DEBUGREGS": ("vcpu", "R", 0xA1, "kvm_debugregs", "KVM_CAP_DEBUGREGS"),
    "KVM_SET_DEBUGREGS": ("vcpu", "W", 0xA2, "kvm_debugregs", "KVM_CAP_DEBUGREGS"),
    "KVM_SET_TSC_KHZ": ("vcpu", "", 0xA2, None, "KVM_CAP_TSC_CONTROL"),
    "KVM_GET_TSC_KHZ": ("vcpu", "", 0xA3, None, "KVM_CAP_GET_TSC_KHZ"),
    "KVM_ENABLE_CAP": ("vcpu", "W", 0xA3, "kvm_enable_cap", "KVM_CAP_ENABLE_CAP"),
    "KVM_GET_XSAVE": ("vcpu", "R", 0xA4, "kvm_xsave", "KVM_CAP_XSAVE"),
    "KVM_SET_XSAVE": ("vcpu", "W", 0xA5, "kvm_xsave", "KVM_CAP_XSAVE"),
    "KVM_GET_XCRS": ("vcpu", "R", 0xA6, "kvm_xcrs", "KVM_CAP_XCRS"),
    "KVM_SET_XCRS": ("vcpu", "W", 0xA7, "kvm_xcrs", "KVM_CAP_XCRS"),
    "KVM_KVMCLOCK_CTRL": ("vcpu", "", 0xAD, None, "KVM_CAP_KVMCLOCK_CTRL"),
    "KVM_SMI": ("vcpu", "", 0xB7, None, "KVM_CAP_X86_SMM"),
    "KVM_GET_NESTED_STATE": ("vcpu", "WR", 0xBE, "kvm_nested_state", "KVM_CAP_NESTED_STATE"),
    "KVM_SET_NESTED_STATE": ("vcpu", "W", 0xBF, "kvm_nested_state", "KVM_CAP_NESTED_STATE"),
    "KVM_GET_SREGS2": ("vcpu", "R", 0xCC, "kvm_sregs2", "KVM_CAP_SREGS2"),
    "KVM_SET_SREGS2": ("vcpu", "W", 0xCD, "kvm_sregs2", "KVM_CAP_SREGS2"),
    "KVM_GET_STATS_FD": ("vcpu", "", 0xCE, None, "KVM_CAP_BINARY_STATS_FD"),
    "KVM_GET_XSAVE2": ("vcpu", "R", 0xCF, "kvm_xsave", "KVM_CAP_XSAVE2"),
    # A device made with KVM_CREATE_DEVICE
    "KVM_SET_DEVICE_ATTR": ("device", "W", 0xE1, "kvm_device_attr", "KVM_CAP_DEVICE_CTRL"),
    "KVM_GET_DEVICE_ATTR": ("device", "W", 0xE2, "kvm_device_attr", "KVM_CAP_DEVICE_CTRL"),
    "KVM_HAS_DEVICE_ATTR": ("device", "W", 0xE3, "kvm_device_attr", "KVM_CAP_DEVICE_CTRL"),
}

NAMES = tuple(_TABLE)
"""Every request's name."""


def __getattr__(name: str) -> Ioctl:
    if name not in _TABLE:
        raise AttributeError(f"module 'kvm_bindings.ioctls' has no attribute {name!r}")
    level, direction, number, argument, capability = _TABLE[name]
    if argument is None:
        kind = None
    else:
        kind = getattr(ctypes if argument.startswith("c_") else structs, argument)
    made = globals()[name] = Ioctl.make(name, level, direction, number, kind, capability)
    return made
