"""The capabilities of KVM that the machine uses, and what is lost without each.

Spec: KVM API, KVM_CHECK_EXTENSION.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CAPABILITIES", "Capability"]


@dataclass(frozen=True, slots=True)
class Capability:
    """One KVM_CAP_* (named without the prefix)."""

    name: str
    lost: str
    """What does not work without it."""
    required: bool = False
    """Whether no guest can run without it."""


CAPABILITIES = (
    Capability("USER_MEMORY", "guest memory", required=True),
    Capability("EXT_CPUID", "the guest's CPUID", required=True),
    Capability("IMMEDIATE_EXIT", "stopping a vCPU without losing a stop", required=True),
    Capability("IRQCHIP", "interrupt controllers in the kernel (--irqchip), several CPUs"),
    Capability("PIT2", "the timer in the kernel (--irqchip)"),
    Capability("MP_STATE", "starting further CPUs, snapshots"),
    Capability("SET_TSS_ADDR", "real mode on VT-x without unrestricted guest"),
    Capability("SET_IDENTITY_MAP_ADDR", "real mode on VT-x without unrestricted guest"),
    Capability("READONLY_MEM", "firmware ROM that the guest cannot overwrite"),
    Capability("SYNC_REGS", "registers at every exit for nearly nothing"),
    Capability("COALESCED_MMIO", "batched writes to devices"),
    Capability("COALESCED_PIO", "batched writes to ports"),
    Capability("IOEVENTFD", "doorbells without an exit"),
    Capability("IRQFD", "interrupts from other threads and processes"),
    Capability("IRQ_ROUTING", "interrupt routing, MSI"),
    Capability("SIGNAL_MSI", "message-signalled interrupts"),
    Capability("SET_GUEST_DEBUG", "single-stepping and breakpoints"),
    Capability("VCPU_EVENTS", "snapshots"),
    Capability("DEBUGREGS", "snapshots of debug registers"),
    Capability("XSAVE", "snapshots of vector registers"),
    Capability("XCRS", "snapshots of vector registers"),
    Capability("XSAVE2", "snapshots of vector registers above 4 KiB (AMX)"),
    Capability("ADJUST_CLOCK", "snapshots of the VM's clock"),
    Capability("MANUAL_DIRTY_LOG_PROTECT2", "finding written pages in small steps"),
    Capability("DIRTY_LOG_RING", "finding written pages by a ring"),
    Capability("NESTED_STATE", "snapshots of guests that run guests"),
    Capability("BINARY_STATS_FD", "the kernel's own counters of exits"),
)
