"""A guest that is a virtio driver of few words, and the machine around it.

It notifies a queue, sleeps until the device's interrupt, and asks the test what to do next at a
port. The test prepares the rings in its memory.
"""

from __future__ import annotations

import struct

from devices.virtio.driver import Driver

GUEST = """
    .set IDT, 0x1000
    .set VECTOR, 0x50
    mov esp, 0x90000
    mov eax, offset interrupted
    mov [IDT + VECTOR * 16], ax
    mov word ptr [IDT + VECTOR * 16 + 2], 0x18
    mov word ptr [IDT + VECTOR * 16 + 4], 0x8E00
    shr eax, 16
    mov [IDT + VECTOR * 16 + 6], ax
    lidt [idtr]
    mov al, 0xFF
    out 0x21, al
    out 0xA1, al
    mov ebx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x14F
    mov ebx, 0xFEC00000
    mov eax, [0x908]
    lea eax, [rax * 2 + 0x10]
    mov [rbx], eax
    mov dword ptr [rbx + 0x10], VECTOR
    inc eax
    mov [rbx], eax
    mov dword ptr [rbx + 0x10], 0
    mov ebx, [0x900]
    xor ebp, ebp
again:
    mov dx, 0x10
    in eax, dx                      # which queue; all ones: none any more
    cmp eax, -1
    je over
    lea edi, [rbp + 1]
    mov [rbx + 0x50], eax
sleep:
    cli
    cmp ebp, edi
    jae again
    sti
    hlt
    jmp sleep
over:
    mov eax, ebp
    out 0xF4, eax
    cli
    hlt
interrupted:
    push rax
    mov eax, [rbx + 0x60]
    mov [rbx + 0x64], eax
    cmp eax, 1
    sbb ebp, -1                     # counts unless there was nothing: it may have been made twice
    mov eax, 0xFEE00000
    mov dword ptr [rax + 0xB0], 0
    pop rax
    iretq
idtr:
    .word 256 * 16 - 1
    .quad IDT
"""
"""Reads the registers' address at 0x900 and the interrupt line at 0x908."""

GUEST_CODE = bytes.fromhex("""
    bc00 000900b8 9d001000 66890425 00150000 66c70425 02150000 180066c7 04250415
    0000008e c1e81066 89042506 1500000f 011c25bc 001000b0 ffe621e6 a1bb0000 e0fec783
    f0000000 4f010000 bb0000c0 fe8b0425 08090000 8d044510 00000089 03c74310 50000000
    ffc08903 c7431000 0000008b 1c250009 000031ed 66ba1000 ed83f8ff 740f8d7d 01894350
    fa39fd73 ebfbf4eb f789e8e7 f4faf450 8b436089 436483f8 0183ddff b80000e0 fec780b0
    00000000 00000058 48cfff0f 00100000 00000000
""")
RINGS, ROOM = 0x2_0000, 0x4_0000


class Registers:
    """A place's registers, reached over the machine's bus as a guest does."""

    def __init__(self, machine, place):
        self.bus, self.base = machine.mmio, place.gpa

    def read(self, offset, size):
        return self.bus.read(self.base + offset, size)

    def write(self, offset, size, value):
        self.bus.write(self.base + offset, size, value)


class Rig:
    """A machine with one device, and requests that its guest makes one after the other."""

    def __init__(self, machine, place, requests):
        self.machine, self.place = machine, place
        self.requests = list(requests)
        self.answers = []
        self.driver = Driver(Registers(machine, place), machine.memory, RINGS, ROOM)
        with machine.lock:
            assert self.driver.start()
        self.connect(machine)

    def connect(self, machine):
        machine.on_in(0x10)(self.next)

    def next(self):
        driver = self.driver
        for number, queue in enumerate(driver.queues):
            for _, written in queue.finished():
                self.answers.append((number, driver.memory.read(driver.buffers + 4096, written)))
            queue.want_interrupts()
        if not self.requests:
            return 0xFFFF_FFFF
        number, data, room = self.requests.pop(0)
        driver.memory.write(driver.buffers, data)
        readable = [(driver.buffers, len(data))] if data else []
        driver.queues[number].add(readable, [(driver.buffers + 4096, room)])
        return number

    def place_guest(self):
        """Put the guest where it starts, and tell it where its device is."""
        place = self.place
        self.machine.memory.write(0x900, struct.pack("<QQ", place.gpa, place.gsi))
        self.machine.memory.write(0x10_0000, GUEST_CODE)
        self.machine.start_at(0x10_0000, "long")
