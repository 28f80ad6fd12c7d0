"""Who handles IRQ 1, read from the interrupt controllers and the vector table."""

from __future__ import annotations

import pytest

from firmware.bios_rom import build_vectors
from kvm_bindings.constants import KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER
from kvm_bindings.structs import kvm_irqchip
from vmm.host.irq1 import KernelIrq1, NoIrq1


class Vm:
    def __init__(self, *, base, mask, pin):
        self.chips = {
            KVM_IRQCHIP_PIC_MASTER: kvm_irqchip(),
            KVM_IRQCHIP_IOAPIC: kvm_irqchip(),
        }
        pic = self.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic
        pic.irq_base, pic.imr = base, mask
        self.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.redirtbl[1] = pin

    def get_irqchip(self, chip_id):
        return self.chips[chip_id]


class Memory:
    def __init__(self, *, hooked):
        self.data = bytearray(build_vectors())
        if hooked:
            self.data[0x24:0x28] = b"\x00\x7c\x00\x00"

    def read(self, gpa, size):
        return bytes(self.data[gpa : gpa + size])


MASKED = 0x10000


@pytest.mark.parametrize(
    ("bios", "base", "mask", "pin", "hooked", "handler"),
    [
        (True, 0x08, 0xF8, MASKED, False, "bios"),
        (True, 0x08, 0xF8, MASKED, True, "int9"),
        (True, 0x08, 0xFA, MASKED, True, "none"),
        (True, 0x20, 0xFD, MASKED, True, "kernel"),
        (True, 0x20, 0xFF, MASKED, True, "none"),
        (False, 0x00, 0x00, MASKED, False, "none"),
        (False, 0x20, 0xFD, MASKED, False, "kernel"),
        (False, 0x08, 0xF8, MASKED, False, "kernel"),
        (False, 0x30, 0xFF, 0x31, False, "kernel"),
        (False, 0x30, 0xFF, 0x00, False, "none"),
    ],
)
def test_the_handler(bios, base, mask, pin, hooked, handler):
    vm = Vm(base=base, mask=mask, pin=pin)
    assert KernelIrq1(vm, Memory(hooked=hooked), bios=bios).handler() == handler


def test_a_handler_is_at_work_until_its_end_of_interrupt():
    vm = Vm(base=0x08, mask=0xF8, pin=MASKED)
    irq1 = KernelIrq1(vm, Memory(hooked=False), bios=True)
    assert not irq1.in_service()
    vm.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.isr = 0x02
    assert irq1.in_service()
    vm.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.isr = 0xFD
    assert not irq1.in_service()


def test_without_interrupts_nobody_is_there():
    assert (NoIrq1().handler(), NoIrq1().in_service()) == ("none", False)
