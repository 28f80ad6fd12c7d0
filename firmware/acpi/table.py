"""The header and the checksum that every ACPI table has.

Spec: ACPI 6.5, "System Description Table Header".
"""

from __future__ import annotations

import struct

__all__ = ["HEADER_SIZE", "OEM_ID", "checksum", "table"]

HEADER_SIZE = 36
OEM_ID = b"GLASSV"
"""Who made the tables, in the six bytes that there are for it."""

_OEM_TABLE_ID = b"GLASSVMM"
_OEM_REVISION = 1
_CREATOR = b"GLVM"
_CREATOR_REVISION = 1
_CHECKSUM = 9
"""Offset of the byte that makes all bytes of a table add up to zero."""


def table(signature: str, revision: int, body: bytes) -> bytes:
    """A table: header, with lengths in bytes and a checksum over everything, and body."""
    header = struct.pack(
        "<4sIBB6s8sI4sI",
        *(signature.encode(), HEADER_SIZE + len(body), revision, 0),
        *(OEM_ID, _OEM_TABLE_ID, _OEM_REVISION, _CREATOR, _CREATOR_REVISION),
    )
    whole = bytearray(header + body)
    whole[_CHECKSUM] = checksum(whole)
    return bytes(whole)


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes a multiple of 256, put where a zero is now."""
    return -sum(data) & 0xFF
