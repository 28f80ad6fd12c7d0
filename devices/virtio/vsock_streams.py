"""The host's side of vsock's connections, where the kernel has no vhost for it: who is connected to
whom, who may send how much, and which packet the guest gets next.

There is no I/O in here. The host's ends are streams that take and give what they can at once;
whoever owns their descriptors says which of them can be read or written again, and fetches packets
for the guest (`next_packet`) as it has room for them.

The guest is hostile: packets that belong to no connection are answered with a reset, more data than
it was given credit for is a reset as well, and of connections and of bytes that wait there is a
bounded number.

Spec: virtio 1.2, "Socket Device": "Addressing", "Buffer Space Management", "Stream Sockets".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from devices.virtio.vsock_packets import (
    HEADER_SIZE,
    HOST_CID,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    STREAM,
    Op,
    VsockPacket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Stream(Protocol):
        """The host's end of one connection. Nothing waits."""

        def read(self, size: int) -> bytes | None:
            """Give up to `size` bytes; b"" at the end of the stream, None: nothing now."""
            ...

        def write(self, data: bytes | memoryview) -> int | None:
            """Take some of the bytes and return how many; None: nobody takes any more."""
            ...

        def connected(self, port: int) -> None:
            """The guest has taken the connection that the host asked for; `port` is the host's."""
            ...

        def end_of_input(self) -> None:
            """The guest sends no more."""
            ...

        def close(self) -> None:
            """The connection is over."""
            ...


__all__ = ["BUFFER_SIZE", "MAX_CONNECTIONS", "VsockStreams"]

BUFFER_SIZE = 256 << 10
"""Bytes of one connection that wait for the host's end at most."""
MAX_CONNECTIONS = 1024
_MAX_RESETS = 256
"""Answers to packets that belong nowhere, which wait for the guest at most."""
_FIRST_PORT = 1 << 30
"""Ports of the host for connections that it asks for begin here."""
_32_BITS = 0xFFFF_FFFF

Key = tuple[int, int]
"""The host's port and the guest's."""


