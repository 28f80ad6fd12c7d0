"""AML: the byte code in which ACPI describes devices and what to do with them.

Each function returns the bytes of one term, and takes those of the terms inside it. Where a term
takes data, an int or a str is encoded as such and bytes are taken for AML. What a machine without
a chipset's quirks needs is here, and no more: objects, control methods that look at numbers, and
fields of an address space. Resources are in `firmware.acpi.resources`.

Spec: ACPI 6.5, "ACPI Machine Language (AML) Specification".
"""

from __future__ import annotations

import struct

__all__ = [
    "BYTE_ACCESS",
    "DWORD_ACCESS",
    "SYSTEM_IO",
    "SYSTEM_MEMORY",
    "argument",
    "buffer",
    "device",
    "eisa_id",
    "equal",
    "field",
    "integer",
    "method",
    "name",
    "name_string",
    "notify",
    "operation_region",
    "package",
    "returns",
    "scope",
    "string",
    "when",
]

SYSTEM_MEMORY, SYSTEM_IO = 0, 1
"""Address spaces of an operation region."""

BYTE_ACCESS, DWORD_ACCESS = 1, 3
"""How wide the accesses are that a field's units are read and written by."""

_LONGEST = 1 << 28
"""Bytes of a term, at most less one: a package length has 28 bits."""
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_DIGITS = frozenset("0123456789")


def integer(value: int) -> bytes:
    """An integer of up to 64 bits, in the shortest of its encodings.

    Raises:
        ValueError: it is negative or wider.

    Spec: ACPI 6.5, "Data Objects Encoding".
    """
    if not 0 <= value < 1 << 64:
        raise ValueError(f"AML has no integer {value:#x}: 64 bits without a sign")
    if value < 2:
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """A string of ASCII characters, none of them NUL.

    Raises:
        ValueError: a character is not one of these.
    """
    if not text.isascii() or "\0" in text:
        raise ValueError(f"AML string {text!r}: ASCII without NUL")
    return b"\x0d" + text.encode() + b"\0"


def eisa_id(text: str) -> bytes:
    """A Plug and Play identity, "PNP0501", compressed to a 32-bit integer.

    Raises:
        ValueError: it is not three capital letters and four hexadecimal digits.

    Spec: ACPI 6.5, "EISAID (EISA ID String To Integer Conversion Macro)".
    """
    letters, digits = text[:3], text[3:]
    if len(digits) != 4 or not set(letters) <= _LETTERS - {"_"}:
        raise ValueError(f"EISA id {text!r}: three capital letters and four hexadecimal digits")
    vendor = 0
    for letter in letters:
        vendor = vendor << 5 | ord(letter) - 0x40
    # Big-endian, as the EISA bus has it, in an integer that is stored little-endian.
    return b"\x0c" + struct.pack(">HH", vendor, int(digits, 16))


def buffer(data: bytes) -> bytes:
    """A buffer with its initial contents."""
    return b"\x11" + _with_length(integer(len(data)) + data)


def package(*elements: int | str | bytes) -> bytes:
    """A package of up to 255 elements.

    Raises:
        ValueError: there are more.
    """
    if len(elements) > 255:
        raise ValueError(f"a package of {len(elements)} elements: it has 255 at most")
    return b"\x12" + _with_length(bytes([len(elements)]) + _all(elements))


def name_string(path: str) -> bytes:
    r"""A name: "_HID", "\_SB.PWRB", or "^FOO" for a name in the scope above.

    Segments are padded with underscores to four characters.

    Raises:
        ValueError: a segment is empty, too long, or has another character than capital letters,
            digits (not in front) and underscores.

    Spec: ACPI 6.5, "Name Objects Encoding".
    """
    bare = path.lstrip("\\^")
    prefix = path[: len(path) - len(bare)]
    if prefix not in ("", "\\") and set(prefix) != {"^"}:
        raise ValueError(f"AML name {path!r}: begins with one backslash or with carets")
    segments = [_segment(part, path) for part in bare.split(".")] if bare else []
    if len(segments) > 255:
        raise ValueError(f"AML name {path[:32]!r}...: more than 255 segments")
    if not segments:
        lead = b"\0"
    elif len(segments) == 1:
        lead = b""
    elif len(segments) == 2:
        lead = b"\x2e"
    else:
        lead = b"\x2f" + bytes([len(segments)])
    return prefix.encode() + lead + b"".join(segments)


