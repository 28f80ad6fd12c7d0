"""The console as a stream: what is read late is not lost, and what is lost is said."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from vmm.control.console_stream import ConsoleStream
from vmm.host.console import Console
from vmm.host.events import HostEvents

MIB = 1 << 20


class Guest:
    """A console with its thread of host events, and streams of it."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.events = HostEvents(self.errors.append)
        self.console = Console()
        self.streams: list[ConsoleStream] = []
        self.sockets: list[socket.socket] = []

    def stream(self, since: int = 0) -> socket.socket:
        """Make one where they are made; the reader's side of it."""
        made = threading.Event()

        def make() -> None:
            self.streams.append(ConsoleStream(SimpleNamespace(**vars(self)), since))  # type: ignore[arg-type]
            made.set()

        self.events.call_later(0, make)
        assert made.wait(10)
        reader = socket.fromfd(self.streams[-1].fd, socket.AF_UNIX, socket.SOCK_STREAM)
        reader.settimeout(20)
        self.sockets.append(reader)
        return reader


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    for stream in made.streams:
        stream.close()
    made.events.close()
    for one in made.sockets:
        one.close()
    assert made.errors == []


def read(reader: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        data = reader.recv(count - len(found))
        assert data, found
        found += data
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_output_comes_from_where_it_was_asked_for(guest):
    guest.console.write(b"one two")
    reader, other = guest.stream(since=4), guest.stream(since=7)
    assert read(reader, 3) == b"two"
    guest.console.write(b" three")
    assert read(reader, 6) == read(other, 6) == b" three"


def test_what_is_typed_reaches_the_guest(guest):
    got = bytearray()

    def take(data: bytes) -> int:
        got.extend(data)
        return len(data)

    guest.console.add_taker(take)
    reader = guest.stream()
    reader.sendall(b"ls\r")
    until(lambda: got == b"ls\r")


def test_a_reader_that_takes_nothing_is_not_waited_for_and_gets_all_that_is_remembered(guest):
    reader = guest.stream()
    text = bytes(range(256)) * 2048  # half a MiB: more than a socket holds
    for start in range(0, len(text), 4096):
        guest.console.write(text[start : start + 4096])
    assert read(reader, len(text)) == text


def test_what_is_not_remembered_is_counted(guest):
    reader = guest.stream()
    guest.console.write(b"a" * MIB)
    until(lambda: guest.streams[0]._watching)  # the socket is full
    for _ in range(5):
        guest.console.write(b"b" * MIB)
    guest.console.write(b"end")
    text = b""
    while not text.endswith(b"end"):
        text += reader.recv(MIB)
    before, _, after = text.partition(b"\n[")
    number, _, rest = after.partition(b" bytes are not remembered any more]\n")
    assert before.strip(b"a") == b""
    assert len(before) + int(number) + len(rest) == guest.console.written
    assert rest.rstrip(b"end").strip(b"b") == b""


def test_at_its_end_the_reader_reads_the_end(guest):
    reader = guest.stream()
    guest.console.write(b"last words")
    guest.streams[0].close()
    guest.streams[0].close()
    assert read(reader, 10) == b"last words"
    assert reader.recv(10) == b""
    guest.console.write(b"nobody")  # and nothing happens


def test_a_reader_that_hangs_up_disturbs_nobody(guest):
    reader, other = guest.stream(), guest.stream()
    reader.shutdown(socket.SHUT_RDWR)
    guest.console.write(b"x" * 1000)
    assert read(other, 1000) == b"x" * 1000
