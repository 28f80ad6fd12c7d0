"""What a BIOS's power-on self-test leaves behind in the interrupt controllers and the timer.

With interrupt controllers in the kernel a boot sector finds them programmed, as on a PC: IRQ 0
to 7 at vectors 08h to 0Fh, IRQ 8 to 15 at 70h to 77h, and the timer ticking 18.2 times a second.

Spec: IBM PC AT Technical Reference, System Interrupts; Intel 8259A, Initialization Command Words;
Intel 8254, Mode 3 - Square Wave Mode.
"""

from __future__ import annotations

import kvm_bindings
from kvm_bindings.constants import KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE

__all__ = ["program_interrupts"]

# Open: timer, keyboard and the second controller. The rest is for its drivers to open.
_MASTER_MASK = 0xF8
_SLAVE_MASK = 0xFF
_PIT_WORD = 3  # low byte, then high byte
_SQUARE_WAVE = 3


def program_interrupts(vm: kvm_bindings.VM) -> None:
    """Program the kernel's PICs and PIT; call it before the first vCPU runs.

    Raises:
        KvmError: the machine has no interrupt controllers in the kernel.
    """
    for chip_id, base, mask in (
        (KVM_IRQCHIP_PIC_MASTER, 0x08, _MASTER_MASK),
        (KVM_IRQCHIP_PIC_SLAVE, 0x70, _SLAVE_MASK),
    ):
        chip = vm.get_irqchip(chip_id)
        chip.chip.pic.irq_base = base
        chip.chip.pic.imr = mask
        chip.chip.pic.init4 = 1
        vm.set_irqchip(chip)
    pit = vm.get_pit2()
    timer = pit.channels[0]
    timer.mode, timer.rw_mode, timer.gate = _SQUARE_WAVE, _PIT_WORD, 1
    timer.count = 0x10000
    vm.set_pit2(pit)
