"""Output to a pipe, a terminal, a full disk: batched, never waited for, never lost in silence."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import threading
from collections.abc import Iterator

import pytest

from vmm.host.events import HostEvents
from vmm.host.output import OutputBuffer

WAIT_S = 30


class Steps:
    """Events that happen when the test says so."""

    def __init__(self) -> None:
        self.later: list[tuple[float, object]] = []
        self.writable: dict[int, object] = {}

    def call_later(self, seconds, callback):
        self.later.append((seconds, callback))

    def watch_writable(self, fd, callback):
        self.writable[fd] = callback

    def unwatch_writable(self, fd):
        del self.writable[fd]

    def expire(self) -> None:
        due, self.later = self.later, []
        for _, callback in due:
            callback()


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.reader, False)
        self.size = 4096

    def read(self, size: int = 1 << 20) -> bytes:
        try:
            return os.read(self.reader, size)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for name in ("reader", "writer"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def told() -> list[object]:
    return []


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def buffer(pipe, steps, told):
    return OutputBuffer(
        pipe.writer,
        steps,
        on_closed=lambda error: told.append(error.errno),
        on_full=lambda: told.append("full"),
        on_room=lambda: told.append("room"),
    )


def test_little_goes_out_after_a_moment_in_one_piece(buffer, pipe, steps):
    buffer.write(b"> ")
    buffer.write(b"x\n")
    assert pipe.read() == b""
    (after_s, _), *rest = steps.later
    assert after_s <= 0.01
    assert rest == []
    steps.expire()
    assert pipe.read() == b"> x\n"


def test_much_goes_out_at_once(buffer, pipe):
    buffer.write(b"x" * 4096)
    assert pipe.read() == b"x" * 4096


def test_what_the_reader_does_not_take_waits(buffer, pipe, steps):
    buffer.write(b"a" * 4096)
    buffer.write(b"b" * 4096)
    assert pipe.read() == b"a" * 4096
    (writable,) = steps.writable.values()
    writable()
    assert pipe.read() == b"b" * 4096
    assert steps.writable == {}


def test_where_much_waits_the_machine_is_held(buffer, pipe, steps, told):
    for _ in range(70):
        buffer.write(b"x" * 4096)
    assert told == []  # never from within a device
    steps.expire()
    assert told == ["full"]
    (writable,) = steps.writable.values()
    taken = len(pipe.read())
    while told == ["full"]:
        writable()
        taken += len(pipe.read())
    assert told == ["full", "room"]
    assert taken > 200_000
    while steps.writable:
        writable()
        taken += len(pipe.read())
    assert taken == 70 * 4096
    assert told == ["full", "room"]


def test_the_machine_is_not_held_if_there_is_room_by_then(buffer, pipe, steps, told):
    for _ in range(70):
        buffer.write(b"x" * 4096)
    (writable,) = steps.writable.values()
    while steps.writable:
        pipe.read()
        writable()
    steps.expire()
    assert told == ["room"]


def test_drain_waits_for_the_reader(buffer, pipe):
    os.set_blocking(pipe.reader, True)
    buffer.write(b"x" * 20_000)
    got = bytearray()

    def read() -> None:
        while len(got) < 20_000:
            got.extend(os.read(pipe.reader, 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    assert buffer.drain() == 0
    reader.join()
    assert bytes(got) == b"x" * 20_000


def test_drain_gives_up_on_a_reader_that_takes_nothing(buffer):
    buffer.write(b"x" * 20_000)
    assert buffer.drain(0.1) == 20_000 - 4096
    assert buffer.drain() == 0


def test_after_give_up_nothing_is_written(buffer, pipe):
    buffer.write(b"x" * 20_000)
    buffer.give_up()
    buffer.write(b"more")
    assert buffer.drain() == 0
    assert pipe.read() == b"x" * 4096
    assert pipe.read() == b""


def test_a_reader_that_left_is_told_once(buffer, pipe, told):
    os.close(pipe.reader)
    pipe.reader = -1
    for _ in range(3):
        buffer.write(b"x" * 4096)
    assert told == [errno.EPIPE]
    assert buffer.drain() == 0


def test_a_full_disk_is_told(steps, told):
    fd = os.open("/dev/full", os.O_WRONLY)
    buffer = OutputBuffer(fd, steps, on_closed=lambda error: told.append(error.errno))
    buffer.write(b"x\n")
    assert buffer.drain() == 0
    assert told == [errno.ENOSPC]
    os.close(fd)


def test_a_pipe_that_somebody_made_non_blocking_is_not_closed(buffer, pipe, told):
    os.set_blocking(pipe.writer, False)
    for _ in range(4):
        buffer.write(b"x" * 3000)
    assert told == []
    assert len(pipe.read()) <= 4096


def test_a_terminal_gets_lines_at_once_and_carriage_returns_when_raw(steps):
    master, slave = pty.openpty()
    import tty

    tty.setraw(slave)
    buffer = OutputBuffer(slave, steps, on_closed=lambda error: None, raw=True)
    buffer.write(b"one\ntwo\r\nthree\r")
    assert os.read(master, 100) == b"one\r\ntwo\r\nthree\r"
    buffer.write(b"\nfour")
    assert os.read(master, 100) == b"\nfour"
    buffer.write(b"five")
    assert len(steps.later) == 1
    os.close(master)
    os.close(slave)


def test_with_the_real_thread_a_slow_reader_gets_everything(pipe, told):
    failures = []
    events = HostEvents(failures.append)
    full, room = threading.Event(), threading.Event()
    buffer = OutputBuffer(
        pipe.writer, events, on_closed=told.append, on_full=full.set, on_room=room.set
    )
    for number in range(400):
        buffer.write(bytes([number & 0xFF]) * 1000)
    assert full.wait(WAIT_S)
    os.set_blocking(pipe.reader, True)
    got = bytearray()
    while len(got) < 400_000:
        got += os.read(pipe.reader, 1 << 16)
    assert room.wait(WAIT_S)
    assert bytes(got) == b"".join(bytes([number & 0xFF]) * 1000 for number in range(400))
    buffer.stop()
    events.close()
    assert failures == told == []
