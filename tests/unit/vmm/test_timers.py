"""Timers of device models: a tick when it is due, and none that nobody asked for."""

from __future__ import annotations

import threading

import pytest

from vmm.timers import DeviceTimer


class Machine:
    """The lock and the events of a machine; time is the test's."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.now_ns = 1000
        self.waits: list[tuple[float, object]] = []
        self.events = self

    def call_later(self, seconds, callback):
        self.waits.append((seconds, callback))

    def clock(self) -> int:
        return self.now_ns

    def expire(self) -> None:
        _, callback = self.waits.pop(0)
        callback()


class Device:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.next_ns: int | None = None
        self.ticks: list[int] = []

    def next_event_ns(self) -> int | None:
        return self.next_ns

    def tick(self) -> None:
        assert self.machine.lock._is_owned()  # type: ignore[attr-defined]
        self.ticks.append(self.machine.now_ns)
        self.next_ns = None


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def timer(machine):
    return DeviceTimer(machine, machine.clock)


@pytest.fixture
def device(machine, timer):
    made = Device(machine)
    timer.connect(made)
    return made


def test_before_there_is_a_device_nothing_happens(timer, machine):
    timer.reschedule()
    assert machine.waits == []


def test_a_device_that_wants_nothing_gets_nothing(timer, device, machine):
    timer.reschedule()
    assert machine.waits == []


def test_a_tick_comes_when_it_is_due(timer, device, machine):
    device.next_ns = machine.now_ns + 2_000_000_000
    timer.reschedule()
    assert [seconds for seconds, _ in machine.waits] == [2.0]
    machine.now_ns += 2_000_000_000
    machine.expire()
    assert device.ticks == [machine.now_ns]
    assert machine.waits == []


def test_what_is_overdue_waits_a_moment_all_the_same(timer, device, machine):
    device.next_ns = machine.now_ns - 5
    timer.reschedule()
    ((seconds, _),) = machine.waits
    assert 0 < seconds < 0.01


def test_a_later_wish_sets_no_second_timer(timer, device, machine):
    for next_ns in (10_000_000, 20_000_000, 10_000_000):
        device.next_ns = next_ns
        timer.reschedule()
    assert len(machine.waits) == 1


def test_an_earlier_wish_does(timer, device, machine):
    for next_ns in (20_000_000, 10_000_000):
        device.next_ns = next_ns
        timer.reschedule()
    assert len(machine.waits) == 2


def test_after_a_tick_the_next_is_set(timer, device, machine):
    class Periodic(Device):
        def tick(self) -> None:
            super().tick()
            self.next_ns = machine.now_ns + 1_000_000

    periodic = Periodic(machine)
    timer.connect(periodic)
    periodic.next_ns = machine.now_ns + 1_000_000
    timer.reschedule()
    for _ in range(3):
        machine.now_ns += 1_000_000
        machine.expire()
    assert len(periodic.ticks) == 3
    assert len(machine.waits) == 1
