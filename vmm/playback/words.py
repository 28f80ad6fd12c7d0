"""A replay's accesses and calls, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmm.decode import decode_access

__all__ = ["access_words", "call_words", "error_words", "outward_words", "register_words"]

_MOST = 16
"""Bytes of an argument that are shown."""


def access_words(
    name: str,
    device: object,
    ranges: Sequence[tuple[str, int, int, int]],
    offset: int,
    size: int,
    write: bool,
    value: int,
) -> str:
    """ "read of com1 LSR (port 0x3fd)", "write of 0x41 to com1 THR (port 0x3f8)"."""
    register, _ = _decoded(device, offset, size, write, value)
    where = [
        f"{space} {base + offset:#x}"
        for space, start, end, base in ranges
        if start <= base + offset < end
    ]
    place = f"{name} {register or f'offset {offset:#x}'}"
    if where:
        place += f" ({' or '.join(where)})"
    return f"write of {value:#x} to {place}" if write else f"read of {place}"


def register_words(device: object, offset: int, size: int, write: bool, value: int) -> str:
    """ "0x60 = THRE|TEMT"."""
    _, words = _decoded(device, offset, size, write, value)
    number = f"{value:#0{2 + 2 * size}x}"
    return number if words in ("", hex(value)) else f"{number} = {words}"


def call_words(name: str, args: Sequence[Any], named: Mapping[str, Any] | None = None) -> str:
    """ "receive(b'ab')"."""
    shown = [_argument(value) for value in args]
    shown += [f"{key}={_argument(value)}" for key, value in (named or {}).items()]
    return f"{name}({', '.join(shown)})"


def outward_words(names: Mapping[int, str], wire: int, args: Sequence[Any]) -> str:
    """ "irq(True)": what a device called."""
    return call_words(names.get(wire, f"a function of another device ({wire})"), args)


def error_words(error: Exception) -> str:
    """What a device raised."""
    return f"an error ({type(error).__name__}: {error})"


def _argument(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) > _MOST:
            return f"{data[:_MOST]!r} and {len(data) - _MOST} bytes more"
        return repr(data)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}" if value >= 0x100 else str(value)
    text = repr(value)
    return text if len(text) <= 4 * _MOST else text[: 4 * _MOST] + "..."


def _decoded(device: object, offset: int, size: int, write: bool, value: int) -> tuple[str, str]:
    """The register's name and its value in words, where it is one register."""
    values = getattr(device, "values", None)
    known = values if isinstance(values, Mapping) else None
    text = decode_access(device, offset, size, write, value, values=known)
    if text is None or text.count(" = ") != 1:
        return "", text or ""
    name, _, words = text.partition(" = ")
    return name, words
