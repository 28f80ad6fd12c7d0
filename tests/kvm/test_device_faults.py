"""Devices that raise under a real guest: the access is finished as the policy says."""

from __future__ import annotations

import pytest

import vmm
from vmm.lifecycle import Phase

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

# in al, 0x10; mov ah, al; in al, 0x10; hlt
TWO_READS = "e410 88c4 e410 f4"
# mov ecx, [0xD0000000]; mov edx, [0xD0000004]; hlt
TWO_LOADS = "8b0d000000d0 8b15040000d0 f4"


class Moody:
    """Raises as often as it is told, and answers 0x5A5A5A5A."""

    name = "moody"

    def __init__(self, failures=1):
        self.failures = failures
        self.written = bytearray()

    def read(self, offset, size):
        self._fail()
        return 0x5A5A5A5A & ((1 << 8 * size) - 1)

    def write(self, offset, size, value):
        if len(self.written) == 2:
            self._fail()
        self.written += value.to_bytes(size, "little")

    def reset(self):
        pass

    def _fail(self):
        if self.failures:
            self.failures -= 1
            raise ValueError("not today")


@pytest.mark.parametrize(("choice", "ax"), [("retry", 0x5A5A), ("skip", 0xFF5A)])
def test_a_read_of_a_port(machine, choice, ax):
    m = machine(TWO_READS)
    m.add_device(Moody(), pio=range(0x10, 0x11))
    stood = []

    def ask(fault):
        stood.append((m.regs.rip, fault.access.address, fault.access.size))
        return choice

    m.on_device_fault = ask
    assert m.run(timeout=10).reason == "halt"
    assert m.regs.rax & 0xFFFF == ax
    # Whether RIP is behind the instruction already is the backend's choice.
    assert stood in ([(0x1000, 0x10, 1)], [(0x1002, 0x10, 1)])
    assert [event.value for event in m.vcpus[0].last_exits()[:2]] == [ax >> 8, 0x5A]


@pytest.mark.parametrize(("choice", "ecx"), [("retry", 0x5A5A5A5A), ("skip", 0xFFFFFFFF)])
def test_a_load_from_a_device(machine, choice, ecx):
    m = machine(TWO_LOADS, "protected")
    m.add_device(Moody(), mmio=range(0xD000_0000, 0xD000_1000))
    m.on_device_fault = lambda fault: choice
    assert m.run(timeout=10).reason == "halt"
    assert (m.regs.rcx, m.regs.rdx) == (ecx, 0x5A5A5A5A)


@pytest.mark.parametrize(("choice", "expected"), [("retry", b"abcd"), ("skip", b"abd")])
def test_a_string(machine, choice, expected):
    m = machine(
        "be0020 b90400 ba1000 f36e f4"
    )  # mov si, 0x2000; mov cx, 4; mov dx, 0x10; rep outsb
    m.memory.write(0x2000, b"abcd")
    device = Moody()
    m.add_device(device, pio=range(0x10, 0x11))
    m.on_device_fault = lambda fault: choice
    assert m.run(timeout=10).reason == "halt"
    assert bytes(device.written) == expected


def test_raise_fails_the_machine(machine):
    m = machine(TWO_READS)
    m.add_device(Moody(), pio=range(0x10, 0x11))
    m.on_device_fault = lambda fault: "raise"
    with pytest.raises(vmm.DeviceFault, match="moody failed at port 0x10: ValueError: not today"):
        m.run(timeout=10)
    assert m.phase is Phase.FAILED
