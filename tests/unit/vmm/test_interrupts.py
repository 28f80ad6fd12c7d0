"""The interrupt controllers' state, copied from KVM's structures; offsets are declared again."""

from __future__ import annotations

from kvm_bindings.structs import (
    kvm_ioapic_state,
    kvm_lapic_state,
    kvm_pic_state,
    kvm_pit_state2,
)
from vmm.interrupts import Interrupts, irq_name


def lapic(**registers: int) -> kvm_lapic_state:
    offsets = {"ppr": 0xA0, "svr": 0xF0, "isr1": 0x110, "irr1": 0x210, "irr7": 0x270}
    offsets |= {"timer": 0x320, "lint0": 0x350, "tmict": 0x380}
    state = kvm_lapic_state()
    for name, value in registers.items():
        for n, byte in enumerate(value.to_bytes(4, "little")):
            state.regs[offsets[name] + n] = byte
    return state


def test_every_field_is_found():
    pit = kvm_pit_state2()
    pit.channels[0].mode = 2
    ioapic = kvm_ioapic_state(irr=0x10)
    for pin in range(24):
        ioapic.redirtbl[pin] = 1 << 16
    ioapic.redirtbl[4] = 0x24
    found = Interrupts.from_kvm(
        kvm_pic_state(irr=0x01, imr=0xFE, isr=0x02),
        kvm_pic_state(irr=0x10, imr=0xEF, isr=0x01),
        ioapic,
        lapic(ppr=0x30, svr=0x1FF, isr1=0x2, irr1=0x10, irr7=0x8000_0000, timer=0x31,
              lint0=0x700, tmict=5),
        pit,
        0xFEE0_0900,
    )  # fmt: skip
    assert found.requested == 0x1001
    assert found.masked == 0xEFFE
    assert found.in_service == 0x0102
    assert found.apic_requested == (255, 0x24)
    assert found.apic_in_service == (0x21,)
    assert found.priority == 0x30
    assert found.ioapic_requested == 0x10
    assert found.open_in_ioapic() == (4,)
    assert found.open_in_pic() == (0,)  # IRQ 12 is open, but the cascade is not
    assert found.apic_timer_open
    assert found.pic_connected
    assert found.pit_runs


def test_a_machine_after_reset():
    pit = kvm_pit_state2()
    pit.channels[0].mode = 0xFF
    found = Interrupts.from_kvm(
        kvm_pic_state(), kvm_pic_state(), kvm_ioapic_state(), lapic(svr=0xFF, lint0=0x10700), pit, 0
    )
    assert not found.apic_on
    assert not found.pit_runs
    assert found.pic_connected  # there is no local APIC in between
    assert found.open_in_ioapic() == ()
    assert 12 in found.open_in_pic()


def test_lint0_can_be_closed():
    assert not Interrupts(lint0=1 << 16 | 7 << 8).pic_connected
    assert not Interrupts(lint0=0).pic_connected  # fixed delivery of a vector, not ExtINT
    assert Interrupts(lint0=1 << 16, apic_on=False).pic_connected


def test_names():
    assert irq_name(4) == "IRQ 4 (COM1)"
    assert irq_name(5) == "IRQ 5"
