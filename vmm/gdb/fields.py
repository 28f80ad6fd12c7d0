"""The fields of which packets are made."""

from __future__ import annotations

import re

from vmm.gdb.points import Point

__all__ = ["bounds_of", "index_of", "point_of", "range_of"]

_POINT = re.compile(rb"([0-4]),([0-9a-f]{1,16}),([0-9a-f]{1,8})(?:;.*)?", re.DOTALL)
_RANGE = re.compile(rb"([0-9a-f]{1,16}),([0-9a-f]{1,8})")


def index_of(digits: bytes, limit: int) -> int:
    """A number below a limit.

    Raises:
        ValueError: it is none.
    """
    number = int(digits, 16)
    if not 0 <= number < limit:
        raise ValueError("no such number")
    return number


def range_of(text: bytes) -> tuple[int, int]:
    """ADDRESS,SIZE.

    Raises:
        ValueError: that is not there.
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError("no range")
    return int(found[1], 16), int(found[2], 16)


def bounds_of(text: bytes) -> tuple[int, int]:
    """START,END of a range of addresses.

    Raises:
        ValueError: that is not there.
    """
    start, comma, end = text.partition(b",")
    if not comma:
        raise ValueError("no range")
    return int(start, 16), int(end, 16)


def point_of(text: bytes) -> Point | None:
    """TYPE,ADDRESS,SIZE; None where that is not there."""
    found = _POINT.fullmatch(text)
    if found is None:
        return None
    kind, address, size = (int(part, 16) for part in found.groups())
    return Point(kind, address, size)
