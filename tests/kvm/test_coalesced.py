"""Coalesced writes: fewer exits, the same order."""

from __future__ import annotations

import pytest

import vmm
from kvm_bindings import System
from kvm_bindings import constants as c

pytestmark = pytest.mark.kvm

RING = (4096 - 8) // 24
LOOP = "e610 40 e2fb f4"  # out 0x10, al; inc ax; loop; hlt


@pytest.fixture(scope="module", autouse=True)
def _needs_coalescing():
    with System() as system:
        if not system.check_extension(c.KVM_CAP_COALESCED_PIO):
            pytest.skip("this KVM has no KVM_CAP_COALESCED_PIO")


def test_writes_come_without_exits(machine):
    m, seen = machine(LOOP), []
    m.on_out(0x10, coalesced=True)(lambda value, size: seen.append((value, size)))
    m.regs.rcx = 50
    result = m.run(timeout=20)
    assert (result.reason, result.exits) == ("halt", 1)
    assert seen == [(n, 1) for n in range(50)]


def test_more_than_the_ring_holds(machine):
    m, seen = machine(LOOP), []
    m.on_out(0x10, coalesced=True)(lambda value, size: seen.append(value))
    m.regs.rcx = count = 5 * RING + 3
    result = m.run(timeout=20)
    assert seen == [n & 0xFF for n in range(count)]
    assert result.exits < count // 10


def test_an_ordinary_port_sees_the_writes_before_it(machine):
    m, log = machine("e610 e611 40 e2f9 f4"), []  # out 0x10; out 0x11; inc ax; loop; hlt
    m.on_out(0x10, coalesced=True)(lambda value, size: log.append((0x10, value)))
    m.on_out(0x11)(lambda value, size: log.append((0x11, value)))
    m.regs.rcx = 100
    result = m.run(timeout=20)
    assert log == [(port, n) for n in range(100) for port in (0x10, 0x11)]
    assert result.exits == 101


def test_a_read_sees_the_writes_before_it(machine):
    m, cell = machine("b041 e610 b042 e610 e411 f4"), []
    m.on_out(0x10, coalesced=True)(lambda value, size: cell.append(value))
    m.on_in(0x11)(lambda: cell[-1])
    m.run(timeout=20)
    assert m.regs.rax & 0xFF == 0x42


def test_a_wider_write_keeps_its_place(machine):
    """KVM does not coalesce what reaches over the zone: that one exits."""
    m, log = machine("b001 e610 b80302 e710 b004 e610 f4"), []
    m.on_out(0x10, coalesced=True)(lambda value, size: log.append((value, size)))
    assert m.run(timeout=20).reason == "halt"
    assert log == [(1, 1), (0x0203, 2), (4, 1)]


def test_a_string_is_coalesced_element_by_element(machine):
    m, seen = machine("f36e f4"), []
    m.on_out(0x10, coalesced=True)(lambda value, size: seen.append(value))
    m.memory.write(0x2000, bytes(range(200)))
    m.regs.rcx, m.regs.rdx, m.regs.rsi = 200, 0x10, 0x2000
    assert m.run(timeout=20).reason == "halt"
    assert seen == list(range(200))


def test_mmio(machine):
    class Log:
        name = "log"
        seen: list[tuple[int, int, int]] = []

        def read(self, offset, size):
            return len(self.seen)

        def write(self, offset, size, value):
            self.seen.append((offset, size, value))

        def reset(self):
            self.seen.clear()

    # mov ebx, 0xD0000000; mov [ebx], al; mov [ebx+4], ax; mov [ebx+8], eax; mov eax, [ebx]; hlt
    m = machine("bb000000d0 b877665544 8803 66894304 894308 8b03 f4", "protected")
    device = Log()
    m.add_device(device, mmio=range(0xD000_0000, 0xD000_1000), coalesced=True)
    result = m.run(timeout=20)
    assert (result.reason, result.exits) == ("halt", 2)
    assert device.seen == [(0, 1, 0x77), (4, 2, 0x6677), (8, 4, 0x44556677)]
    assert m.regs.rax == 3


def test_what_waits_is_carried_out_when_the_run_ends(machine, background, until):
    m, seen = machine("e610 c606000501 ebfe"), []  # out; mov byte [0x500], 1; jmp .
    m.on_out(0x10, coalesced=True)(lambda value, size: seen.append(value))
    run = background(lambda: m.run(timeout=20))
    until(lambda: m.memory.read(0x500, 1) == b"\x01")
    m.pause()
    assert seen == [0]
    m.resume()
    m.stop()
    run.result()
    assert seen == [0]


def test_a_debug_exit_that_is_coalesced_ends_the_run(machine):
    m = machine("e610 f4")

    @m.on_out(0x10, coalesced=True)
    def port(value: int, size: int) -> None:
        m.stop()

    assert m.run(timeout=20).reason == "stopped"


def test_a_function_that_raises_is_named(machine):
    m = machine("e610 f4")

    @m.on_out(0x10, coalesced=True)
    def broken(value: int, size: int) -> None:
        raise RuntimeError("out of paper")

    with pytest.raises(vmm.DeviceFault, match=r"port 0x10: RuntimeError: out of paper"):
        m.run(timeout=20)
