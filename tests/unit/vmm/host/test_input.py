"""Input on its way to the guest: escapes, files, pipes, and no more than is wanted."""

from __future__ import annotations

import os
import threading

import pytest

from vmm.host.console import Console
from vmm.host.events import HostEvents
from vmm.host.input import EscapeKeys, InputPump

WAIT_S = 30


@pytest.fixture
def keys():
    done = []
    made = EscapeKeys(on_exit=lambda: done.append("exit"), on_help=lambda: done.append("help"))
    return made, done


@pytest.mark.parametrize(
    ("typed", "kept", "commands"),
    [
        (b"hello\r\x03\x1a\xff", b"hello\r\x03\x1a\xff", []),
        (b"a\x01xb", b"ab", ["exit"]),
        (b"\x01\x18", b"", ["exit"]),
        (b"\x01h\x01?\x01\x08", b"", ["help"] * 3),
        (b"\x01\x01", b"\x01", []),
        (b"\x01a", b"\x01", []),
        (b"\x01qz", b"z", []),
        (b"\x01\x01x", b"\x01x", []),
    ],
)
def test_ctrl_a_is_ours_and_the_rest_is_the_guests(keys, typed, kept, commands):
    sort, done = keys
    assert sort.feed(typed) == kept
    assert done == commands


def test_an_escape_may_come_in_two_pieces(keys):
    sort, done = keys
    assert sort.feed(b"a\x01") == b"a"
    assert sort.feed(b"x") == b""
    assert done == ["exit"]


def test_keys_pause_and_detach():
    done = []
    keys = EscapeKeys(
        on_exit=lambda: done.append("exit"),
        on_help=lambda: done.append("help"),
        on_pause=lambda: done.append("pause"),
        on_detach=lambda: done.append("detach"),
    )
    assert keys.feed(b"a\x01pb\x01\x10c\x01dd\x01\x04e") == b"abcde"
    assert done == ["pause", "pause", "detach", "detach"]


@pytest.fixture
def events():
    failures = []
    made = HostEvents(failures.append)
    yield made
    made.close()
    assert failures == []


class Taker:
    """Takes what comes and lets a test wait for it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.changed = threading.Condition()

    def take(self, data: bytes) -> None:
        with self.changed:
            self.got += data
            self.changed.notify_all()

    def wait_for(self, data: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bytes(self.got) == data, WAIT_S), self.got


def test_a_pipe_is_read_as_it_comes(events):
    reader, writer = os.pipe()
    taker = Taker()
    pump = InputPump(reader, events, taker.take, lambda later: True)
    pump.start()
    os.write(writer, b"one")
    taker.wait_for(b"one")
    os.write(writer, b" two")
    taker.wait_for(b"one two")
    os.close(writer)
    pump.stop()
    pump.stop()
    os.close(reader)


def test_a_file_is_there_before_the_guest_runs(events, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"x" * 10_000)
    taker = Taker()
    with path.open("rb") as file:
        InputPump(file.fileno(), events, taker.take, lambda later: True).start()
        assert bytes(taker.got) == b"x" * 10_000


def test_no_more_of_an_endless_file_is_read_than_has_room(events):
    console = Console()
    fd = os.open("/dev/zero", os.O_RDONLY)
    pump = InputPump(fd, events, console.send, console.when_room)
    pump.start()
    first = console.waiting
    assert 0 < first < 1 << 17
    for _ in range(first):
        assert console.get(WAIT_S) == 0  # and behind it there is more
    assert console.get(WAIT_S) == 0
    pump.stop()
    os.close(fd)


def test_no_more_of_a_pipe_is_read_than_has_room(events):
    console = Console()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pump = InputPump(reader, events, console.send, console.when_room)
    pump.start()
    written, idle = 0, 0
    while idle < 10:
        try:
            written += os.write(writer, bytes(1 << 16))
            idle = 0
        except BlockingIOError:
            idle += 1
            threading.Event().wait(0.02)
        assert written < 1 << 20
    for _ in range(written):
        assert console.get(WAIT_S) == 0
    pump.stop()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("what", ["closed", "directory"])
def test_what_cannot_be_read_is_no_input(events, tmp_path, what):
    fd = os.open(tmp_path, os.O_RDONLY)
    if what == "closed":
        os.close(fd)
    taker = Taker()
    pump = InputPump(fd, events, taker.take, lambda later: True)
    pump.start()
    pump.stop()
    assert taker.got == b""
    if what == "directory":
        os.close(fd)


def test_what_is_typed_while_held_waits_until_it_is_released(events):
    here, there = os.pipe()
    taker = Taker()
    pump = InputPump(here, events, taker.take, lambda later: True)
    pump.start()
    os.write(there, b"one")
    taker.wait_for(b"one")
    pump.hold()
    os.write(there, b"two")
    threading.Event().wait(0.05)
    assert taker.got == b"one"
    pump.release()
    taker.wait_for(b"onetwo")
    pump.stop()
    os.close(here)
    os.close(there)
