"""Guests as assembly text in a test.

GNU `as` is the assembler that is kept up to date and that everybody who writes a kernel has.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from firmware.assembler import NO_TOOLCHAIN, assemble, find_toolchain

__all__ = ["GuestAsm", "assembler"]

# How wide the code is and where `vmm.boot` puts it, by the format given to both.
_FORMATS = {
    "flat16": (16, 0x7C00),
    "flat32": (32, 0x10_0000),
    "flat64": (64, 0x10_0000),
    "bootsector": (16, 0x7C00),
}


class GuestAsm(Protocol):
    """What the fixture `guest_asm` gives."""

    def __call__(self, text: str, format: str = "flat64", *, address: int | None = None) -> bytes:
        """Assemble a text in Intel syntax.

        Args:
            text: the source.
            format: what it will be booted as: flat16, flat32, flat64, or bootsector.
            address: where its first byte will be; None: where that format is loaded.

        Raises:
            AssemblyError: it does not assemble; the text is what the assembler said.
        """


def assembler() -> GuestAsm:
    """Make the function; what was assembled once is remembered.

    Raises:
        pytest.fail.Exception: there is no assembler here.
    """
    tools = find_toolchain()
    if tools is None:
        pytest.fail(f"guest_asm: {NO_TOOLCHAIN}", pytrace=False)

    @cache
    def guest_asm(text: str, format: str = "flat64", *, address: int | None = None) -> bytes:
        if format not in _FORMATS:
            raise ValueError(f"guest_asm: format {format!r}: choose {', '.join(_FORMATS)}")
        bits, usual = _FORMATS[format]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "guest.S")
            # On the text's own first line, so that complaints have the right numbers.
            source.write_text(f".code{bits}; {text}\n", encoding="utf-8")
            place = usual if address is None else address
            flags = ("-msyntax=intel", "-mnaked-reg")
            # The first byte is the entry, whatever its name.
            image = assemble(source, place, tools, flags=flags, entry=hex(place))
        if format == "bootsector" and len(image) <= 510:
            image = image.ljust(510, b"\0") + b"\x55\xaa"
        return image

    return guest_asm
