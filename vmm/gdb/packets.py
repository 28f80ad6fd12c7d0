"""Packets of GDB's remote protocol: framing, checksums, acknowledgements, escapes.

What comes in may be anything: a packet has a longest length, and what is no packet ends the
connection. That also keeps out a browser that is made to speak to the port.

Spec: GDB manual, "Remote Protocol: Overview", "Packet Acknowledgment", "Interrupts".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

__all__ = ["LONGEST", "Decoder", "ProtocolError", "Sign", "encode", "escape", "from_hex"]

LONGEST = 0x8000
"""Bytes of a packet as it stands on the wire, without its frame (PacketSize)."""

_ESCAPE, _FLIP = 0x7D, 0x20
_ESCAPED = frozenset(b"$#}*")


class ProtocolError(Exception):
    """What came is not GDB's protocol."""


class Sign(Enum):
    """What comes besides packets."""

    ACK = "+"
    RESEND = "-"
    INTERRUPT = "\x03"
    DAMAGED = "a packet with a wrong checksum"


_SIGNS = {0x2B: Sign.ACK, 0x2D: Sign.RESEND, 0x03: Sign.INTERRUPT}


def escape(data: bytes) -> bytes:
    """Binary data as it may stand in a packet."""
    out = bytearray()
    for byte in data:
        out += bytes((_ESCAPE, byte ^ _FLIP)) if byte in _ESCAPED else bytes((byte,))
    return bytes(out)


def _unescape(data: bytes) -> bytes:
    """The packet's content.

    Raises:
        ProtocolError: it ends in the middle of an escape.
    """
    if _ESCAPE not in data:
        return data
    out, rest = bytearray(), iter(data)
    for byte in rest:
        if byte == _ESCAPE:
            following = next(rest, None)
            if following is None:
                raise ProtocolError("an escape without a byte")
            byte = following ^ _FLIP
        out.append(byte)
    return bytes(out)


def encode(content: bytes) -> bytes:
    """Frame a packet. Its content is escaped already, where it has binary data."""
    return b"$%b#%02x" % (content, sum(content) & 0xFF)


def from_hex(text: bytes) -> bytes:
    """Bytes that stand in a packet as hexadecimal digits.

    Raises:
        ValueError: they do not.
    """
    if any(byte in b" \t\r\n" for byte in text):
        raise ValueError("white space")  # which bytes.fromhex takes
    return bytes.fromhex(text.decode("ascii"))


class Decoder:
    """Takes a stream apart."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Sign]:
        """Take what came; give the packets (their content) and signs that are complete.

        Raises:
            ProtocolError: that is no such stream; nothing more will come of it.
        """
        self._rest += data
        while self._rest:
            first = self._rest[0]
            if first != 0x24:
                sign = _SIGNS.get(first)
                if sign is None:
                    raise ProtocolError(f"byte {first:#04x} outside of a packet")
                del self._rest[0]
                yield sign
                continue
            end = self._rest.find(b"#", 1)
            if end < 0 or end + 3 > len(self._rest):
                if len(self._rest) > LONGEST + 4:
                    raise ProtocolError(f"a packet of more than {LONGEST} bytes")
                return
            raw = bytes(self._rest[1:end])
            written = bytes(self._rest[end + 1 : end + 3])
            del self._rest[: end + 3]
            if len(raw) > LONGEST:
                raise ProtocolError(f"a packet of more than {LONGEST} bytes")
            try:
                right = from_hex(written)[0] == sum(raw) & 0xFF
            except ValueError:
                right = False
            yield _unescape(raw) if right else Sign.DAMAGED
