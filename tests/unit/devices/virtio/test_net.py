"""A network card, between a driver and a link that the test holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.token_bucket import RateLimit, TokenBucket
from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.net import Net

# The numbers once more, from the specification.
RX, TX = 0, 1
CSUM, GUEST_CSUM, F_MTU, MAC, GUEST_TSO4, HOST_TSO4 = (
    1 << 0,
    1 << 1,
    1 << 3,
    1 << 5,
    1 << 7,
    1 << 11,
)
MRG_RXBUF, STATUS = 1 << 15, 1 << 16
HEADER = 12
ADDRESS = bytes.fromhex("525400123456")
FRAME = bytes(range(200))


class Cable:
    """A link that keeps what it is sent, and gives what it is told to."""

    def __init__(self, *, offloads: int = 0, header: bool = False, mtu: int = 0) -> None:
        self.offloads, self.header, self.mtu = offloads, header, mtu
        self.sent: list[bytes] = []
        self.gives: list[bytes] = []
        self.agreed: list[int] = []
        self.takes = True
        self.fd = 5

    def agree(self, features: int) -> None:
        self.agreed.append(features)

    def send(self, parts: Sequence[bytes | memoryview]) -> bool:
        self.sent.append(b"".join(parts))
        return self.takes

    def receive(self, parts: Sequence[memoryview]) -> int:
        if not self.gives:
            return 0
        frame, done = self.gives.pop(0), 0
        for part in parts:
            piece = frame[done : done + len(part)]
            part[: len(piece)] = piece
            done += len(piece)
        return done

    def close(self) -> None:
        self.fd = -1


class Setup:
    """A card, its driver and the memory between them."""

    def __init__(self, wanted: int = MRG_RXBUF, **link: int | bool) -> None:
        self.cable = Cable(**link)  # type: ignore[arg-type]
        self.card = Net(self.cable, ADDRESS)
        self.memory = Ram(1 << 20)
        self.device = VirtioMmio(self.card, memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000, room=0x8000)
        assert self.driver.start(wanted)
        self.rx, self.tx = self.driver.queues
        self._next = 0x20000

    def send(self, frame: bytes, header: bytes = bytes(HEADER)) -> None:
        self.memory.write(0x10000, header + frame)
        self.tx.add([(0x10000, len(header)), (0x10000 + len(header), len(frame))])
        self.driver.notify(TX)
        assert [written for _, written in self.tx.finished()] == [0]

    def give_buffers(self, *sizes: int) -> dict[int, int]:
        """Give the card buffers to receive into; returns their addresses by their heads."""
        places = {}
        for size in sizes:
            places[self.rx.add(writable=[(self._next, size)])] = self._next
            self._next += size
        self.driver.notify(RX)
        return places

    def arrived(self) -> None:
        """The link has frames."""
        self.device.transport.kick(RX)


def test_what_the_driver_sees() -> None:
    setup = Setup(mtu=9000)
    read = setup.device.read
    assert read(0x008, 4) == 1
    assert bytes(read(0x100 + n, 1) for n in range(6)) == ADDRESS == setup.card.mac
    assert (read(0x106, 2), read(0x10A, 2)) == (1, 9000)
    assert setup.driver.offered() & (MAC | STATUS | MRG_RXBUF | F_MTU | CSUM) == (
        MAC | STATUS | MRG_RXBUF | F_MTU
    )
    setup.device.write(0x100, 1, 0xFF)
    assert setup.card.mac == ADDRESS


def test_an_address_of_a_group_is_none() -> None:
    for address in (b"\1\2\3\4\5\6", b"\2\3"):
        with pytest.raises(ValueError, match="MAC"):
            Net(Cable(), address)


def test_a_frame_is_sent_without_its_header_or_with_it() -> None:
    setup = Setup()
    setup.send(FRAME)
    assert setup.cable.sent == [FRAME]
    setup = Setup(header=True)
    setup.send(FRAME, bytes(range(HEADER)))
    assert setup.cable.sent == [bytes(range(HEADER)) + FRAME]
    assert (setup.card.sent_frames, setup.card.sent_bytes) == (1, len(FRAME))


def test_what_is_no_frame_is_dropped() -> None:
    setup = Setup()
    for frame in (b"", bytes(13)):
        setup.send(frame)
    setup.send(b"", bytes(5))
    assert setup.cable.sent == []
    setup.cable.takes = False
    setup.send(FRAME)
    assert (setup.card.sent_frames, setup.card.dropped_frames) == (0, 4)


def test_a_frame_is_received() -> None:
    setup = Setup()
    ((head, place),) = setup.give_buffers(2000).items()
    setup.cable.gives = [FRAME]
    setup.arrived()
    assert setup.rx.finished() == [(head, HEADER + len(FRAME))]
    got = setup.memory.read(place, HEADER + len(FRAME))
    assert got == bytes(10) + b"\1\0" + FRAME
    assert (setup.card.received_frames, setup.card.received_bytes) == (1, len(FRAME))


def test_a_header_of_the_link_is_kept_and_the_buffers_counted() -> None:
    setup = Setup(header=True, offloads=GUEST_CSUM)
    ((_, place),) = setup.give_buffers(2000).items()
    setup.cable.gives = [b"\1\0\2\0\3\0\4\0\5\0\xff\xff" + FRAME]
    setup.arrived()
    assert setup.memory.read(place, HEADER) == b"\1\0\2\0\3\0\4\0\5\0\1\0"


def test_a_long_frame_is_spread_over_buffers() -> None:
    setup = Setup()
    places = setup.give_buffers(100, 100, 100, 100)
    setup.cable.gives = [FRAME]
    setup.arrived()
    used = setup.rx.finished()
    assert [written for _, written in used] == [100, 100, 12]
    got = b"".join(setup.memory.read(places[head], written) for head, written in used)
    assert got == bytes(10) + b"\3\0" + FRAME


def test_a_frame_waits_until_there_are_buffers_enough() -> None:
    setup = Setup()
    places = setup.give_buffers(100)
    setup.cable.gives = [FRAME, FRAME[:50]]
    setup.arrived()
    assert setup.rx.finished() == []
    places |= setup.give_buffers(200, 100)
    used = setup.rx.finished()
    assert [written for _, written in used] == [100, 112, 62]
    got = b"".join(setup.memory.read(places[head], written) for head, written in used)
    assert got == bytes(10) + b"\2\0" + FRAME + bytes(10) + b"\1\0" + FRAME[:50]
    assert setup.card.dropped_frames == 0


def test_without_merging_a_frame_that_is_too_long_is_lost() -> None:
    setup = Setup(wanted=0)
    setup.give_buffers(100, 100)
    setup.cable.gives = [FRAME, FRAME[:50]]
    setup.arrived()
    assert [written for _, written in setup.rx.finished()] == [62]
    assert setup.card.dropped_frames == 1


def test_no_link_no_frames() -> None:
    setup = Setup()
    generation = setup.driver.read(0x0FC)
    setup.card.set_link(False)
    assert setup.driver.read(0x0FC) != generation
    assert setup.device.read(0x106, 2) == 0
    assert setup.driver.interrupts() & 2
    setup.send(FRAME)
    assert setup.cable.sent == []
    setup.card.set_link(True)
    setup.send(FRAME)
    assert setup.cable.sent == [FRAME]


def test_the_link_is_watched_while_it_has_no_frame_and_the_guest_has_room() -> None:
    setup = Setup()
    card = setup.card
    assert (card.input_fd(RX), card.input_fd(TX)) == (-1, -1)
    setup.give_buffers(2000)
    assert (card.input_fd(RX), card.input_fd(TX)) == (setup.cable.fd, -1)
    setup.cable.gives = [FRAME, FRAME]
    setup.arrived()
    assert len(setup.rx.finished()) == 1
    assert card.input_fd(RX) == -1, "a frame is there, no room for it"
    setup.give_buffers(2000)
    assert len(setup.rx.finished()) == 1
    setup.give_buffers(2000)
    assert card.input_fd(RX) == setup.cable.fd
    setup.driver.write(0x070, 0)
    assert card.input_fd(RX) == -1


def test_a_cable_that_is_cut_is_a_link_that_is_down() -> None:
    setup = Setup()
    setup.give_buffers(2000)
    setup.cable.close()
    setup.arrived()
    assert setup.device.read(0x106, 2) == 0
    assert setup.card.input_fd(RX) == -1
    generation = setup.driver.read(0x0FC)
    setup.arrived()
    assert setup.driver.read(0x0FC) == generation, "it is told once"


def test_offloads_are_agreed_upon_with_the_link() -> None:
    setup = Setup(wanted=CSUM | HOST_TSO4 | MRG_RXBUF, offloads=CSUM | GUEST_CSUM | HOST_TSO4)
    assert setup.cable.agreed == [CSUM | HOST_TSO4]


@pytest.mark.parametrize("alone", [GUEST_TSO4, HOST_TSO4])
def test_segmentation_without_checksums_is_refused(alone: int) -> None:
    cable = Cable(offloads=CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4)
    memory = Ram(1 << 16)
    driver = Driver(VirtioMmio(Net(cable, ADDRESS), memory=memory), memory, 0x1000)
    assert not driver.start(alone)


@pytest.mark.parametrize("queue", [RX, TX])
def test_buffers_of_the_wrong_kind_break_the_device(queue: int) -> None:
    setup = Setup()
    wrong = {"readable": [(0x10000, 100)]} if queue == RX else {"writable": [(0x10000, 100)]}
    (setup.rx, setup.tx)[queue].add(**wrong)
    setup.cable.gives = [FRAME]
    setup.device.write(0x050, 4, queue)
    assert setup.driver.read(0x070) & 64
    assert setup.driver.start(MRG_RXBUF)


def test_a_saved_card_goes_on() -> None:
    setup = Setup(offloads=CSUM, wanted=CSUM | MRG_RXBUF)
    state = setup.device.save()
    other = Net(Cable(offloads=CSUM), b"\2\2\2\2\2\2")
    device = VirtioMmio(other, memory=setup.memory)
    device.load(state)
    assert other.mac == ADDRESS
    ((head, _),) = setup.give_buffers(2000).items()
    other._link.gives = [FRAME]  # type: ignore[attr-defined]
    device.transport.kick(RX)
    assert setup.rx.finished() == [(head, HEADER + len(FRAME))]
    assert other._link.agreed == [CSUM]  # type: ignore[attr-defined]


@given(
    st.lists(st.binary(min_size=14, max_size=600), max_size=12),
    st.lists(st.integers(HEADER, 300), min_size=1, max_size=60),
    st.booleans(),
)
def test_frames_arrive_whole_and_in_order(
    frames: list[bytes], sizes: list[int], header: bool
) -> None:
    setup = Setup(header=header)
    heads = bytes(HEADER) if header else b""
    setup.cable.gives = [heads + frame for frame in frames]
    got: list[bytes] = []
    places: dict[int, int] = {}
    for size in sizes:
        places |= setup.give_buffers(size)
        used = setup.rx.finished()
        while used:
            count = int.from_bytes(setup.memory.read(places[used[0][0]] + 10, 2), "little")
            pieces = [setup.memory.read(places[head], n) for head, n in used[:count]]
            assert len(pieces) == count > 0
            got.append(b"".join(pieces)[HEADER:])
            del used[:count]
    assert got == frames[: len(got)]
    waiting = len(setup.cable.gives) + bool(setup.card._held)
    assert len(got) + waiting == len(frames)


def test_limits_are_kept_and_nothing_is_lost() -> None:
    now = [1_000_000_000]
    due: list[tuple[float, Callable[[], None]]] = []

    def limit() -> RateLimit:
        return RateLimit(ops=TokenBucket(10, 2, clock=lambda: now[0]))

    cable, memory = Cable(), Ram(1 << 20)
    card = Net(
        cable,
        ADDRESS,
        send_limit=limit(),
        receive_limit=limit(),
        later=lambda seconds, call: due.append((seconds, call)),
    )
    device = VirtioMmio(card, memory=memory)
    driver = Driver(device, memory, 0x1000, room=0x8000)
    assert driver.start(MRG_RXBUF)
    rx, tx = driver.queues
    memory.write(0x10000, bytes(HEADER) + FRAME)
    for n in range(5):
        tx.add([(0x10000, HEADER + len(FRAME))])
        rx.add(writable=[(0x20000 + n * 1000, 1000)])
        driver.notify(TX)
        driver.notify(RX)
    cable.gives = [FRAME] * 5
    device.transport.kick(RX)
    assert (len(cable.sent), len(rx.finished())) == (2, 2)
    assert len(due) == 2  # one timer a queue, however often it is asked
    while due:
        seconds, call = due.pop(0)
        assert 0 < seconds <= 0.1001
        now[0] += int(seconds * 1e9) + 1
        call()
    assert (len(cable.sent), len(rx.finished())) == (5, 3)
    assert len(tx.finished()) == 5
