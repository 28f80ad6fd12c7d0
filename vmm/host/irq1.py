"""Who handles the keyboard's interrupt in the guest, as far as the machine can see it.

The interrupt controllers are in the kernel: a guest programs them without an exit. Their state
can be read at any time, and so can the interrupt vectors of real mode.
"""

from __future__ import annotations

from typing import Literal, Protocol

import kvm_bindings
from firmware.bios_rom import build_vectors
from kvm_bindings.constants import KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER
from kvm_bindings.structs import kvm_pic_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import GuestMemory

__all__ = ["Irq1", "Irq1Handler", "KernelIrq1", "NoIrq1"]

Irq1Handler = Literal["none", "bios", "int9", "kernel"]
"""Nobody; the BIOS's INT 09h; a program's INT 09h; an interrupt table of the guest's own."""

_IRQ = 1
_BIOS_BASE = 0x08
_INT9 = slice(9 * 4, 10 * 4)
_MASKED = 1 << 16
_FIRST_VECTOR = 0x10


class Irq1(Protocol):
    """The keyboard's interrupt, as it stands in the guest."""

    def handler(self) -> Irq1Handler:
        """Say who gets the interrupt now, if it is open."""
        ...

    def in_service(self) -> bool:
        """Say whether a handler is at work: it has not sent its end of interrupt yet."""
        ...


class NoIrq1:
    """A machine without interrupts."""

    def handler(self) -> Irq1Handler:
        """Nobody."""
        return "none"

    def in_service(self) -> bool:
        """Never."""
        return False


class KernelIrq1:
    """Looks at the interrupt controllers of a machine.

    Args:
        vm: the machine's, with interrupt controllers in the kernel.
        memory: where real mode's interrupt vectors are.
        bios: the guest runs on the Python BIOS, which has programmed the controllers.
    """

    def __init__(self, vm: kvm_bindings.VM, memory: GuestMemory, *, bios: bool) -> None:
        self._vm = vm
        self._memory = memory
        self._bios = bios
        self._bios_vector = build_vectors()[_INT9]

    def handler(self) -> Irq1Handler:
        """Say who gets the interrupt now, if it is open."""
        pic = self._pic()
        if not pic.imr >> _IRQ & 1:
            if self._bios and pic.irq_base == _BIOS_BASE:
                hooked = self._memory.read(_INT9.start, 4) != self._bios_vector
                return "int9" if hooked else "bios"
            if pic.irq_base:  # 0: nobody has programmed it
                return "kernel"
        pin = int(self._vm.get_irqchip(KVM_IRQCHIP_IOAPIC).chip.ioapic.redirtbl[_IRQ])
        return "kernel" if not pin & _MASKED and pin & 0xFF >= _FIRST_VECTOR else "none"

    def in_service(self) -> bool:
        """Say whether the first PIC waits for the end of interrupt."""
        return bool(self._pic().isr >> _IRQ & 1)

    def _pic(self) -> kvm_pic_state:
        return self._vm.get_irqchip(KVM_IRQCHIP_PIC_MASTER).chip.pic
