"""The state of a PC's interrupt controllers as plain data: 8259A pair, IOAPIC, local APIC, PIT.

Copied from what KVM holds, so that an explanation can say which line is masked and where.

Spec: KVM API, KVM_GET_IRQCHIP, KVM_GET_LAPIC, KVM_GET_PIT2; Intel SDM vol. 3, "Local APIC Register
Address Map", "Local Vector Table"; Intel 82093AA (IOAPIC) data sheet, "I/O Redirection Table
Registers"; 8259A data sheet, "Operation Control Words".
"""

from __future__ import annotations

from dataclasses import dataclass

from kvm_bindings import constants as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import kvm_bindings

__all__ = ["Interrupts", "irq_name"]

_MASKED = 1 << 16
_EXTINT = 7
_NAMES = {
    0: "timer", 1: "keyboard", 2: "cascade", 3: "COM2", 4: "COM1", 6: "floppy", 8: "clock",
    9: "ACPI", 12: "mouse", 14: "disk", 15: "disk",
}  # fmt: skip
_NEVER_SET = 0xFF
"""What KVM has as a PIT channel's mode until the guest sets one."""


def irq_name(line: int) -> str:
    """ "IRQ 0 (timer)": an interrupt line of a PC with what hangs on it."""
    name = _NAMES.get(line)
    return f"IRQ {line} ({name})" if name else f"IRQ {line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupts:
    """Who could interrupt one vCPU. Bit n of the 16-bit masks is IRQ n; the defaults are those of
    a machine after reset."""

    requested: int = 0
    """8259A: lines that ask (IRR)."""
    masked: int = 0
    """8259A: lines that are masked (IMR)."""
    in_service: int = 0
    """8259A: lines whose handler has not sent its end of interrupt (ISR)."""
    redirections: tuple[int, ...] = (_MASKED,) * 24
    """IOAPIC: the 64-bit entry of each pin."""
    ioapic_requested: int = 0
    apic_on: bool = True
    """The local APIC is enabled in its base MSR. Where it is not, the 8259A has the processor to
    itself."""
    apic_enabled: bool = False
    """It is enabled by software too (SVR): without that it takes interrupts from the 8259A only."""
    lint0: int = _EXTINT << 8
    """The local APIC's pin that the 8259A reaches it through."""
    apic_timer: int = _MASKED
    """The local APIC timer's entry of the local vector table."""
    apic_timer_count: int = 0
    """What its counter starts from; 0: it does not run."""
    apic_requested: tuple[int, ...] = ()
    """Vectors that wait in the local APIC (IRR), highest first."""
    apic_in_service: tuple[int, ...] = ()
    """Vectors whose handler has not sent its end of interrupt, highest first."""
    priority: int = 0
    """The local APIC's processor priority: vectors below (priority | 0xF) + 1 wait."""
    pit_runs: bool = False
    """Channel 0 of the PIT has been programmed."""

    @classmethod
    def read(cls, vm: kvm_bindings.VM, vcpu: kvm_bindings.Vcpu, apic_base: int) -> Interrupts:
        """Ask KVM, while the vCPU stands still.

        Args:
            vm: the machine's.
            vcpu: the one that could be interrupted.
            apic_base: its APIC base MSR.
        """
        return cls.from_kvm(
            vm.get_irqchip(c.KVM_IRQCHIP_PIC_MASTER).chip.pic,
            vm.get_irqchip(c.KVM_IRQCHIP_PIC_SLAVE).chip.pic,
            vm.get_irqchip(c.KVM_IRQCHIP_IOAPIC).chip.ioapic,
            vcpu.get_lapic(),
            vm.get_pit2(),
            apic_base,
        )

    @classmethod
    def from_kvm(
        cls, master: Any, slave: Any, ioapic: Any, lapic: Any, pit: Any, apic_base: int
    ) -> Interrupts:
        """Copy kvm_pic_state (two), kvm_ioapic_state, kvm_lapic_state and kvm_pit_state2."""
        registers = bytes(b & 0xFF for b in lapic.regs)

        def register(offset: int) -> int:
            return int.from_bytes(registers[offset : offset + 4], "little")

        def vectors(offset: int) -> tuple[int, ...]:
            words = [register(offset + 16 * n) for n in range(8)]
            return tuple(v for v in range(255, -1, -1) if words[v >> 5] >> (v & 31) & 1)

        return cls(
            requested=master.irr | slave.irr << 8,
            masked=master.imr | slave.imr << 8,
            in_service=master.isr | slave.isr << 8,
            redirections=tuple(int(entry) for entry in ioapic.redirtbl),
            ioapic_requested=ioapic.irr,
            apic_on=bool(apic_base >> 11 & 1),
            apic_enabled=bool(register(0xF0) >> 8 & 1),
            lint0=register(0x350),
            apic_timer=register(0x320),
            apic_timer_count=register(0x380),
            apic_requested=vectors(0x200),
            apic_in_service=vectors(0x100),
            priority=register(0xA0),
            pit_runs=pit.channels[0].mode != _NEVER_SET,
        )

    @property
    def pic_connected(self) -> bool:
        """Whether what the 8259A asks for reaches the processor."""
        return not self.apic_on or (not self.lint0 & _MASKED and self.lint0 >> 8 & 7 == _EXTINT)

    def open_in_pic(self) -> tuple[int, ...]:
        """The lines that are not masked in the 8259A pair; the second one's need the cascade."""
        lines = [n for n in range(16) if n != 2 and not self.masked >> n & 1]
        return tuple(n for n in lines if n < 8 or not self.masked >> 2 & 1)

    def open_in_ioapic(self) -> tuple[int, ...]:
        """The pins that are not masked in the IOAPIC, where the local APIC takes them."""
        if not (self.apic_on and self.apic_enabled):
            return ()
        return tuple(n for n, entry in enumerate(self.redirections) if not entry & _MASKED)

    @property
    def apic_timer_open(self) -> bool:
        """Whether the local APIC's timer is running and not masked."""
        enabled = self.apic_on and self.apic_enabled
        return enabled and not self.apic_timer & _MASKED and self.apic_timer_count > 0
