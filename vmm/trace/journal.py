"""The journal of a recording: what crossed the boundary of the device models, in order.

A device model is pure: what it does follows from what it is given. The journal has both sides of
that boundary, in the order in which the machine's device lock was held, so that the models can be
driven again without a machine (`vmm.playback`). Calls go two ways:

    inward     the making of a device; an access of the guest's to its registers; a call of the
               host's (bytes that arrive, a timer's tick)
    outward    what a device calls meanwhile: the clock, an interrupt line, a byte sink, guest
               memory, a signal to the machine

Each is one entry, with what came back, and stands before the entries of what was called inside of
it: an inward call is followed by its outward ones, an outward one with the flag NESTED by inward
ones (a UART that has room again is given bytes at once) and then by an END.

JOURNAL chunks (`vmm.trace.layout`) hold whole entries, and never part of an inward call; `first` is
the number of the first access in the chunk, from 1. The first entry of all is a START.

    entry      u8  kind
               u8  flags            WRITE, RAISED, NESTED, FOREIGN
               u16 who              MAKE, MAP, ACCESS, CALL: the device; OUT: the wire;
                                    START: VERSION
               u32 size             of the payload, in bytes

    MAKE       when, values: class ("devices.post:PostPort"), name, arguments by their names. A
               function among the arguments is a wire, and memory is two: the first for its
               reads, the next for its writes. FOREIGN: not made by the machine, and so without
               arguments: a user's device, or a function on a port
    MAP        values: "port" or "MMIO", start, end, base of a range that the device answers at
    ACCESS     when, u64 offset, u64 value: written or answered. RAISED: then the error, as a value
    CALL       when, values: method, arguments (a tuple), named ones (a dict), result. RAISED:
               the error instead
    OUT        values: arguments (a tuple), result. RAISED: the error instead
    END

    when       u64 time_ns          CLOCK_MONOTONIC
               u32 exit             the exit being handled: the how manieth of its vCPU, from 1
               u8  vcpu             NO_VCPU: another thread of the host's
               u8  width            ACCESS: bytes
               u16 0

    value      a byte that says what it is, and:
               N T F                None, True, False
               i                    i64
               I                    u8 size, a signed number of so many bytes
               b s                  u32 size, bytes or UTF-8
               t                    u16 count, values: a tuple
               d                    u16 count, pairs of values: a dict
               f m                  u16 wire: a function, guest memory
               x                    as s: the type of something that cannot be kept

Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = [
    "ACCESS",
    "CALL",
    "DEEPEST",
    "END",
    "ENTRY",
    "FOREIGN",
    "MAKE",
    "MAP",
    "NESTED",
    "NO_VCPU",
    "OUT",
    "RAISED",
    "REGISTERS",
    "START",
    "VERSION",
    "WHEN",
    "WIRE",
    "WRITE",
    "Entry",
    "JournalError",
    "Memory",
    "Opaque",
    "Wire",
    "decode",
    "encode",
    "entries",
]

VERSION = 1

START, MAKE, MAP, ACCESS, CALL, OUT, END = range(1, 8)
WRITE, RAISED, NESTED, FOREIGN = 1, 2, 4, 8

ENTRY = struct.Struct("<BBHI")
WHEN = struct.Struct("<QIBBH")
REGISTERS = struct.Struct("<QQ")
WIRE = struct.Struct("<BH")
"""A wire as a value: its tag and its number."""

NO_VCPU = 0xFF
DEEPEST = 16
"""Values that lie in one another deeper than that are damage."""

_I64 = struct.Struct("<Bq")
_SIZED = struct.Struct("<BI")
_COUNTED = struct.Struct("<BH")
_MOST_COUNT = 0xFFFF
_ONE = _COUNTED.pack(116, 1)
_BIGGEST_INT = 255


class JournalError(ValueError):
    """The bytes are no journal, or a damaged one."""


class Wire(NamedTuple):
    """A function that a device was given."""

    number: int


class Memory(NamedTuple):
    """Guest memory that a device was given; its writes are the next wire."""

    number: int


class Opaque(NamedTuple):
    """Something that cannot be kept in a journal."""

    type: str


class Entry(NamedTuple):
    """One entry."""

    kind: int
    flags: int
    who: int
    payload: memoryview


def encode(value: object) -> bytes:
    """Turn a value into bytes; what cannot be kept becomes its type's name."""
    function = _ENCODERS.get(type(value))
    return _encode_other(value) if function is None else function(value)


