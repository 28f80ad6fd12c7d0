"""vsock without vhost: the connections of a guest, with ends that the test holds on both sides."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.vsock_packets import HEADER_SIZE, VsockPacket
from devices.virtio.vsock_streams import BUFFER_SIZE, MAX_CONNECTIONS, VsockStreams

# The numbers once more, from the specification.
HOST, CID = 2, 3
REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
RECEIVE, SEND = 1, 2
PORT, GUEST_PORT = 5000, 1025


class End:
    """The host's end of a connection: takes `takes` bytes until told otherwise."""

    def __init__(self, takes: int = 1 << 30) -> None:
        self.gives: bytearray = bytearray()
        self.gave_all = False
        self.got = bytearray()
        self.takes: int | None = takes
        self.events: list[str] = []

    def read(self, size: int) -> bytes | None:
        assert size > 0
        if not self.gives:
            return b"" if self.gave_all else None
        data = bytes(self.gives[:size])
        del self.gives[:size]
        return data

    def write(self, data: bytes | memoryview) -> int | None:
        if self.takes is None:
            return None
        taken = min(self.takes, len(data))
        self.takes -= taken
        self.got += data[:taken]
        return taken

    def connected(self, port: int) -> None:
        self.events.append(f"connected as {port}")

    def end_of_input(self) -> None:
        self.events.append("end of input")

    def close(self) -> None:
        self.events.append("closed")


class Guest:
    """The other side: makes packets, and reads those that are for it."""

    def __init__(self, listening: tuple[int, ...] = (PORT,)) -> None:
        self.ends: list[End] = []
        self.listening = listening
        self.woken = 0
        self.streams = VsockStreams(CID, self._connect, self._wake)

    def _connect(self, port: int) -> End | None:
        if port not in self.listening:
            return None
        self.ends.append(End())
        return self.ends[-1]

    def _wake(self) -> None:
        self.woken += 1

    def send(
        self,
        op: int,
        payload: bytes = b"",
        *,
        ports: tuple[int, int] = (GUEST_PORT, PORT),
        cids: tuple[int, int] = (CID, HOST),
        type: int = 1,
        flags: int = 0,
        room: int = 65536,
        forwarded: int = 0,
    ) -> None:
        numbers = (*cids, *ports, len(payload), type, op, flags, room, forwarded)
        packet = VsockPacket.parse(struct.pack("<QQIIIHHIII", *numbers))
        assert packet is not None
        self.streams.from_guest(packet, payload)

    def next(self, room: int = 4096) -> tuple[VsockPacket, bytes] | None:
        made = self.streams.next_packet(room)
        if made is None:
            return None
        packet = VsockPacket.parse(made[0])
        assert packet is not None
        assert (packet.src_cid, packet.dst_cid) == (HOST, CID)
        assert packet.size == len(made[1]) <= room - HEADER_SIZE
        return packet, made[1]

    def got(self, room: int = 4096) -> tuple[VsockPacket, bytes]:
        made = self.next(room)
        assert made is not None, "no packet for the guest"
        return made

    def ops(self) -> list[int]:
        found = []
        while (packet := self.next()) is not None:
            found.append(packet[0].op)
        return found

    def connect(self) -> End:
        self.send(REQUEST)
        assert self.ops() == [RESPONSE]
        return self.ends[-1]


