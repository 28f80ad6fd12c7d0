"""The packets of virtio's vsock: a header of 44 bytes, and what a stream carries behind it.

Spec: virtio 1.2, "Socket Device", "Device Operation".
"""

from __future__ import annotations

import struct

from devices.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["HEADER_SIZE", "HOST_CID", "STREAM", "Op", "VsockPacket"]

_HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = _HEADER.size
HOST_CID = 2
"""The host's address (VMADDR_CID_HOST)."""
STREAM = 1
"""The type of a socket: a stream of bytes."""


class Op:
    """What a packet asks for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


SHUTDOWN_RECEIVE = 1 << 0
"""Flag of SHUTDOWN: its sender takes no more data."""
SHUTDOWN_SEND = 1 << 1
"""Flag of SHUTDOWN: its sender has no more data."""


class VsockPacket(Record):
    """A header, field by field. `size` counts the payload's bytes."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    size: int
    type: int
    op: int
    flags: int = 0
    buf_alloc: int = 0
    """How many bytes the sender has room for on this connection."""
    fwd_cnt: int = 0
    """How many bytes of it the sender has passed on, modulo 2**32."""

    @classmethod
    def parse(cls, header: bytes | memoryview) -> Self | None:
        """Read a header; None: it is shorter than one."""
        if len(header) < HEADER_SIZE:
            return None
        return cls(*_HEADER.unpack_from(header))

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _HEADER.pack(
            *(self.src_cid, self.dst_cid, self.src_port, self.dst_port),
            *(self.size, self.type, self.op, self.flags, self.buf_alloc, self.fwd_cnt),
        )
