from __future__ import annotations

import os

import pytest

from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.rng import Rng


class Bench:
    def __init__(self, **more):
        self.memory = Ram(1 << 20)
        self.device = VirtioMmio(Rng(**more), memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)
        assert self.driver.start()


def test_it_is_an_entropy_source():
    bench = Bench()
    assert bench.driver.read(0x008) == 4
    assert bench.device.name == "virtio-rng"
    assert len(bench.driver.queues) == 1


def test_requests_get_what_the_source_gives():
    asked = []

    def source(size):
        asked.append(size)
        return bytes(n & 0xFF for n in range(size))

    bench = Bench(source=source)
    assert bench.driver.ask(0, room=300) == bytes(n & 0xFF for n in range(300))
    assert asked == [300]


def test_the_hosts_entropy_is_the_source():
    bench = Bench()
    first, second = bench.driver.ask(0, room=32), bench.driver.ask(0, room=32)
    assert len(first) == 32
    assert first != second


def test_a_request_has_a_bound():
    bench = Bench(source=bytes)
    bench.driver.queues[0].add([], [(0x8000, 200_000)])
    bench.driver.notify(0)
    assert bench.driver.queues[0].finished()[0][1] == 65536


@pytest.mark.parametrize(("data", "room"), [(b"x", 0), (b"x", 16)])
def test_a_buffer_to_be_read_is_no_request(data, room):
    bench = Bench(source=os.urandom)
    with pytest.raises(RuntimeError):
        bench.driver.ask(0, data, room)
    assert bench.driver.read(0x070) & 64
