"""A network card: frames between two queues and a link of the host's.

Modelled: one pair of queues, mergeable receive buffers, checksum and segmentation offloads where
the link has them, MAC address, MTU and link status. Left out: the control queue (filtering by
address or VLAN), several pairs, and RSS; none of them is offered.

A frame has a header of 12 bytes before it (virtio_net_hdr). A link that knows it gets frames with
it; for one that does not it is taken away and made up here.

Spec: virtio 1.2, "Network Device".
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import Register, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import RingError
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ClassVar, Protocol

    from devices.protocols import State
    from devices.token_bucket import RateLimit
    from devices.virtio.queue import Chain, Queue

    class Link(Protocol):
        """The host's end of the cable. Frames are whole, and nothing waits for long."""

        fd: int
        """A file that is readable where there may be a frame; -1: the cable is cut."""
        offloads: int
        """The features (CSUM .. HOST_ECN) that it can take part in."""
        header: bool
        """Whether its frames have the header."""
        mtu: int
        """The most bytes of a frame behind its Ethernet header; 0: the usual 1500."""

        def agree(self, features: int) -> None:
            """Of its offloads, the driver has chosen these."""
            ...

        def send(self, parts: Sequence[bytes | memoryview]) -> bool:
            """Send a frame; say whether it was taken. A frame that is not is lost."""
            ...

        def receive(self, parts: Sequence[memoryview]) -> int:
            """Take the next frame into the buffers and return its bytes; 0: there is none."""
            ...

        def close(self) -> None:
            """Pull the cable out. May be called twice."""
            ...


__all__ = ["HEADER_SIZE", "Net", "NetState"]

RX, TX = range(2)

CSUM = 1 << 0
GUEST_CSUM = 1 << 1
MTU = 1 << 3
MAC = 1 << 5
GUEST_TSO4 = 1 << 7
GUEST_TSO6 = 1 << 8
GUEST_ECN = 1 << 9
HOST_TSO4 = 1 << 11
HOST_TSO6 = 1 << 12
HOST_ECN = 1 << 13
MRG_RXBUF = 1 << 15
STATUS = 1 << 16

