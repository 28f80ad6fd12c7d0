"""A guest that means harm: it writes anything to the registers and rings of every virtio device."""

from __future__ import annotations

import os

import pytest

from devices.virtio.balloon import Balloon
from devices.virtio.blk import Blk
from devices.virtio.console import ConsolePort, VirtioConsole
from devices.virtio.driver import Driver
from devices.virtio.net import Net
from devices.virtio.rng import Rng
from devices.virtio.vsock import Vsock
from vmm.host.block import BlockFile

pytestmark = pytest.mark.kvm

TEXT = """
    mov r8d, 0xD0000000
again:
    mov rax, rbx                    # the next of RBX's random numbers (xorshift64)
    shl rax, 13
    xor rbx, rax
    mov rax, rbx
    shr rax, 7
    xor rbx, rax
    mov rax, rbx
    shl rax, 17
    xor rbx, rax
    mov eax, ebx
    shr eax, 8
    and eax, 0x71FC                 # one of eight devices, one of its registers
    mov rdx, rbx
    shr rdx, 40
    test bl, 3
    jz write
    and edx, 0xF                    # mostly a small number
write:
    mov [r8 + rax], edx
    mov eax, [r8 + rax]
    mov esi, ebx
    shr esi, 9
    and esi, 0x7FFE
    mov [rsi + 0x20000], dx         # and somewhere in the rings
    test bl, 0x78
    jnz next
    out 0x10, al                    # have the devices brought up again
next:
    dec ecx
    jnz again
    out 0xF4, al
    hlt
"""
CODE = bytes.fromhex(
    """
    41b8000000d04889d848c1e00d4831c34889d848c1e8074831c34889d848c1e0114831c389d8c1e80825fc7100
    004889da48c1ea28f6c3037403 83e20f41891400418b040089dec1ee0981e6fe7f0000668996000002 00f6c378
    7502e610ffc975a4e6f4f4
    """
)
ROM = 0xE000_0000
RINGS, ROOM = 0x2_0000, 0x1000
ACCESSES = 3000 if "GLASSVM_LAB" not in os.environ else 400


class Link:
    offloads = 0
    header = False
    mtu = 0

    def agree(self, features):
        pass

    def send(self, parts):
        return True

    def receive(self, parts):
        return 0


class Registers:
    def __init__(self, machine, place):
        self.bus, self.base = machine.mmio, place.gpa

    def read(self, offset, size):
        return self.bus.read(self.base + offset, size)

    def write(self, offset, size, value):
        self.bus.write(self.base + offset, size, value)


@pytest.mark.command
def test_the_guest_is_what_its_text_says(guest_asm):
    assert guest_asm(TEXT) == CODE


@pytest.mark.parametrize("irqchip", [True, False])
@pytest.mark.parametrize("seed", [1, 0xDEADBEEF])
def test_the_monitor_lives(vm_factory, tmp_path, irqchip, seed):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 16))
    machine = vm_factory(memory="2M", irqchip=irqchip)
    said = []
    with BlockFile(image, access="writable") as disk:
        devices = [
            *(Rng(), Blk(disk, queues=2), VirtioConsole([ConsolePort(said.append, console=True)])),
            *(Net(Link(), b"\2\0\0\0\0\1"), Vsock(3, lambda port: None)),
            Balloon(machine.memory.discard),
        ]
        places = [machine.add_virtio(device) for device in devices]
        drivers = [
            Driver(Registers(machine, place), machine.memory, RINGS + n * ROOM, ROOM)
            for n, place in enumerate(places)
        ]

        @machine.on_out(0x10)
        def bring_up(value, size):
            for driver in drivers:
                driver.start(queue_size=8)

        machine.memory.add_rom(ROM, CODE)
        machine.hardware.map_new_regions()
        machine.start_at(ROM, "long")
        machine.regs.rbx, machine.regs.rcx = seed, ACCESSES
        bring_up(0, 1)
        result = machine.run(timeout=100)
        # A device that is told to may write over the guest's own tables, which is its end alone.
        assert result.reason in ("debug_exit", "shutdown", "internal_error"), result.report()
        assert result.exits > ACCESSES / 10
        assert machine.memory.read(ROM, len(CODE)) == CODE
        assert image.stat().st_size == 1 << 16
        assert sum(place.transport.notifications for place in places) > 10
        for driver in drivers:
            assert driver.start(queue_size=8), "a reset is enough"
        rng = drivers[0]
        rng.queues[0].add([], [(rng.buffers, 16)])
        machine.mmio.write(places[0].gpa + 0x50, 4, 0)
        machine.close()
