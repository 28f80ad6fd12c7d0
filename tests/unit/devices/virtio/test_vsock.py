"""The vsock device in front of its connections: packets through queues."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.vsock import Vsock

RX, TX, EVENT = range(3)
REQUEST, RESPONSE, RST, _, RW = range(1, 6)
HEADER = struct.Struct("<QQIIIHHIII")
BUFFERS = 0x20000


class End:
    """The host's end: says back what it hears."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.closed = False

    def read(self, size: int) -> bytes | None:
        data = bytes(self.text[:size])
        del self.text[:size]
        return data or None

    def write(self, data: bytes | memoryview) -> int | None:
        self.text += data
        return len(data)

    def connected(self, port: int) -> None:
        pass

    def end_of_input(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Setup:
    """A device with a cid of 7 and its driver, on memory."""

    def __init__(self, memory: Ram | None = None) -> None:
        self.memory = memory or Ram(1 << 20)
        self.end = End()
        self.vsock = Vsock(7, lambda port: self.end if port == 80 else None)
        self.device = VirtioMmio(self.vsock, memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)

    def start(self) -> None:
        assert self.driver.start()
        self.places: dict[int, int] = {}
        for n in range(16):
            at = BUFFERS + n * 128
            self.places[self.driver.queues[RX].add(writable=[(at, 44), (at + 44, 84)])] = at
        self.driver.notify(RX)

    def send(self, op: int, payload: bytes = b"", port: int = 80) -> None:
        self.driver.ask(TX, HEADER.pack(7, 2, 1000, port, len(payload), 1, op, 0, 999, 0) + payload)

    def received(self) -> list[tuple[int, bytes]]:
        packets = []
        for head, written in self.driver.queues[RX].finished():
            data = self.memory.read(self.places[head], written)
            fields = HEADER.unpack_from(data)
            assert fields[:2] == (2, 7)
            assert len(data) == 44 + fields[4]
            packets.append((fields[6], data[44:]))
        return packets


def test_configuration() -> None:
    setup = Setup()
    assert setup.device.read(0x008, 4) == 19
    assert setup.device.read(0x100, 4) == 7
    assert setup.device.read(0x104, 4) == 0
    assert setup.driver.offered() & 3 == 1


def test_an_echo() -> None:
    setup = Setup()
    setup.start()
    setup.send(REQUEST)
    assert setup.received() == [(RESPONSE, b"")]
    setup.send(RW, b"hello")
    setup.vsock.streams.can_read(setup.end)
    assert setup.received() == [(RW, b"hello")]
    assert setup.driver.interrupts() == 1


def test_a_long_text_comes_in_pieces_that_fit() -> None:
    setup = Setup()
    setup.start()
    setup.send(REQUEST)
    setup.received()
    setup.end.text += bytes(range(200))
    setup.vsock.streams.can_read(setup.end)
    texts = [text for _, text in setup.received()]
    assert [len(text) for text in texts] == [84, 84, 32]
    assert b"".join(texts) == bytes(range(200))


def test_packets_wait_until_the_guest_has_buffers() -> None:
    setup = Setup()
    assert setup.driver.start()
    setup.send(REQUEST)
    head = setup.driver.queues[RX].add(writable=[(BUFFERS, 128)])
    setup.places = {head: BUFFERS}
    setup.driver.notify(RX)
    assert setup.received() == [(RESPONSE, b"")]


def test_a_reset_ends_connections() -> None:
    setup = Setup()
    setup.start()
    setup.send(REQUEST)
    setup.driver.write(0x070, 0)
    assert setup.end.closed
    assert len(setup.vsock.streams) == 0
    setup.start()
    setup.send(RW, b"hello")
    assert setup.received() == [(RST, b"")]


def test_a_guest_that_goes_on_elsewhere_is_told() -> None:
    setup = Setup()
    setup.start()
    setup.send(REQUEST)
    event = setup.driver.queues[EVENT].add(writable=[(0x8000, 4)])
    setup.driver.notify(EVENT)
    setup.memory.write(0x8000, b"\xff" * 4)
    other = Setup(setup.memory)
    other.device.load(setup.device.save())
    other.device.transport.kick_all()
    assert setup.driver.queues[EVENT].finished() == [(event, 4)]
    assert setup.memory.read(0x8000, 4) == bytes(4)
    assert other.vsock.values["guest_cid"] == 7


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=10))
def test_whatever_is_in_the_queue_the_device_goes_on(packets: list[bytes]) -> None:
    setup = Setup()
    setup.start()
    for data in packets:
        setup.driver.ask(TX, data)
    setup.send(REQUEST)
    assert (RESPONSE, b"") in setup.received()[-1:] or packets
    assert not setup.driver.read(0x070) & 64
