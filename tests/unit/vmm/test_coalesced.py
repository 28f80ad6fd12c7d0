from __future__ import annotations

import struct
import threading

import pytest

from kvm_bindings import CoalescedRing
from vmm.bus import Bus, FunctionPort
from vmm.coalesced import CoalescedWrites
from vmm.errors import DeviceFault

PAGE = 4096


class Kernel:
    """The ring's page, and the kernel's side of it: entries of 24 bytes behind two indices."""

    def __init__(self):
        self.page = memoryview(bytearray(PAGE))
        self.capacity = (PAGE - 8) // 24

    def put(self, address, data, *, pio):
        last = struct.unpack_from("<I", self.page, 4)[0]
        struct.pack_into(
            "<QII8s", self.page, 8 + 24 * last, address, len(data), int(pio), data.ljust(8, b"\xee")
        )
        struct.pack_into("<I", self.page, 4, (last + 1) % self.capacity)

    @property
    def first(self):
        return struct.unpack_from("<I", self.page)[0]


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def log():
    return []


@pytest.fixture
def writes(kernel, log):
    pio, mmio, lock = Bus("port", 0x10000), Bus("MMIO", 1 << 52), threading.RLock()
    for bus, start in ((pio, 0x10), (mmio, 0xD000_0000)):
        port = FunctionPort(f"{bus.name} device")
        port.on_out = lambda value, size, name=bus.name: log.append((name, size, value))
        bus.map(range(start, start + 8), port)
    return CoalescedWrites(CoalescedRing(kernel.page), pio, mmio, lock)


def test_an_empty_ring(writes, log):
    writes.drain()
    assert (log, writes.count) == ([], 0)


def test_writes_come_in_order_each_to_its_bus(kernel, writes, log):
    kernel.put(0x10, b"\x01", pio=True)
    kernel.put(0xD000_0000, b"\x02\0\0\0", pio=False)
    kernel.put(0x12, b"\x03\x04", pio=True)
    writes.drain()
    assert log == [("port", 1, 1), ("MMIO", 4, 2), ("port", 2, 0x403)]
    assert writes.count == 3
    writes.drain()
    assert len(log) == 3


def test_every_width(kernel, writes, log):
    for size in (1, 2, 4, 8):
        kernel.put(0xD000_0000, bytes(range(1, size + 1)), pio=False)
    writes.drain()
    assert [size for _, size, _ in log] == [1, 2, 4, 8]
    assert log[-1][2] == 0x0807060504030201


def test_the_ring_goes_round(kernel, writes, log):
    for number in range(1000):
        kernel.put(0x10, bytes([number & 0xFF]), pio=True)
        if number % 100 == 99:
            writes.drain()
    assert [value for *_, value in log] == [number & 0xFF for number in range(1000)]
    assert kernel.first == 1000 % kernel.capacity


def test_devices_are_called_under_the_lock(kernel, writes):
    free = []

    def attempt(*ignored):
        other = threading.Thread(target=lambda: free.append(writes._lock.acquire(blocking=False)))
        other.start()
        other.join()

    writes._pio.find(0x10).device.on_out = attempt
    kernel.put(0x10, b"\x01", pio=True)
    writes.drain()
    assert free == [False]


@pytest.mark.parametrize(("address", "pio"), [(0x10, True), (0xD000_0004, False)])
def test_a_device_that_raises_is_named(kernel, writes, address, pio):
    bus = writes._pio if pio else writes._mmio

    def fail(value, size):
        raise RuntimeError("no such cell")

    bus.find(address).device.on_out = fail
    kernel.put(address, b"\x01", pio=pio)
    with pytest.raises(DeviceFault, match=f"{bus.name} device.*{address:#x}.*no such cell"):
        writes.drain()
