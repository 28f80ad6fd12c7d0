"""vsock's ends on Unix sockets: real sockets, and a guest that the test plays."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.virtio.vsock_packets import HEADER_SIZE, VsockPacket
from devices.virtio.vsock_streams import VsockStreams
from vmm.errors import ConfigError
from vmm.host.events import HostEvents
from vmm.host.vsock_sockets import VsockSockets

REQUEST, RESPONSE, RST, SHUTDOWN, RW = 1, 2, 3, 4, 5
SEND = 2


class Guest:
    """A guest that keeps the packets that it gets."""

    def __init__(self, path: Path) -> None:
        errors: list[BaseException] = []
        self.errors = errors
        self.lock = threading.RLock()
        self.events = HostEvents(errors.append)
        self.sockets = VsockSockets(str(path), self.events, self.lock)
        self.streams = VsockStreams(3, self.sockets.connect, lambda: None)
        self.sockets.streams = self.streams
        self.path = path

    def send(self, op: int, ports: tuple[int, int], payload: bytes = b"", flags: int = 0) -> None:
        numbers = (3, 2, *ports, len(payload), 1, op, flags, 1 << 20, 0)
        packet = VsockPacket.parse(struct.pack("<QQIIIHHIII", *numbers))
        assert packet is not None
        with self.lock:
            self.streams.from_guest(packet, payload)

    def packet(self) -> tuple[VsockPacket, bytes]:
        """Wait for the next packet."""
        found = until(self._next)
        packet = VsockPacket.parse(found[0])
        assert packet is not None
        return packet, found[1]

    def _next(self) -> tuple[bytes, bytes] | None:
        with self.lock:
            return self.streams.next_packet(HEADER_SIZE + 4096)

    def dial(self, text: bytes) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(10)
        made.connect(str(self.path))
        if text:  # even no bytes are an error where the other side has closed already
            made.sendall(text)
        return made


def until(look: Callable[[], tuple[bytes, bytes] | None]) -> tuple[bytes, bytes]:
    for _ in range(2000):
        if (found := look()) is not None:
            return found
        time.sleep(0.005)
    raise AssertionError("nothing came in 10 s")


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "v.sock")
    yield made
    made.sockets.close()
    made.sockets.close()
    made.events.close()
    assert made.errors == []
    assert not made.path.exists()


def test_a_program_reaches_the_guest(guest: Guest) -> None:
    with guest.dial(b"CONNECT 1234\nfirst words") as program:
        request, _ = guest.packet()
        assert (request.op, request.dst_port) == (REQUEST, 1234)
        ports = 1234, request.src_port
        guest.send(RESPONSE, ports)
        guest.send(RW, ports, b"hello\n")
        assert program.makefile("rb").readline() == b"OK %d\n" % request.src_port
        packet, data = guest.packet()
        assert (packet.op, data) == (RW, b"first words")
        program.sendall(b"more")
        packet, data = guest.packet()
        assert (packet.op, data) == (RW, b"more")
        program.shutdown(socket.SHUT_WR)
        packet, _ = guest.packet()
        assert (packet.op, packet.flags) == (SHUTDOWN, SEND)


def test_what_the_guest_says_comes_behind_the_answer(guest: Guest) -> None:
    with guest.dial(b"CONNECT 7\n") as program:
        request, _ = guest.packet()
        ports = 7, request.src_port
        guest.send(RESPONSE, ports)
        guest.send(RW, ports, b"hello")
        guest.send(SHUTDOWN, ports, flags=SEND)
        text = b""
        while piece := program.recv(100):
            text += piece
        assert text == b"OK %d\nhello" % request.src_port


def test_the_guest_reaches_a_program(guest: Guest) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{guest.path}_99")
        listener.listen()
        guest.send(REQUEST, (4000, 99))
        packet, _ = guest.packet()
        assert packet.op == RESPONSE
        program, _ = listener.accept()
        with program:
            program.settimeout(10)
            guest.send(RW, (4000, 99), b"ping")
            assert program.recv(100) == b"ping"
            program.sendall(b"pong")
            assert guest.packet()[1] == b"pong"
    os.unlink(f"{guest.path}_99")


def test_more_than_the_socket_holds_waits(guest: Guest) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{guest.path}_99")
        listener.listen()
        guest.send(REQUEST, (4000, 99))
        assert guest.packet()[0].op == RESPONSE
        program, _ = listener.accept()
        with program:
            program.settimeout(10)
            sent, got, piece = 0, b"", os.urandom(60_000)
            text = b""
            while sent < 40:
                guest.send(RW, (4000, 99), piece)
                text += piece
                sent += 1
                # The guest keeps to its credit: no more than four of them wait.
                while len(text) - len(got) > 200_000:
                    got += program.recv(1 << 20)
            while len(got) < len(text):
                got += program.recv(1 << 20)
            assert got == text


def test_nobody_listens(guest: Guest) -> None:
    guest.send(REQUEST, (4000, 99))
    assert guest.packet()[0].op == RST


def test_the_guest_refuses(guest: Guest) -> None:
    with guest.dial(b"CONNECT 7\n") as program:
        request, _ = guest.packet()
        guest.send(RST, (7, request.src_port))
        assert program.recv(100) == b""


@pytest.mark.parametrize(
    "text",
    [b"\n", b"HELLO 7\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967296\n", b"C" * 32],
)
def test_a_greeting_that_is_none(guest: Guest, text: bytes) -> None:
    with guest.dial(text) as program:
        assert program.recv(100) == b""
    assert len(guest.streams) == 0


def test_a_greeting_in_pieces(guest: Guest) -> None:
    with guest.dial(b"CON") as program:
        for piece in (b"NECT", b" 1", b"2\n"):
            time.sleep(0.02)
            program.sendall(piece)
        assert guest.packet()[0].dst_port == 12


def test_too_many_that_say_nothing(guest: Guest) -> None:
    with guest.dial(b"") as first:
        others = [guest.dial(b"") for _ in range(70)]
        closed = sum(program.recv(1) == b"" for program in others[-6:])
        assert closed == 6
        first.sendall(b"CONNECT 5\n")
        assert guest.packet()[0].dst_port == 5
        for program in others:
            program.close()


def test_a_path_that_is_taken_or_none(tmp_path: Path) -> None:
    events, lock = HostEvents(lambda error: None), threading.RLock()
    taken = tmp_path / "taken"
    taken.touch()
    for path, told in (
        (taken, "such a file already"),
        (tmp_path / "no" / "sock", "No such file"),
        (tmp_path / ("x" * 200), "too long"),
    ):
        with pytest.raises(ConfigError, match=told):
            VsockSockets(str(path), events, lock)
    events.close()