OFFLOADS = (
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN
)
# Segmentation needs checksums, and marks of congestion need segmentation.
_NEEDS = (
    (GUEST_TSO4 | GUEST_TSO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (HOST_TSO4 | HOST_TSO6, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
)

HEADER_SIZE = 12
LINK_UP = 1
_NUM_BUFFERS = 10
"""Where the header says over how many buffers a frame is spread; set without merging as well."""
_ETHERNET_HEADER = 14
_LONGEST_FRAME = HEADER_SIZE + _ETHERNET_HEADER + 65535
_BATCH = 256
"""Frames of one turn; then others have theirs."""


class NetState(Record):
    """What the driver sees of the card."""

    kind: ClassVar[str] = "virtio-net"
    version: ClassVar[int] = 1

    mac: int
    """48 bits, the first byte in the lowest."""
    status: int
    features: int
    """What was agreed upon, once the driver was ready."""


class Net(VirtioDevice):
    """A network card at a link.

    Args:
        link: the host's end of the cable.
        mac: the card's address, 6 bytes.
        send_limit, receive_limit: how much passes each way.
        later: calls something after so many seconds; needed for limits.

    Raises:
        ValueError: the address is none, or one of a group.
    """

    device_id = 1
    name = "virtio-net"
    queue_sizes = (256, 256)
    blocks = True
    config = RegisterTable(
        *(Register(f"mac{n}", n, access="r") for n in range(6)),
        Register("status", 6, size=2, access="r", fields=bits(LINK_UP=0, ANNOUNCE=1)),
        Register("max_virtqueue_pairs", 8, size=2, access="r", reset=1),
        Register("mtu", 10, size=2, access="r"),
    )

    def __init__(
        self,
        link: Link,
        mac: bytes,
        *,
        send_limit: RateLimit | None = None,
        receive_limit: RateLimit | None = None,
        later: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        super().__init__()
        self._limits = (receive_limit, send_limit)
        self._later = later
        self._waits = [False, False]
        """Which of the queues is left alone until its limit lets it go on."""
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError("a card's MAC address is 6 bytes, bit 0 of the first one clear")
        self._link = link
        self.features = MAC | STATUS | MRG_RXBUF | link.offloads & OFFLOADS
        self.values |= {f"mac{n}": byte for n, byte in enumerate(mac)}
        self.values["status"] = LINK_UP
        if link.mtu:
            self.features |= MTU
            self.values["mtu"] = link.mtu
        self._agreed = 0
        self._spill = memoryview(bytearray(_LONGEST_FRAME))
        self._held = b""
        """A frame for which the guest had no room."""
        self._drained = False
        """Whether the link had no more frames when it was last asked."""
        self.received_frames = self.received_bytes = 0
        self.sent_frames = self.sent_bytes = self.dropped_frames = 0
        """Frames, and bytes without headers; dropped: what the link did not take, or was none."""

    @property
    def mac(self) -> bytes:
        """The card's address."""
        return bytes(self.values[f"mac{n}"] for n in range(6))

    def set_link(self, up: bool) -> None:
        """Put the cable in, or pull it."""
        self.values["status"] = LINK_UP if up else 0
        if self.transport is not None:
            self.transport.config_changed()

    def counters(self) -> dict[str, int]:
        """Frames and bytes either way, and the frames that were lost."""
        names = ("received_frames", "received_bytes", "sent_frames", "sent_bytes", "dropped_frames")
        return {name: getattr(self, name) for name in names}

    def accepts(self, features: int) -> bool:
        """Whether the chosen offloads have what they need."""
        return sound(features)

    def activate(self, features: int) -> None:
        """Tell the link which offloads there are."""
        self._agreed = features
        self._link.agree(features & self._link.offloads)

    def reset(self) -> None:
        """Forget what the driver did."""
        self._agreed = 0
        self._held = b""
        self._drained = False
        self._waits = [False, False]

    def input_fd(self, index: int) -> int:
        """The link's file, while the guest has room and the link no frame."""
        return self._link.fd if index == RX and self._drained else -1

    def close(self) -> None:
        """Pull the cable out."""
        self._link.close()

    def serve(self, queue: Queue) -> None:
        """Send what the guest has for the link, or give it what the link has."""
        if queue.index == TX:
            self._send(queue)
        else:
            self._receive(queue)

    def save(self) -> NetState:
        """Return what the driver sees of the card."""
        return NetState(
            mac=int.from_bytes(self.mac, "little"),
            status=self.values["status"],
            features=self._agreed,
        )

    def load(self, state: State) -> None:
        """Become the card that `state` was saved from; its address is the saved one.

        Raises:
            StateError: it is of something else.
        """
        state = require(state, NetState)
        require_unsigned(state, mac=48, status=16, features=64)
        if state.features & OFFLOADS & ~self._link.offloads:
            raise StateError("'virtio-net' field features: offloads that the link here lacks")
        mac = state.mac.to_bytes(6, "little")
        self.values |= {f"mac{n}": byte for n, byte in enumerate(mac)}
        self.values["status"] = state.status
        self._agreed = state.features
        if state.features:
            self._link.agree(state.features & self._link.offloads)

    # -- sending ---------------------------------------------------------------------------

    def _send(self, queue: Queue) -> None:
        while not self._has_to_wait(TX) and (chain := queue.pop()) is not None:
            size = chain.readable_bytes - HEADER_SIZE
            if chain.writable:
                raise RingError("a buffer to be written in the transmit queue")
            parts = chain.readable if self._link.header else _behind(chain.readable, HEADER_SIZE)
            up = self.values["status"] & LINK_UP
            sound = _ETHERNET_HEADER <= size <= _LONGEST_FRAME
            if sound and up and self._link.send(parts):
                self.sent_frames += 1
                self.sent_bytes += size
            else:
                self.dropped_frames += 1
            self._count(TX, size)
            queue.push(chain, 0)

    # -- limits ----------------------------------------------------------------------------

    def _has_to_wait(self, queue: int) -> bool:
        """Whether the limit of a queue is reached; it is served again when it may go on."""
        limit = self._limits[queue]
        wait_ns = 0 if limit is None else limit.wait_ns()
        if wait_ns and self._later is not None and not self._waits[queue]:
            self._waits[queue] = True
            self._later(wait_ns / 1e9, lambda: self._go_on(queue))
        return bool(wait_ns)

    def _go_on(self, queue: int) -> None:
        self._waits[queue] = False
        if self.transport is not None:
            self.transport.kick(queue)

    def _count(self, queue: int, size: int) -> None:
        limit = self._limits[queue]
        if limit is not None:
            limit.take(max(size, 0))

    # -- receiving -------------------------------------------------------------------------

    def _receive(self, queue: Queue) -> None:
        self._drained = False
        for _ in range(_BATCH):
            if self._has_to_wait(RX) or (chain := queue.pop()) is None:
                return
            if not self._fill(queue, chain):
                return
        if self.transport is not None:
            self.transport.kick(RX)

    def _fill(self, queue: Queue, chain: Chain) -> bool:
        """Give the guest one frame, in this chain and, where they are merged, in those behind it;
        say whether there was one and room for it."""
        room = chain.writable_bytes
        if chain.readable or room < HEADER_SIZE:
            raise RingError("a receive buffer without room for a header")
        size = self._take([*chain.writable, self._spill])
        if not size:
            queue.unpop()
            return False
        used = [(chain, min(size, room))]
        over = self._spill[: max(0, size - room)]
        while over and self._merges and (following := queue.pop()) is not None:
            written = following.write(over)
            if not written:
                raise RingError("a receive buffer without room")
            used.append((following, written))
            over = over[written:]
        if over:
            for _ in used:
                queue.unpop()
            if self._merges:  # it waits until the guest has more buffers
                self._held = b"".join((*chain.writable, self._spill[: size - room]))
            else:
                self.dropped_frames += 1
            return not self._merges
        _put(chain.writable, _NUM_BUFFERS, len(used).to_bytes(2, "little"))
        queue.push_all(used)
        self.received_frames += 1
        self.received_bytes += size - HEADER_SIZE
        self._count(RX, size - HEADER_SIZE)
        return True

    def _take(self, parts: list[memoryview]) -> int:
        """Have the next frame in these buffers, behind its header; 0: there is none."""
        if self._held:
            frame, self._held = self._held, b""
            _put(parts, 0, frame)
            return len(frame)
        above = 0 if self._link.header else HEADER_SIZE
        size = self._link.receive(_behind(parts, above) if above else parts)
        if size:
            _put(parts, 0, bytes(above))
            return above + size
        self._drained = True
        if self._link.fd < 0 and self.values["status"] & LINK_UP:
            self.set_link(False)
        return 0

    @property
    def _merges(self) -> bool:
        return bool(self._agreed & MRG_RXBUF)


def sound(features: int) -> bool:
    """Say whether the offloads among these features have what they need."""
    return all(features & needed for wanting, needed in _NEEDS if features & wanting)


def _behind(parts: list[memoryview], offset: int) -> list[memoryview]:
    """The buffers without their first `offset` bytes."""
    for n, part in enumerate(parts):
        if offset < len(part):
            return [part[offset:], *parts[n + 1 :]]
        offset -= len(part)
    return []


def _put(parts: list[memoryview], offset: int, data: bytes) -> None:
    """Write `data` into the buffers from byte `offset` on."""
    source = memoryview(data)
    for part in _behind(parts, offset):
        piece = source[: len(part)]
        part[: len(piece)] = piece
        source = source[len(piece) :]
        if not source:
            return