def _encode_int(value: int) -> bytes:
    if -(1 << 63) <= value < 1 << 63:
        return _I64.pack(105, value)
    size = value.bit_length() // 8 + 1
    if size > _BIGGEST_INT:
        return _text(120, "int")
    return bytes((73, size)) + value.to_bytes(size, "little", signed=True)


def _encode_bytes(value: bytes) -> bytes:
    return _SIZED.pack(98, len(value)) + value


def _text(tag: int, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    return _SIZED.pack(tag, len(data)) + data


def _encode_tuple(value: tuple[object, ...] | list[object]) -> bytes:
    if len(value) > _MOST_COUNT:
        return _text(120, type(value).__name__)
    if len(value) == 1:  # as in most calls
        return _ONE + encode(value[0])
    return _COUNTED.pack(116, len(value)) + b"".join(map(encode, value))


def _encode_dict(value: Any) -> bytes:
    if len(value) > _MOST_COUNT:
        return _text(120, type(value).__name__)
    parts = [encode(key) + encode(item) for key, item in value.items()]
    return _COUNTED.pack(100, len(value)) + b"".join(parts)


def _encode_other(value: object) -> bytes:
    """Subclasses and relatives of the types that can be kept (an IntEnum, a view of a dict)."""
    from collections.abc import Mapping

    if isinstance(value, int):
        return _encode_int(int(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return _encode_bytes(bytes(value))
    if isinstance(value, str):
        return _text(115, value)
    if isinstance(value, Mapping):
        return _encode_dict(value)
    return _text(120, type(value).__name__)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _encode_int,
    bytes: _encode_bytes,
    str: lambda value: _text(115, value),
    tuple: _encode_tuple,
    list: _encode_tuple,
    dict: _encode_dict,
    Wire: lambda value: WIRE.pack(102, value.number),
    Memory: lambda value: WIRE.pack(109, value.number),
}


def decode(data: memoryview, at: int = 0, depth: int = 0) -> tuple[Any, int]:
    """Read the value at `at`; returns it, and where the next one starts.

    Raises:
        JournalError: there is none.
    """
    try:
        return _decode(data, at, depth)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise JournalError(f"no value at byte {at} of an entry: {error}") from None


def _decode(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    tag = chr(data[at])
    if tag in "NTF":
        return {"N": None, "T": True, "F": False}[tag], at + 1
    if tag == "i":
        return _I64.unpack_from(data, at)[1], at + 9
    if tag == "I":
        size = data[at + 1]
        return int.from_bytes(_piece(data, at + 2, size), "little", signed=True), at + 2 + size
    if tag in "bsx":
        size = _SIZED.unpack_from(data, at)[1]
        piece = bytes(_piece(data, at + 5, size))
        if tag == "b":
            return piece, at + 5 + size
        text = piece.decode()
        return text if tag == "s" else Opaque(text), at + 5 + size
    if tag in "fm":
        number = WIRE.unpack_from(data, at)[1]
        return Wire(number) if tag == "f" else Memory(number), at + WIRE.size
    if tag in "td" and depth < DEEPEST:
        count = _COUNTED.unpack_from(data, at)[1] * (2 if tag == "d" else 1)
        at += _COUNTED.size
        items = []
        for _ in range(count):
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        if tag == "t":
            return tuple(items), at
        keys = items[::2]
        if not all(isinstance(key, str) for key in keys):
            raise JournalError("a key that is no text")
        return dict(zip(keys, items[1::2], strict=True)), at
    raise JournalError(f"no value at byte {at} of an entry: tag {data[at]:#04x}")


def _piece(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise JournalError(f"{size} bytes at byte {start} of an entry of {len(data)}")
    return data[start : start + size]


def entries(chunk: bytes | memoryview) -> Iterator[Entry]:
    """The entries of a chunk, one after the other.

    Raises:
        JournalError: something else is there.
    """
    data = memoryview(chunk)
    at = 0
    while at < len(data):
        if at + ENTRY.size > len(data):
            raise JournalError(f"an entry is cut off after {len(data) - at} bytes")
        kind, flags, who, size = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        if not START <= kind <= END:
            raise JournalError(f"no entry is of kind {kind}")
        yield Entry(kind, flags, who, _piece(data, at, size))
        at += size
