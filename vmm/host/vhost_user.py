"""vhost-user: virtqueues that another process serves, which maps the guest's memory.

The requests are those of the kernel's vhost (`kvm_bindings.vhost`), as messages on a Unix socket
with descriptors beside them. So whatever speaks it can be a guest's device: qemu-storage-daemon a
disk of any format, virtiofsd a folder.

The other process sees all of the guest's memory and is trusted with it, but not with this process:
an answer that is none, or none in time, ends the connection.

Spec: QEMU, docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import array
import contextlib
import select
import socket
import struct
from collections.abc import Iterable

from vmm.errors import ConfigError, VmmError

__all__ = ["SharedRegion", "VhostUser", "VhostUserError"]

_HEADER = struct.Struct("<III")
"""Request, flags, bytes of payload."""
_VERSION = 1
_IS_REPLY = 1 << 2
_NEED_REPLY = 1 << 3
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESSES = struct.Struct("<IIQQQQ")
_REGION = struct.Struct("<QQQQ")
_CONFIG = struct.Struct("<III")
_LONGEST = 4096
_CONFIG_LIMIT = 256
MAX_REGIONS = 8
"""How many regions of memory every server takes."""

GET_FEATURES = 1
SET_FEATURES = 2
SET_OWNER = 3
SET_MEM_TABLE = 5
SET_VRING_NUM = 8
SET_VRING_ADDR = 9
SET_VRING_BASE = 10
GET_VRING_BASE = 11
SET_VRING_KICK = 12
SET_VRING_CALL = 13
SET_VRING_ERR = 14
GET_PROTOCOL_FEATURES = 15
SET_PROTOCOL_FEATURES = 16
GET_QUEUE_NUM = 17
SET_VRING_ENABLE = 18
GET_CONFIG = 24
SET_CONFIG = 25

_NAMES = {
    number: name
    for name, number in dict(globals()).items()
    if name.startswith(("GET_", "SET_")) and isinstance(number, int)
}

F_PROTOCOL_FEATURES = 1 << 30
"""The bit of the features that says that there are protocol features; no feature of the device."""
PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_CONFIG = 1 << 9
_WANTED = PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_CONFIG

_NO_FD = 1 << 8


class VhostUserError(VmmError):
    """The process that serves a device is gone, or does not keep to the protocol."""


class SharedRegion:
    """`size` bytes that the guest has at `gpa` and this process at `hva`, in a file from `offset`
    on, which the other process maps."""

    __slots__ = ("fd", "gpa", "hva", "offset", "size")

    def __init__(self, gpa: int, size: int, hva: int, fd: int, offset: int) -> None:
        self.gpa, self.size, self.hva, self.fd, self.offset = gpa, size, hva, fd, offset


class VhostUser:
    """The connection to a server, which owns the device from here on.

    Args:
        connection: a connected Unix stream socket; it is closed with this.
        name: how messages call the server: "virtiofsd".
        timeout: how long an answer may take, in seconds.

    Raises:
        VhostUserError: it does not answer as it should.
    """

    def __init__(
        self, connection: socket.socket, name: str = "vhost-user", timeout: float = 10.0
    ) -> None:
        self.name = name
        self._socket = connection
        self._socket.settimeout(timeout)
        self._protocol = 0
        try:
            self._send(SET_OWNER)
            self._all_features = self._ask_number(GET_FEATURES)
            if self._all_features & F_PROTOCOL_FEATURES:
                offered = self._ask_number(GET_PROTOCOL_FEATURES)
                self._send(SET_PROTOCOL_FEATURES, _U64.pack(offered & _WANTED))
                self._protocol = offered & _WANTED
        except VhostUserError:
            self.close()
            raise

    @property
    def features(self) -> int:
        """The feature bits that the server can serve, without those of the protocol."""
        return self._all_features & ~F_PROTOCOL_FEATURES

    @property
    def queues(self) -> int:
        """How many queues the server takes at most; 1 where it does not say."""
        return self._ask_number(GET_QUEUE_NUM) if self._protocol & PROTOCOL_F_MQ else 1

    def set_features(self, bits: int) -> None:
        """Say which features driver and device agreed upon."""
        own = self._all_features & F_PROTOCOL_FEATURES
        self._tell(SET_FEATURES, _U64.pack(bits | own))

    def config(self, size: int) -> bytes:
        """Return the first `size` bytes of the device's configuration space (256 at most).

        Raises:
            VhostUserError: the server does not give it.
        """
        if not self._protocol & PROTOCOL_F_CONFIG:
            raise VhostUserError(f"{self.name}: has no configuration to show")
        size = min(size, _CONFIG_LIMIT)
        answer = self._ask(GET_CONFIG, _CONFIG.pack(0, size, 0) + bytes(size))
        if len(answer) != _CONFIG.size + size:
            raise self._broken(GET_CONFIG)
        return answer[_CONFIG.size :]

    def set_config(self, offset: int, data: bytes) -> None:
        """Write to the device's configuration space."""
        if self._protocol & PROTOCOL_F_CONFIG:
            self._tell(SET_CONFIG, _CONFIG.pack(offset, len(data), 0) + data)

    def set_memory(self, regions: Iterable[SharedRegion]) -> None:
        """Say what the guest's memory is, and hand it over.

        Raises:
            ConfigError: more regions than the protocol takes.
            VhostUserError: the server cannot map them.
        """
        table = list(regions)
        if len(table) > MAX_REGIONS:
            raise ConfigError(f"{self.name}: {len(table)} regions of memory, at most {MAX_REGIONS}")
        rows = (_REGION.pack(r.gpa, r.size, r.hva, r.offset) for r in table)
        payload = _STATE.pack(len(table), 0) + b"".join(rows)
        self._tell(SET_MEM_TABLE, payload, [region.fd for region in table])

    def set_vring(self, index: int, *, size: int, desc: int, avail: int, used: int) -> None:
        """Say where queue `index` with its `size` descriptors lies: three addresses (hva)."""
        self._tell(SET_VRING_NUM, _STATE.pack(index, size))
        self._tell(SET_VRING_ADDR, _ADDRESSES.pack(index, 0, desc, used, avail, 0))

    def set_vring_base(self, index: int, base: int) -> None:
        """Say which entry of the avail ring comes next (the running index, 16 bits)."""
        self._tell(SET_VRING_BASE, _STATE.pack(index, base))

    def vring_base(self, index: int) -> int:
        """Return which entry of the avail ring comes next; the queue stands still from here on."""
        answer = self._ask(GET_VRING_BASE, _STATE.pack(index, 0))
        if len(answer) != _STATE.size:
            raise self._broken(GET_VRING_BASE)
        base: int = _STATE.unpack(answer)[1]
        return base & 0xFFFF

    def set_kick(self, index: int, eventfd: int) -> None:
        """Have notifications for queue `index` taken from this eventfd, which starts the queue."""
        self._tell_fd(SET_VRING_KICK, index, eventfd)

    def set_call(self, index: int, eventfd: int) -> None:
        """Have this eventfd signalled when queue `index` has used buffers."""
        self._tell_fd(SET_VRING_CALL, index, eventfd)

    def enable(self, index: int, on: bool = True) -> None:
        """Let queue `index` be served, or no more; where there is nothing to be let, it is."""
        if self._all_features & F_PROTOCOL_FEATURES:
            self._tell(SET_VRING_ENABLE, _STATE.pack(index, on))

    def close(self) -> None:
        """End the connection. May be called twice."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor, to be watched for the server's leaving (`gone`)."""
        return self._socket.fileno()

    def gone(self) -> bool:
        """Whether the server has hung up, or says what it was not asked. Does not wait."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _tell_fd(self, request: int, index: int, fd: int) -> None:
        number = index if fd >= 0 else index | _NO_FD
        self._tell(request, _U64.pack(number), [fd] if fd >= 0 else [])

    def _tell(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> None:
        """Send a message and, where the server can say so, wait until it was carried out."""
        if not self._protocol & PROTOCOL_F_REPLY_ACK:
            self._send(request, payload, fds)
            return
        self._send(request, payload, fds, _NEED_REPLY)
        status = self._receive(request)
        if len(status) != _U64.size:
            raise self._broken(request)
        if any(status):
            raise VhostUserError(f"{self.name}: refused {_NAMES[request]}")

    def _ask_number(self, request: int) -> int:
        answer = self._ask(request)
        if len(answer) != _U64.size:
            raise self._broken(request)
        number: int = _U64.unpack(answer)[0]
        return number

    def _ask(self, request: int, payload: bytes = b"") -> bytes:
        self._send(request, payload)
        return self._receive(request)

    def _send(
        self, request: int, payload: bytes = b"", fds: Iterable[int] = (), flags: int = 0
    ) -> None:
        message = _HEADER.pack(request, _VERSION | flags, len(payload)) + payload
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._socket.sendmsg([message], beside)
            if sent < len(message):
                self._socket.sendall(message[sent:])
        except OSError as error:
            raise self._gone(request, error) from None

    def _receive(self, request: int) -> bytes:
        answered, flags, size = _HEADER.unpack(self._exactly(_HEADER.size, request))
        if answered != request or not flags & _IS_REPLY or size > _LONGEST:
            raise self._broken(request)
        return self._exactly(size, request)

    def _exactly(self, size: int, request: int) -> bytes:
        got = b""
        while len(got) < size:
            try:
                piece = self._socket.recv(size - len(got))
            except OSError as error:
                raise self._gone(request, error) from None
            if not piece:
                raise self._gone(request, None)
            got += piece
        return got

    def _gone(self, request: int, error: OSError | None) -> VhostUserError:
        self._hang_up()
        if isinstance(error, TimeoutError):
            waited = self._socket.gettimeout()
            return VhostUserError(f"{self.name}: no answer to {_NAMES[request]} in {waited:g} s")
        return VhostUserError(f"{self.name}: ended the connection at {_NAMES[request]}")

    def _broken(self, request: int) -> VhostUserError:
        self._hang_up()
        return VhostUserError(f"{self.name}: its answer to {_NAMES[request]} is none")

    def _hang_up(self) -> None:
        """Say no more and hear no more: what came late would be taken for the next answer. The
        descriptor stays, for whoever watches it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