class _Connection:
    """One connection, seen from the host."""

    __slots__ = (
        *("key", "stream", "open", "waiting", "waiting_size", "told", "forwarded", "sent"),
        *("peer_room", "peer_forwarded", "readable", "guest_done", "host_done", "shut_told"),
        *("pending", "asked_credit"),
    )

    def __init__(self, key: Key, stream: Stream, *, open: bool) -> None:
        self.key = key
        self.stream = stream
        self.open = open
        """The other side has agreed."""
        self.waiting: deque[memoryview] = deque()
        """What the guest sent and the host's end has not taken."""
        self.waiting_size = 0
        self.forwarded = 0
        """How many bytes the host's end has taken, modulo 2**32."""
        self.told = 0
        """What of `forwarded` the guest was told."""
        self.sent = 0
        """How many bytes the guest was sent, modulo 2**32."""
        self.peer_room = self.peer_forwarded = 0
        self.readable = True
        self.guest_done = self.host_done = self.shut_told = False
        self.asked_credit = False
        self.pending: deque[int] = deque()
        """Operations that the guest is to be told of, before data."""

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for."""
        on_the_way = (self.sent - self.peer_forwarded) & _32_BITS
        return max(0, self.peer_room - on_the_way)


class VsockStreams:
    """The connections of one guest.

    Args:
        cid: the guest's address.
        connect: called when the guest asks for a port of the host; gives the host's end, or None
            where nobody listens.
        wake: called when there may be a packet for the guest.
    """

    def __init__(
        self, cid: int, connect: Callable[[int], Stream | None], wake: Callable[[], None]
    ) -> None:
        self.cid = cid
        self._connect = connect
        self._wake = wake
        self._connections: dict[Key, _Connection] = {}
        self._by_stream: dict[int, _Connection] = {}
        self._turns: dict[Key, None] = {}
        """Connections that may have something for the guest, in the order of their turns."""
        self._resets: deque[tuple[Key, int]] = deque()
        self._next_port = _FIRST_PORT

    def __len__(self) -> int:
        return len(self._connections)

    # -- the guest -------------------------------------------------------------------------

    def from_guest(self, packet: VsockPacket, payload: bytes | memoryview) -> None:
        """Take a packet; `payload` is what came behind the header."""
        if packet.src_cid != self.cid or packet.dst_cid != HOST_CID:
            return
        key = packet.dst_port, packet.src_port
        if packet.type != STREAM:
            self._refuse(key, packet)
            return
        connection = self._connections.get(key)
        if connection is None:
            if packet.op == Op.REQUEST:
                self._accept(key, packet)
            elif packet.op != Op.RST:
                self._refuse(key, packet)
            return
        connection.peer_room, connection.peer_forwarded = packet.buf_alloc, packet.fwd_cnt
        connection.asked_credit = False
        if packet.op == Op.RW:
            self._data(connection, packet, payload)
        elif packet.op == Op.RST:
            self._end(connection)
        elif packet.op == Op.SHUTDOWN:
            self._shut_down(connection, packet.flags)
        elif packet.op == Op.CREDIT_REQUEST:
            self._tell(connection, Op.CREDIT_UPDATE)
        elif packet.op == Op.RESPONSE and not connection.open:
            connection.open = True
            connection.stream.connected(connection.key[0])
            self._has_turn(connection)
        elif packet.op == Op.CREDIT_UPDATE:
            self._has_turn(connection)
        else:  # a second REQUEST, a RESPONSE to nothing, or an operation that there is not
            self._reset(connection)

    def next_packet(self, room: int) -> tuple[bytes, bytes] | None:
        """Return the next packet for a buffer of `room` bytes as header and payload; None: there is
        none."""
        if self._resets:
            key, type = self._resets.popleft()
            return self._header(key, Op.RST, type=type).pack(), b""
        for _ in range(len(self._turns)):
            key = next(iter(self._turns))
            del self._turns[key]
            connection = self._connections.get(key)
            made = connection and self._packet_of(connection, room - HEADER_SIZE)
            if made:
                if key in self._connections:
                    self._turns[key] = None
                return made
        return None

    # -- the host --------------------------------------------------------------------------

    def from_host(self, stream: Stream, port: int) -> bool:
        """Ask the guest for a connection to one of its ports; False: there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        while (self._next_port, port) in self._connections:
            self._next_port = self._following(self._next_port)
        key = self._next_port, port
        self._next_port = self._following(self._next_port)
        connection = self._keep(key, stream, open=False)
        self._tell(connection, Op.REQUEST)
        return True

    def can_read(self, stream: Stream) -> None:
        """The host's end has something to give, or is at its end."""
        connection = self._by_stream.get(id(stream))
        if connection is not None:
            connection.readable = True
            self._has_turn(connection)

    def can_write(self, stream: Stream) -> bool:
        """The host's end takes bytes again; returns whether some are still waiting for it."""
        connection = self._by_stream.get(id(stream))
        if connection is None:
            return False
        self._pass_on(connection)
        return bool(connection.waiting)

    def wants_write(self, stream: Stream) -> bool:
        """Say whether bytes wait until the host's end takes them."""
        connection = self._by_stream.get(id(stream))
        return connection is not None and bool(connection.waiting)

    def close(self) -> None:
        """End all connections without telling the guest: it was reset, or is gone."""
        for connection in list(self._connections.values()):
            self._end(connection)
        self._resets.clear()
        self._turns.clear()

    # -- inside ----------------------------------------------------------------------------

    @staticmethod
    def _following(port: int) -> int:
        return port + 1 if port < (1 << 31) else _FIRST_PORT

    def _keep(self, key: Key, stream: Stream, *, open: bool) -> _Connection:
        made = self._connections[key] = _Connection(key, stream, open=open)
        self._by_stream[id(stream)] = made
        return made

    def _accept(self, key: Key, packet: VsockPacket) -> None:
        full = len(self._connections) >= MAX_CONNECTIONS
        stream = None if full else self._connect(packet.dst_port)
        if stream is None:
            self._refuse(key, packet)
            return
        connection = self._keep(key, stream, open=True)
        connection.peer_room, connection.peer_forwarded = packet.buf_alloc, packet.fwd_cnt
        self._tell(connection, Op.RESPONSE)

    def _refuse(self, key: Key, packet: VsockPacket) -> None:
        if packet.op != Op.RST and len(self._resets) < _MAX_RESETS:
            self._resets.append((key, packet.type))
            self._wake()

    def _data(
        self, connection: _Connection, packet: VsockPacket, payload: bytes | memoryview
    ) -> None:
        data = memoryview(payload)[: packet.size]
        over = connection.waiting_size + len(data) > BUFFER_SIZE
        if not connection.open or connection.guest_done or over or len(data) != packet.size:
            self._reset(connection)
            return
        if data:
            connection.waiting.append(memoryview(bytes(data)))
            connection.waiting_size += len(data)
            self._pass_on(connection)

    def _pass_on(self, connection: _Connection) -> None:
        """Give the host's end what it takes of what waits for it."""
        waiting = connection.waiting
        while waiting:
            taken = connection.stream.write(waiting[0])
            if taken is None:
                self._reset(connection)
                return
            if not taken:
                break
            connection.waiting_size -= taken
            connection.forwarded = (connection.forwarded + taken) & _32_BITS
            if taken == len(waiting[0]):
                waiting.popleft()
            else:
                waiting[0] = waiting[0][taken:]
        if not waiting and connection.guest_done:
            connection.stream.end_of_input()
            self._finish(connection)
        # Half of the room is free again, and the guest does not know.
        if (connection.forwarded - connection.told) & _32_BITS >= BUFFER_SIZE // 2:
            self._tell(connection, Op.CREDIT_UPDATE)

    def _shut_down(self, connection: _Connection, flags: int) -> None:
        if flags & SHUTDOWN_RECEIVE:
            connection.host_done = connection.shut_told = True
        if flags & SHUTDOWN_SEND and not connection.guest_done:
            connection.guest_done = True
            if not connection.waiting:
                connection.stream.end_of_input()
        self._finish(connection)

    def _finish(self, connection: _Connection) -> None:
        """Where neither side sends any more, and all is passed on, the connection is over."""
        if connection.guest_done and connection.host_done and not connection.waiting:
            self._reset(connection)

    def _reset(self, connection: _Connection) -> None:
        self._end(connection)
        if len(self._resets) < _MAX_RESETS + MAX_CONNECTIONS:
            self._resets.append((connection.key, STREAM))
            self._wake()

    def _end(self, connection: _Connection) -> None:
        if self._connections.pop(connection.key, None) is not None:
            del self._by_stream[id(connection.stream)]
            connection.waiting.clear()
            connection.stream.close()

    def _tell(self, connection: _Connection, op: int) -> None:
        if op not in connection.pending:
            connection.pending.append(op)
        self._has_turn(connection)

    def _has_turn(self, connection: _Connection) -> None:
        if connection.key in self._connections:
            self._turns.setdefault(connection.key)
            self._wake()

    def _packet_of(self, connection: _Connection, room: int) -> tuple[bytes, bytes] | None:
        """What the guest is to get of a connection, at most `room` bytes of payload."""
        if connection.pending:
            return self._head(connection, connection.pending.popleft()), b""
        if not connection.open:
            return None
        if connection.readable and not connection.host_done:
            size = min(room, connection.credit)
            if size <= 0:
                if connection.asked_credit:
                    return None
                connection.asked_credit = True
                return self._head(connection, Op.CREDIT_REQUEST), b""
            data = connection.stream.read(size)
            if data:
                connection.sent = (connection.sent + len(data)) & _32_BITS
                return self._head(connection, Op.RW, size=len(data)), data
            connection.readable = False
            connection.host_done = data == b""
        if connection.host_done and not connection.shut_told:
            connection.shut_told = True
            head = self._head(connection, Op.SHUTDOWN, flags=SHUTDOWN_SEND)
            self._finish(connection)
            return head, b""
        return None

    def _head(self, connection: _Connection, op: int, *, size: int = 0, flags: int = 0) -> bytes:
        connection.told = connection.forwarded
        made = self._header(connection.key, op, size=size, flags=flags, fwd=connection.forwarded)
        return made.pack()

    def _header(
        self, key: Key, op: int, *, size: int = 0, flags: int = 0, fwd: int = 0, type: int = STREAM
    ) -> VsockPacket:
        host, guest = key
        room = 0 if op == Op.RST else BUFFER_SIZE
        return VsockPacket(HOST_CID, self.cid, host, guest, size, type, op, flags, room, fwd)
