"""A driver that means harm, and every device type that it can meet. Fuzzing uses it as well."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from devices.virtio.balloon import Balloon
from devices.virtio.blk import Blk
from devices.virtio.console import ConsolePort, VirtioConsole
from devices.virtio.driver import Driver, DriverQueue, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.net import Net
from devices.virtio.pmem import Pmem
from devices.virtio.rng import Rng
from devices.virtio.vsock import Vsock
from devices.wiring import discard

MEMORY = 1 << 16
_EDGES = (0, 1, 7, 8, 0x7F, 0xFF, 0xFFF, 0x1000, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0xFFFF_FFFF)
_ADDRESSES = (
    0,
    15,
    0x1000,
    MEMORY - 1,
    MEMORY - 16,
    MEMORY,
    1 << 32,
    (1 << 64) - 1,
    (1 << 64) - 16,
)
_SIZES = (0, 1, 8, 12, 16, 44, 60, 512, 4096)
_MOST_STEPS = 120


class FakeDisk:
    sectors = 64
    read_only = False
    serial = b"disk"

    def read_into(self, offset, buffers):
        assert 0 <= offset <= 64 * 512 - sum(map(len, buffers))
        for view in buffers:
            view[:] = bytes(len(view))

    def write_from(self, offset, buffers):
        assert 0 <= offset <= 64 * 512 - sum(map(len, buffers))

    def flush(self):
        raise OSError("no more room")

    def discard(self, offset, size):
        assert 0 <= offset <= 64 * 512 - size

    def zero(self, offset, size, *, unmap):
        assert 0 <= offset <= 64 * 512 - size


class FakeLink:
    fd = 0
    offloads = 0
    header = False
    mtu = 0

    def agree(self, features):
        pass

    def send(self, parts):
        return sum(map(len, parts)) > 60

    def receive(self, parts):
        return 0

    def close(self):
        pass


DEVICES: dict[str, Callable[[], Any]] = {
    "rng": lambda: Rng(source=bytes),
    "blk": lambda: Blk(FakeDisk(), queues=2),
    "console": VirtioConsole,
    "ports": lambda: VirtioConsole(
        [ConsolePort(discard, console=True), ConsolePort(discard, name="a")]
    ),
    "net": lambda: Net(FakeLink(), b"\2\0\0\0\0\1"),
    "vsock": lambda: Vsock(3, lambda port: None),
    "balloon": lambda: Balloon(lambda piece: None),
    "pmem": lambda: Pmem(1 << 32, 1 << 21, lambda: None),
}


class Numbers:
    """Numbers that an attack is made of, out of bytes; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int = 1) -> int:
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little")

    def one_of(self, choices):
        return choices[self.take() % len(choices)]

    def number(self) -> int:
        return self.one_of(_EDGES) if self.take() & 1 else self.take(4)

    def address(self) -> int:
        how = self.take()
        return self.one_of(_ADDRESSES) if how < 64 else self.take(2) if how < 250 else self.take(8)


class Attack:
    """A driver that writes anything to a device's registers, its configuration and its rings."""

    def __init__(self, kind: str, numbers: Numbers) -> None:
        self.kind = kind
        self.numbers = numbers
        self.memory = Ram(MEMORY, readonly=range(0xF000, 0xF800))
        self.device = self._make()
        self.driver = Driver(self.device, self.memory, 0x1000, 0x8000)

    def _make(self) -> VirtioMmio:
        return VirtioMmio(DEVICES[self.kind](), memory=self.memory)

    def run(self) -> None:
        steps = (
            *(self.register, self.configuration, self.start, self.junk),
            *(self.request,) * 12,
            *(self.chain, self.notify, self.move),
        )
        for _ in range(_MOST_STEPS):
            if self.numbers.left <= 0:
                break
            self.numbers.one_of(steps)()
        status = self.device.read(0x070, 4)
        assert not status & 0x30
        assert bool(status & 0x40) == bool(self.device.transport.fault) or not status

    def register(self) -> None:
        size = self.numbers.one_of((4, 4, 4, 1, 2, 8))
        offset = self.numbers.take() * (4 if size == 4 else 1)
        if self.numbers.take() & 1:
            self.device.write(offset, size, self.numbers.number() & (1 << 8 * size) - 1)
        else:
            assert 0 <= self.device.read(offset, size) < 1 << 8 * size

    def configuration(self) -> None:
        size = self.numbers.one_of((1, 2, 4, 8))
        offset = 0x100 + self.numbers.take() % 80
        if self.numbers.take() & 1:
            self.device.write(offset, size, self.numbers.take(size))
        else:
            assert 0 <= self.device.read(offset, size) < 1 << 8 * size

    def start(self) -> None:
        wanted = self.numbers.one_of((0, 1 << 28, 1 << 29, (1 << 64) - 1))
        self.driver.start(wanted, queue_size=self.numbers.one_of((1, 2, 8, 64)))

    def junk(self) -> None:
        seed, size = self.numbers.take(2), self.numbers.one_of((1, 2, 8, 64, 512))
        at = min(self.numbers.address(), MEMORY - size)
        self.memory.write(at, random.Random(seed).randbytes(size))

    def request(self) -> None:
        """A chain that is sound, but for what it asks."""
        if not self.driver.queues or self.device.read(0x070, 4) & 0x40:
            self.start()
        queue: DriverQueue = self.numbers.one_of(self.driver.queues)
        queue.finished()
        kind, sector = self.numbers.one_of((0, 1, 4, 8, 11, 13, 99)), self.numbers.one_of(_EDGES)
        self.memory.write(0x9000, struct.pack("<IIQ", kind, 0, sector))
        readable, writable = [], []
        for _ in range(self.numbers.take() % 3):
            readable.append((0x9000 + self.numbers.take() % 4 * 16, self.numbers.one_of(_SIZES)))
        for _ in range(self.numbers.take() % 3):
            writable.append((0xA000 + self.numbers.take() * 16, self.numbers.one_of(_SIZES)))
        if len(readable) + len(writable) in range(1, len(queue.free) + 1):
            queue.add(readable, writable)
            self.device.write(0x050, 4, self.driver.queues.index(queue))

    def chain(self) -> None:
        """A chain that need not be one."""
        if not self.driver.queues:
            return
        queue: DriverQueue = self.numbers.one_of(self.driver.queues)
        head = self.numbers.take() % (queue.size + 1)
        index = head
        for _ in range(1 + self.numbers.take() % 5):
            flags = self.numbers.take() & 7
            size = self.numbers.one_of((*_SIZES, self.numbers.number()))
            after = self.numbers.take() % (queue.size + 2)
            queue.describe(min(index, queue.size - 1), self.numbers.address(), size, flags, after)
            index = after
        queue.make_available(head)
        if self.numbers.take() < 8:
            queue.avail_index = self.numbers.take(2)

    def notify(self) -> None:
        number = self.numbers.take()
        self.device.write(0x050, 4, number % 4 if number < 240 else number)

    def move(self) -> None:
        """Go on in another device of the same kind."""
        state = self.device.save()
        twin = self._make()
        twin.load(state)
        assert twin.save() == state
        twin.transport.fault = self.device.transport.fault
        twin.transport.kick_all()
        self.device = self.driver.registers = twin
