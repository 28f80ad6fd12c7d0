"""One instruction at a time."""

from __future__ import annotations

import pytest

import vmm
from kvm_bindings import constants as c
from vmm.lifecycle import Phase

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def run_of_steps(m, count):
    """Where it stands after each step."""
    places = []
    for _ in range(count):
        m.step()
        places.append(m.regs.rip)
    return places


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_a_step_is_one_instruction(machine, mode):
    m = machine("b001 90 fec0 b304 f4", mode)  # mov al, 1; nop; inc al; mov bl, 4; hlt
    assert run_of_steps(m, 4) == [0x1002, 0x1003, 0x1005, 0x1007]
    assert (m.regs.rax & 0xFF, m.regs.rbx & 0xFF) == (2, 4)
    assert m.last_result is None
    assert m.phase is Phase.PAUSED


def test_in_ring_3(machine):
    m = machine("b001 90 fec0 ebfe", "long", cpl=3)
    assert run_of_steps(m, 4) == [0x1002, 0x1003, 0x1005, 0x1005]
    assert m.last_result is None
    assert m.regs.rax & 0xFF == 2


def test_a_death_in_ring_3_is_no_step(machine):
    m = machine("90 0f0b", "long", cpl=3)  # nop; ud2, with no handler
    assert m.step() is None
    assert m.step().name == "SHUTDOWN"
    assert m.last_result.reason == "shutdown"


def test_a_step_over_an_access_makes_it(machine):
    m = machine("b041 e6e9 e410 90 f4")  # mov al, 'A'; out 0xE9, al; in al, 0x10; nop; hlt
    seen = []
    m.on_out(0xE9)(lambda value, size: seen.append(value))
    m.on_in(0x10)(lambda size: 0x77)
    assert m.step() is None
    out = m.step()
    assert (out.reason, out.address, out.size, out.write, out.value) == (
        c.KVM_EXIT_IO, 0xE9, 1, True, 0x41,
    )  # fmt: skip
    assert seen == [0x41]
    assert m.regs.rip == 0x1004
    read = m.step()
    assert (read.address, read.write, read.value) == (0x10, False, 0x77)
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1006, 0x77)
    assert m.step() is None
    assert m.regs.rip == 0x1007


def test_a_step_over_a_load_from_a_device(machine):
    m = machine("8b0d000000d0 90 f4", "protected")  # mov ecx, [0xD0000000]

    class Cell:
        name = "cell"

        def read(self, offset, size):
            return 0x12345678

        def write(self, offset, size, value):
            pass

        def reset(self):
            pass

    m.add_device(Cell(), mmio=range(0xD000_0000, 0xD000_1000))
    event = m.step()
    assert (event.reason, event.address, event.value) == (
        c.KVM_EXIT_MMIO, 0xD000_0000, 0x12345678,
    )  # fmt: skip
    assert (m.regs.rip, m.regs.rcx) == (0x1006, 0x12345678)


def test_a_pending_access_is_finished_first(machine):
    m = machine("e410 90 90 f4")
    m.on_in(0x10)(lambda size: 0x77)
    m.run(timeout=10, max_exits=1)
    m.step()
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1003, 0x77)


def test_a_halt_ends_it_and_a_run_goes_on(machine):
    m = machine("90 f4 b001 e6f4")  # nop; hlt; mov al, 1; out 0xF4, al
    assert m.step() is None
    event = m.step()
    assert event.reason == c.KVM_EXIT_HLT
    assert (m.last_result.reason, m.regs.rip) == ("halt", 0x1002)
    assert m.step() is None
    assert m.last_result is None
    event = m.step()
    assert (event.address, event.value) == (0xF4, 1)
    assert (m.last_result.reason, m.last_result.value) == ("debug_exit", 1)


def test_a_step_begins_where_rip_was_set(machine):
    m = machine("90 90 f4 40 40 f4")  # nop; nop; hlt; inc ax; inc ax; hlt
    m.regs.rip = 0x1003
    assert m.step() is None
    assert (m.regs.rip, m.regs.rax) == (0x1004, 1)


def test_stepping_is_off_afterwards(machine):
    m = machine("90 90 e610 90 90 f4")
    m.step()
    result = m.run(timeout=10)
    assert (result.reason, result.exits) == ("halt", 2)


def test_halted_with_interrupts_disabled_is_an_end(machine):
    m = machine("fa f4", irqchip=True)
    m.step()
    m.step()
    assert m.last_result is None or m.last_result.reason == "halt"
    if m.last_result is None:  # the processor sleeps
        m.step()
    assert m.run(timeout=10).reason == "halt"


def test_a_timer_does_not_lead_a_step_into_its_handler(machine):
    """The PIT ticks on while nobody steps."""
    m = machine("90 90 90 90 90 f4", irqchip=True)
    m.regs.rflags |= 0x200  # without STI, in whose shadow a processor may hold the trap back too
    if not m.vm.check_extension(c.KVM_CAP_SET_GUEST_DEBUG2) & c.KVM_GUESTDBG_BLOCKIRQ:
        m.step()
        assert m.regs.rip == 0x1001
        return
    m.irq(0)(True)
    assert run_of_steps(m, 4) == [0x1001, 0x1002, 0x1003, 0x1004]


def test_a_death_is_told(machine):
    m = machine("0f0b", "protected")  # ud2 without an IDT
    for _ in range(3):
        m.step()
        if m.last_result is not None:
            break
    assert m.last_result.died


def test_a_device_that_raises_fails_the_machine(machine):
    m = machine("e610 f4")
    m.on_out(0x10)(lambda value, size: 1 // 0)
    with pytest.raises(vmm.DeviceFault, match="ZeroDivisionError"):
        m.step()
    assert m.phase is Phase.FAILED


def test_a_device_that_raises_can_be_asked_again(machine):
    m = machine("e610 90 f4")
    seen = []

    @m.on_out(0x10)
    def moody(value, size):
        seen.append(value)
        if len(seen) == 1:
            raise ValueError("not yet")

    m.on_device_fault = lambda fault: "retry"
    assert m.step().address == 0x10
    assert m.regs.rip == 0x1002
    assert len(seen) == 2


def test_one_vcpu_of_several_steps_alone(machine):
    m = machine("90 90 f4", cpus=2, irqchip=True)
    assert run_of_steps(m, 2) == [0x1001, 0x1002]
    assert m.step(1) is None  # it waits for INIT, and comes back
    assert m.last_result is None
    with pytest.raises(vmm.ConfigError, match="vCPU 2: the machine has 0 to 1"):
        m.step(2)