def name(path: str, value: int | str | bytes) -> bytes:
    """Name an object that holds a value."""
    return b"\x08" + name_string(path) + _data(value)


def scope(path: str, *terms: bytes) -> bytes:
    """Put terms into a scope that is there already."""
    return b"\x10" + _with_length(name_string(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """A device, with the objects below it."""
    return b"\x5b\x82" + _with_length(name_string(path) + b"".join(terms))


def method(path: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """A control method of 0 to 7 arguments; a serialized one runs once at a time.

    Raises:
        ValueError: it has more arguments.
    """
    if not 0 <= arguments <= 7:
        raise ValueError(f"method {path} of {arguments} arguments: it has 7 at most")
    flags = bytes([arguments | serialized << 3])
    return b"\x14" + _with_length(name_string(path) + flags + b"".join(terms))


def operation_region(path: str, space: int, offset: int, size: int) -> bytes:
    """A piece of an address space that AML may touch: `size` bytes from `offset`."""
    where = integer(offset) + integer(size)
    return b"\x5b\x80" + name_string(path) + bytes([space]) + where


def field(region: str, access: int, *units: tuple[str, int]) -> bytes:
    """Name bits of a region, one after the other: each unit is a name and its width in bits.

    An empty name leaves bits out. Bits around a unit that is written keep what they hold.
    """
    body = name_string(region) + bytes([access])
    for unit, bits in units:
        body += (_segment(unit, unit) if unit else b"\0") + _length(bits)
    return b"\x5b\x81" + _with_length(body)


def argument(number: int) -> bytes:
    """What a method was given as its argument `number`, 0 to 6.

    Raises:
        ValueError: there is no such argument.
    """
    if not 0 <= number <= 6:
        raise ValueError(f"argument {number}: a method has 0 to 6")
    return bytes([0x68 + number])


def equal(left: int | str | bytes, right: int | str | bytes) -> bytes:
    """Whether two values are equal."""
    return b"\x93" + _data(left) + _data(right)


def when(condition: bytes, *terms: bytes) -> bytes:
    """Carry out terms if a condition holds."""
    return b"\xa0" + _with_length(condition + b"".join(terms))


def notify(path: str, value: int) -> bytes:
    """Tell the operating system that something has happened to a device."""
    return b"\x86" + name_string(path) + integer(value)


def returns(value: int | str | bytes) -> bytes:
    """End a method with a value."""
    return b"\xa4" + _data(value)


def _data(value: int | str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    return string(value) if isinstance(value, str) else integer(value)


def _all(values: tuple[int | str | bytes, ...]) -> bytes:
    return b"".join(_data(value) for value in values)


def _segment(part: str, path: str) -> bytes:
    well_formed = 1 <= len(part) <= 4 and set(part) <= _LETTERS | _DIGITS
    if not well_formed or part[0] in _DIGITS:
        raise ValueError(
            f"AML name {path!r}: {part!r} is not one to four capital letters, digits and "
            "underscores, a digit not in front"
        )
    return part.ljust(4, "_").encode()


def _with_length(body: bytes) -> bytes:
    """A package: its length in front of it, which counts itself.

    Spec: ACPI 6.5, "Package Length Encoding".
    """
    size = len(body) + 1
    if size < 1 << 6:
        return bytes([size]) + body
    for more in (1, 2, 3):
        size = len(body) + 1 + more
        if size < 1 << 4 + 8 * more:
            return _length(size, more) + body
    raise ValueError(f"a term of {len(body)} bytes: AML has {_LONGEST - 5} at most")


def _length(value: int, more: int | None = None) -> bytes:
    """The encoding of a package length, `more` bytes behind its first, or as few as will do."""
    if more is None:
        if value < 1 << 6:
            return bytes([value])
        more = max(1, (value.bit_length() + 3) // 8)
    if more > 3 or value >= _LONGEST:
        raise ValueError(f"{value:#x} does not fit the 28 bits of an AML package length")
    return bytes([more << 6 | value & 0xF]) + (value >> 4).to_bytes(more, "little")
