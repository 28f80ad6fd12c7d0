"""The thread of host events."""

from __future__ import annotations

import os
import threading

import pytest

from vmm.host.events import HostEvents

WAIT_S = 30


@pytest.fixture
def failures():
    return []


@pytest.fixture
def events(failures):
    made = HostEvents(failures.append)
    yield made
    made.close()


def test_no_thread_is_started_before_there_is_something_to_wait_for(failures):
    before = threading.active_count()
    events = HostEvents(failures.append)
    assert threading.active_count() == before
    events.close()
    events.close()


def test_timers_fire_in_the_order_of_their_times(events):
    order, done = [], threading.Event()
    events.call_later(0.10, lambda: (order.append("late"), done.set()))
    events.call_later(0.05, lambda: order.append("early"))
    events.call_later(0.05, lambda: order.append("second"))
    assert done.wait(WAIT_S)
    assert order == ["early", "second", "late"]


def test_a_timer_may_set_another(events):
    done = threading.Event()
    events.call_later(0, lambda: events.call_later(0, done.set))
    assert done.wait(WAIT_S)


def test_a_far_timer_keeps_nobody_waiting(events):
    done = threading.Event()
    events.call_later(1e12, done.clear)
    events.call_later(0, done.set)
    assert done.wait(WAIT_S)


def test_a_readable_file_is_told_until_it_is_unwatched(events):
    reader, writer = os.pipe()
    got, done = [], threading.Event()

    def readable() -> None:
        got.append(os.read(reader, 1))
        if len(got) == 2:
            events.unwatch(reader)
            done.set()

    events.watch(reader, readable)
    os.write(writer, b"abc")
    assert done.wait(WAIT_S)
    events.unwatch(reader)  # once more does nothing
    assert got == [b"a", b"b"]
    os.close(reader)
    os.close(writer)


def test_one_file_can_be_watched_both_ways(events):
    import socket

    near, far = socket.socketpair()
    seen = {"read": threading.Event(), "write": threading.Event()}
    fd = near.fileno()

    def writable() -> None:
        events.unwatch_writable(fd)
        seen["write"].set()

    def readable() -> None:
        events.unwatch(fd)
        seen["read"].set()

    events.watch(fd, readable)
    events.watch_writable(fd, writable)
    assert seen["write"].wait(WAIT_S)
    assert not seen["read"].is_set()
    far.send(b"x")
    assert seen["read"].wait(WAIT_S)
    events.unwatch_writable(fd)
    near.close()
    far.close()


def test_a_regular_file_cannot_be_watched(events, tmp_path):
    with (tmp_path / "file").open("wb") as file, pytest.raises(PermissionError):
        events.watch(file.fileno(), lambda: None)


def test_what_a_callback_raises_is_handed_over_once(events, failures):
    done = threading.Event()

    def fail() -> None:
        done.set()
        raise RuntimeError("oh")

    events.call_later(0, fail)
    assert done.wait(WAIT_S)
    events.close()
    assert [str(error) for error in failures] == ["oh"]


def test_after_close_nothing_is_called_or_raised(events, failures):
    reader, writer = os.pipe()
    called = []
    events.call_later(0.05, lambda: called.append("timer"))
    events.close()
    events.call_later(0, lambda: called.append("late"))
    events.watch(reader, lambda: called.append("file"))
    events.unwatch(reader)
    events.close()
    os.close(reader)
    os.close(writer)
    assert called == failures == []


def test_close_from_a_callback_ends_the_thread(failures):
    events = HostEvents(failures.append)
    done = threading.Event()
    events.call_later(0, lambda: (events.close(), done.set()))
    assert done.wait(WAIT_S)
    assert failures == []
