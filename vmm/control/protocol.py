"""What goes over a control socket: lines of JSON, and now and then a file descriptor.

    client    {"id": 1, "op": "memory", "gpa": 4096, "size": 16}
    server    {"id": 1, "result": {"data": "..."}}      or    {"id": 1, "error": "..."}

Bytes are base64. A file descriptor comes with the line that answers for it (SCM_RIGHTS). A server
says `hello` first; a client that does not know its version goes away.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from vmm.errors import VmmError

__all__ = [
    "LONGEST_LINE",
    "VERSION",
    "ControlError",
    "GoneError",
    "Lines",
    "from_text",
    "pack",
    "to_text",
]

VERSION = 1

LONGEST_LINE = 8 << 20
"""A client that sends more without a newline is no client of ours."""


class ControlError(VmmError):
    """A machine cannot be reached, or will not do what it was asked."""


class GoneError(ControlError):
    """A machine that was reached has closed the connection."""


def pack(message: dict[str, Any]) -> bytes:
    """One message, as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def to_text(data: bytes) -> str:
    """Bytes as they stand in a message."""
    return base64.b64encode(data).decode("ascii")


def from_text(text: str) -> bytes:
    """The bytes of `to_text`.

    Raises:
        ControlError: that is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise ControlError("the data is not base64") from None


class Lines:
    """Puts together the messages of a stream."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take what came; return the messages that are complete.

        Raises:
            ControlError: that is no message, or it has no end.
        """
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ControlError("a message without an end")
        self._rest = bytearray(rest)
        return [_parse(line) for line in lines if line.strip()]


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ControlError("that is no message")
    return message
