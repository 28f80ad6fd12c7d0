"""The notes of an ELF file that say how it is to be booted, or that it is Linux.

Notes are read leniently: what is malformed ends the reading of its segment, for no note is needed
to load the file.

Spec: Tool Interface Standard ELF 1.2, Note Section; Xen, x86/HVM direct boot ABI and elfnote.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vmm.loader.elf import Elf

__all__ = ["is_linux", "pvh_entry"]

_NOTE = struct.Struct("<III")
_XEN, _LINUX = b"Xen\0", b"Linux\0"
_PHYS32_ENTRY = 18
_MOST_NOTES = 256


def pvh_entry(elf: Elf) -> int | None:
    """Return the physical address of the 32-bit entry point that a PVH note names, or None."""
    for owner, kind, content in _notes(elf):
        # A word of the kernel's own width; the address is one of 32 bits in any case.
        if owner == _XEN and kind == _PHYS32_ENTRY and len(content) in (4, 8):
            return int.from_bytes(content, "little")
    return None


def is_linux(elf: Elf) -> bool:
    """Say whether a note of the file is Linux's own."""
    return any(owner == _LINUX for owner, _, _ in _notes(elf))


def _notes(elf: Elf) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield owner (with its NUL), type and content of each note."""
    for segment in elf.notes:
        at = 0
        for _ in range(_MOST_NOTES):
            if at + _NOTE.size > len(segment):
                break
            owner_size, size, kind = _NOTE.unpack_from(segment, at)
            at += _NOTE.size
            content_at = at + (owner_size + 3) // 4 * 4
            end = content_at + size
            if end > len(segment):
                break
            yield bytes(segment[at : at + owner_size]), kind, bytes(segment[content_at:end])
            at = content_at + (size + 3) // 4 * 4