def test_the_header_is_that_of_the_specification() -> None:
    packet = VsockPacket(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert packet.pack() == struct.pack("<QQIIIHHIII", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert len(packet.pack()) == HEADER_SIZE == 44
    assert VsockPacket.parse(packet.pack()) == packet
    assert VsockPacket.parse(packet.pack()[:43]) is None


def test_the_guest_connects_and_both_sides_talk() -> None:
    guest = Guest()
    end = guest.connect()
    guest.send(RW, b"hello")
    assert end.got == b"hello"
    end.gives += b"welcome"
    guest.streams.can_read(end)
    packet, data = guest.got()
    assert (packet.op, data, packet.fwd_cnt) == (RW, b"welcome", 5)
    assert (packet.src_port, packet.dst_port) == (PORT, GUEST_PORT)
    assert guest.next() is None


def test_nobody_listens() -> None:
    guest = Guest(listening=())
    guest.send(REQUEST)
    packet, _ = guest.got()
    assert (packet.op, packet.src_port, packet.dst_port) == (RST, PORT, GUEST_PORT)
    assert len(guest.streams) == 0


def test_the_host_connects() -> None:
    guest, end = Guest(), End()
    assert guest.streams.from_host(end, 22)
    packet, _ = guest.got()
    assert (packet.op, packet.dst_port, packet.buf_alloc) == (REQUEST, 22, BUFFER_SIZE)
    end.gives += b"early"
    guest.streams.can_read(end)
    assert guest.next() is None  # not before the guest has agreed
    guest.send(RESPONSE, ports=(22, packet.src_port))
    assert end.events == [f"connected as {1 << 30}"]
    answer, data = guest.got()
    assert (answer.op, data) == (RW, b"early")


def test_the_guest_refuses() -> None:
    guest, end = Guest(), End()
    guest.streams.from_host(end, 22)
    packet, _ = guest.got()
    guest.send(RST, ports=(22, packet.src_port))
    assert end.events == ["closed"]
    assert guest.ops() == []  # a reset is not answered


def test_no_more_is_sent_than_the_guest_has_room_for() -> None:
    guest = Guest()
    guest.send(REQUEST, room=10)
    assert guest.ops() == [RESPONSE]
    end = guest.ends[0]
    end.gives += bytes(range(25))
    guest.streams.can_read(end)
    packet, data = guest.got()
    assert (packet.op, data) == (RW, bytes(range(10)))
    assert guest.ops() == [CREDIT_REQUEST]
    guest.send(CREDIT_UPDATE, room=10, forwarded=4)
    packet, data = guest.got()
    assert data == bytes(range(10, 14))
    # A peer that says that it passed on what it never got has no room.
    guest.send(CREDIT_UPDATE, room=10, forwarded=100)
    assert guest.ops() == [CREDIT_REQUEST]


def test_the_guest_is_told_when_there_is_room_again() -> None:
    guest = Guest()
    end = guest.connect()
    piece = bytes(BUFFER_SIZE // 8)
    end.takes = 0
    for _ in range(8):
        guest.send(RW, piece)
    assert guest.ops() == []
    assert guest.streams.wants_write(end)
    end.takes = 1 << 30
    assert not guest.streams.can_write(end)
    packet, _ = guest.got()
    assert (packet.op, packet.fwd_cnt) == (CREDIT_UPDATE, BUFFER_SIZE)
    assert len(end.got) == BUFFER_SIZE


def test_more_than_there_was_room_for_is_a_reset() -> None:
    guest = Guest()
    end = guest.connect()
    end.takes = 0
    guest.send(RW, bytes(BUFFER_SIZE))
    assert guest.ops() == []
    guest.send(RW, b"x")
    assert guest.ops() == [RST]
    assert end.events == ["closed"]
    assert not end.got


def test_half_closed_by_the_guest() -> None:
    guest = Guest()
    end = guest.connect()
    end.takes = 3
    guest.send(RW, b"last words")
    guest.send(SHUTDOWN, flags=SEND)
    assert end.events == []  # not before all was passed on
    end.takes = 100
    guest.streams.can_write(end)
    assert (end.got, end.events) == (b"last words", ["end of input"])
    end.gives += b"answer"
    end.gave_all = True
    guest.streams.can_read(end)
    assert guest.ops() == [RW, SHUTDOWN, RST]
    assert end.events == ["end of input", "closed"]


def test_half_closed_by_the_host() -> None:
    guest = Guest()
    end = guest.connect()
    end.gives += b"all"
    end.gave_all = True
    guest.streams.can_read(end)
    packets = [guest.got() for _ in range(2)]
    assert [p.op for p, _ in packets] == [RW, SHUTDOWN]
    assert packets[1][0].flags == SEND
    guest.send(RW, b"still")
    assert end.got == b"still"
    guest.send(SHUTDOWN, flags=SEND | RECEIVE)
    assert guest.ops() == [RST]
    assert len(guest.streams) == 0


def test_the_hosts_end_is_gone() -> None:
    guest = Guest()
    end = guest.connect()
    end.takes = None
    guest.send(RW, b"anybody?")
    assert guest.ops() == [RST]
    guest.send(RW, b"anybody?")
    assert guest.ops() == [RST]


@pytest.mark.parametrize("cids", [(4, HOST), (CID, 3), (CID | 1 << 32, HOST), (HOST, CID)])
def test_packets_of_others_are_nobodys(cids: tuple[int, int]) -> None:
    guest = Guest()
    guest.send(REQUEST, cids=cids)
    assert guest.ops() == []
    assert guest.ends == []


def test_other_types_of_sockets_are_refused_by_their_type() -> None:
    guest = Guest()
    guest.send(REQUEST, type=2)
    packet, _ = guest.got()
    assert (packet.op, packet.type) == (RST, 2)


@pytest.mark.parametrize("op", [REQUEST, RESPONSE, 0, 8, 0xFFFF])
def test_what_makes_no_sense_on_a_connection_ends_it(op: int) -> None:
    guest = Guest()
    end = guest.connect()
    guest.send(op)
    assert guest.ops() == [RST]
    assert end.events == ["closed"]


def test_there_is_a_bounded_number_of_connections_and_answers() -> None:
    guest = Guest()
    for port in range(MAX_CONNECTIONS + 1000):
        guest.send(REQUEST, ports=(port, PORT))
    assert len(guest.streams) == MAX_CONNECTIONS == len(guest.ends)
    assert not guest.streams.from_host(End(), 1)
    ops = guest.ops()
    assert ops.count(RESPONSE) == MAX_CONNECTIONS
    assert 0 < ops.count(RST) < 1000
    guest.streams.close()
    assert all(end.events == ["closed"] for end in guest.ends)
    assert guest.ops() == []


def test_connections_take_turns() -> None:
    guest = Guest()
    ends = []
    for port in (1, 2, 3):
        guest.send(REQUEST, ports=(port, PORT))
        ends.append(guest.ends[-1])
    assert guest.ops() == [RESPONSE] * 3
    for end in ends:
        end.gives += bytes(300)
        guest.streams.can_read(end)
    served = [guest.got(HEADER_SIZE + 100)[0].dst_port for _ in range(9)]
    assert served == [1, 2, 3] * 3


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.binary(max_size=64),
            st.sampled_from([GUEST_PORT, 7]),
            st.sampled_from([PORT, 1 << 30, (1 << 30) + 1]),
            st.integers(0, 3),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 5),
        ),
        max_size=40,
    )
)
def test_nothing_that_a_guest_sends_raises(steps: list[tuple[int, ...]]) -> None:
    guest = Guest()
    host_end = End(takes=10)
    guest.streams.from_host(host_end, 7)
    for op, payload, source, port, flags, room, forwarded, reads in steps:
        assert isinstance(payload, bytes)
        guest.send(op, payload, ports=(source, port), flags=flags, room=room, forwarded=forwarded)
        for end in (*guest.ends, host_end):
            end.gives += b"data"
            guest.streams.can_read(end)
        for _ in range(reads):
            guest.next()
    assert all(end.events.count("closed") <= 1 for end in guest.ends)


