"""A balloon: what a driver gives is given back to the host, and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.virtio.balloon import Balloon
from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio
from devices.wiring import StateError

INFLATE, DEFLATE, STATS, REPORT = range(4)
PAGE = 4096
STATS_VQ, ON_OOM, REPORTING = 1 << 1, 1 << 2, 1 << 5


class Setup:
    """A balloon, its driver, and how many pages were given back at a time."""

    def __init__(self) -> None:
        self.pieces: list[int] = []
        self.memory = Ram(1 << 20)
        self.balloon = Balloon(self._discard)
        self.device = VirtioMmio(self.balloon, memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)
        assert self.driver.start(STATS_VQ | ON_OOM | REPORTING, queue_size=16)

    def _discard(self, piece: memoryview) -> None:
        # Which pages they are shows in the memory itself.
        assert len(piece) % PAGE == 0
        self.pieces.append(len(piece) // PAGE)
        piece[:] = b"\xee" * len(piece)

    def give(self, *pages: int, queue: int = INFLATE) -> None:
        self.driver.ask(queue, struct.pack(f"<{len(pages)}I", *pages))

    def given(self) -> list[int]:
        return [n for n in range(256) if self.memory.read(n * PAGE, PAGE) == b"\xee" * PAGE]


def test_the_guest_is_asked_and_answers() -> None:
    setup = Setup()
    setup.balloon.resize(3 * PAGE + 5)
    assert setup.device.read(0x100, 4) == 3
    assert setup.driver.interrupts() & 2
    setup.device.write(0x104, 4, 2)
    assert setup.balloon.actual_bytes == 2 * PAGE
    assert setup.balloon.target_bytes == 3 * PAGE
    setup.device.write(0x100, 4, 99)
    assert setup.balloon.target_bytes == 3 * PAGE


def test_what_is_given_goes_back_to_the_host() -> None:
    setup = Setup()
    setup.give(102, 101, 100, 90, 120, 101)
    assert setup.given() == [90, 100, 101, 102, 120]
    assert setup.pieces == [1, 3, 1]
    setup.give(100, queue=DEFLATE)


def test_pages_that_are_none_are_passed_over() -> None:
    setup = Setup()
    setup.give(0xFFFF_FFFF, 256, 5000, 99, 255, 256)
    # 255 and 256 are neighbours, of which one is memory: nothing of the run is.
    assert setup.given() == [99]


@given(st.binary(max_size=200))
def test_no_request_of_a_guest_raises(data: bytes) -> None:
    setup = Setup()
    for queue in (INFLATE, DEFLATE, STATS):
        setup.memory.write(0x8000, data)
        if data:
            setup.driver.queues[queue].add([(0x8000, len(data))])
            setup.driver.notify(queue)
    assert not setup.driver.read(0x070) & 64


def test_statistics_are_told_when_asked_for() -> None:
    setup = Setup()
    told: list[dict[str, int]] = []
    setup.balloon.on_statistics = lambda: told.append(dict(setup.balloon.statistics))
    assert not setup.balloon.ask_for_statistics()
    queue = setup.driver.queues[STATS]
    setup.memory.write(0x8000, struct.pack("<HQHQHQ", 4, 1234, 5, 5678, 77, 1) + b"rest")
    queue.add([(0x8000, 34)])
    setup.driver.notify(STATS)
    assert told == [{"free": 1234, "total": 5678}]
    assert queue.finished() == []  # the buffer waits until there is a question
    assert setup.balloon.ask_for_statistics()
    assert len(queue.finished()) == 1
    assert setup.driver.interrupts() & 1
    assert not setup.balloon.ask_for_statistics()


def test_free_pages_that_are_reported_are_given_back() -> None:
    setup = Setup()
    setup.driver.queues[REPORT].add(writable=[(200 * PAGE, 2 * PAGE), (210 * PAGE, PAGE)])
    setup.driver.notify(REPORT)
    assert setup.given() == [200, 201, 210]
    assert setup.balloon.reported_bytes == 3 * PAGE
    assert len(setup.driver.queues[REPORT].finished()) == 1


def test_a_saved_balloon_goes_on() -> None:
    setup = Setup()
    setup.balloon.resize(7 * PAGE)
    queue = setup.driver.queues[STATS]
    setup.memory.write(0x8000, struct.pack("<HQ", 4, 1234))
    queue.add([(0x8000, 10)])
    setup.driver.notify(STATS)
    state = setup.device.save()
    balloon = Balloon(lambda piece: None)
    device = VirtioMmio(balloon, memory=setup.memory)
    device.load(state)
    assert balloon.target_bytes == 7 * PAGE
    device.transport.kick_all()
    assert balloon.ask_for_statistics()
    assert len(queue.finished()) == 1


def test_a_state_with_a_buffer_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    balloon = Balloon(lambda piece: None)
    state = balloon.save()
    for waiting in (16, -2, "x"):
        vars(state)["waiting"] = waiting
        with pytest.raises(StateError, match="waiting"):
            balloon.load(state)


def test_a_reset_keeps_what_the_guest_is_asked_for() -> None:
    setup = Setup()
    setup.balloon.resize(7 * PAGE)
    setup.device.write(0x104, 4, 7)
    setup.device.reset()
    assert (setup.balloon.target_bytes, setup.balloon.actual_bytes) == (7 * PAGE, 0)
