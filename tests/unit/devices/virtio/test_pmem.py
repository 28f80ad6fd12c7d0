"""Persistent memory: where it is, and flushes."""

from __future__ import annotations

import pytest

from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.pmem import Pmem
from devices.wiring import StateError

START, SIZE = 1 << 32, 6 << 20
FLUSH = bytes(4)


class Bench:
    def __init__(self, start=START, size=SIZE):
        self.flushed = 0
        self.fails = False
        self.memory = Ram(1 << 20)
        self.device = VirtioMmio(Pmem(start, size, self.flush), memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)
        assert self.driver.start()

    def flush(self):
        self.flushed += 1
        if self.fails:
            raise OSError(5, "the disk is gone")


def test_it_says_where_it_is():
    bench = Bench()
    assert bench.driver.read(0x008) == 27
    assert len(bench.driver.queues) == 1
    assert bench.device.read(0x100, 8) == START
    assert bench.device.read(0x108, 8) == SIZE
    assert [bench.driver.read(0x100 + at) for at in (0, 4, 8, 12)] == [0, 1, SIZE, 0]
    bench.device.write(0x100, 8, 0)
    assert bench.device.read(0x100, 8) == START


def test_flushes():
    bench = Bench()
    assert bench.driver.ask(0, FLUSH, 4) == bytes(4)
    assert bench.driver.ask(0, FLUSH, 4, indirect=True) == bytes(4)
    assert bench.flushed == 2
    bench.fails = True
    assert bench.driver.ask(0, FLUSH, 4) == b"\xff" * 4
    assert bench.device.device.counters() == {"flushes": 3, "errors": 1}
    assert bench.driver.interrupts() & 1


@pytest.mark.parametrize(
    ("data", "room"),
    [(FLUSH, 0), (FLUSH, 3), (b"", 4), (bytes(3), 4), (b"\1\0\0\0", 4), (b"\0\0\0\1", 4)],
)
def test_what_is_no_flush(data, room):
    bench = Bench()
    with pytest.raises(RuntimeError):
        bench.driver.ask(0, data, room)
    assert bench.driver.read(0x070) & 64, "DEVICE_NEEDS_RESET"
    assert not bench.flushed
    assert bench.driver.start()
    assert bench.driver.ask(0, FLUSH, 8) == bytes(4), "what is longer than it need be is one"


def test_a_state_is_of_the_same_memory():
    bench = Bench()
    state = bench.device.save()
    again = Bench()
    again.device.load(state)
    assert again.device.save() == state
    for other in (Bench(size=SIZE * 2), Bench(start=START * 2)):
        with pytest.raises(StateError, match="the memory is"):
            other.device.load(state)
