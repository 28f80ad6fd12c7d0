"""Devices that are made when they are first wanted."""

from __future__ import annotations

import threading

import pytest

from vmm.bus import Bus
from vmm.errors import DeviceFault, MappingOverlap
from vmm.late import Devices, LateDevice


class Cell:
    def __init__(self, name: str = "cell") -> None:
        self.name = name
        self.value = 7

    def read(self, offset: int, size: int) -> int:
        return self.value + offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value

    def reset(self) -> None:
        self.value = 7


class Maker:
    """Makes cells, and knows how many and whether the lock was held."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.made: list[Cell] = []
        self.late = LateDevice("cell", self.make, self.lock)

    def make(self) -> Cell:
        assert self.lock._is_owned()
        self.made.append(Cell())
        return self.made[-1]


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def bus(maker: Maker) -> Bus:
    bus = Bus("port", 0x1_0000)
    bus.map(range(0x10, 0x12), maker.late)
    bus.map(range(0x20, 0x21), maker.late, base=0x10)
    return bus


def test_a_place_on_the_bus_makes_nothing(bus: Bus, maker: Maker) -> None:
    assert bus.name_at(0x10) == "cell"
    with pytest.raises(MappingOverlap, match=r"second.*overlaps cell"):
        bus.map(range(0x11, 0x12), Cell("second"))
    assert bus.read(0x12, 1) == 0xFF
    assert maker.made == []


def test_the_first_touch_makes_it_and_all_its_places_are_one(bus: Bus, maker: Maker) -> None:
    bus.write(0x10, 1, 40)
    assert bus.read(0x11, 1) == 41
    assert bus.read(0x20, 1) == 40 + 0x10
    assert len(maker.made) == 1
    assert maker.late.device is maker.made[0]


def test_an_access_over_its_end_makes_it(bus: Bus, maker: Maker) -> None:
    assert bus.read(0x11, 2) == 0xFF08
    assert len(maker.made) == 1


def test_many_threads_get_one_device(maker: Maker) -> None:
    barrier, found = threading.Barrier(4), []

    def want() -> None:
        barrier.wait(10)
        found.append(maker.late.device)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == maker.made * 4
    assert len(maker.made) == 1


def test_a_maker_that_fails_is_asked_again() -> None:
    attempts: list[int] = []

    def make() -> Cell:
        attempts.append(1)
        if len(attempts) == 1:
            raise DeviceFault("not yet")
        return Cell()

    late = LateDevice("cell", make, threading.RLock())
    with pytest.raises(DeviceFault):
        _ = late.device
    assert late.device is late.device
    assert len(attempts) == 2


def test_devices_are_made_by_a_look_and_not_by_their_names(maker: Maker) -> None:
    devices, other = Devices(), Cell("other")
    devices.add(maker.late)
    devices.add(other)
    assert (list(devices), len(devices), "cell" in devices) == (["cell", "other"], 2, True)
    assert maker.made == []
    assert devices["other"] is other
    assert devices.get("nobody") is None
    assert maker.made == []
    assert list(devices.values()) == [maker.made[0], other]
    assert devices["cell"] is maker.made[0]