@given(st.binary(max_size=5000), st.integers(1, 500), st.integers(1, 700), st.data())
def test_a_stream_arrives_whole_both_ways(
    text: bytes, room: int, buffer: int, data: st.DataObject
) -> None:
    guest = Guest()
    guest.send(REQUEST, room=room)
    assert guest.ops() == [RESPONSE]
    end = guest.ends[0]
    end.takes = 0
    end.gives += text
    end.gave_all = True
    guest.streams.can_read(end)
    received, sent = bytearray(), 0
    for _ in range(100_000):
        if sent < len(text):
            piece = text[sent : sent + data.draw(st.integers(1, 900))]
            guest.send(RW, piece, room=room, forwarded=len(received))
            sent += len(piece)
        end.takes = (end.takes or 0) + 600
        guest.streams.can_write(end)
        got = guest.next(HEADER_SIZE + buffer)
        if got is not None and got[0].op == RW:
            received += got[1]
            guest.send(CREDIT_UPDATE, room=room, forwarded=len(received))
        if got is not None and got[0].op == SHUTDOWN:
            break
    guest.send(RW, text[sent:], room=room, forwarded=len(received))
    guest.send(SHUTDOWN, flags=SEND, room=room, forwarded=len(received))
    while guest.streams.wants_write(end):
        end.takes = 600
        guest.streams.can_write(end)
    assert received == text
    assert end.got == text
    assert end.events == ["end of input", "closed"]
