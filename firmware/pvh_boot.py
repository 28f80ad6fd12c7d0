"""What a kernel is handed that is entered at its PVH entry point: `struct hvm_start_info`.

Spec: Xen, x86/HVM direct boot ABI and public/arch-x86/hvm/start_info.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["start_info", "start_info_size"]

_MAGIC = 0x336E_C578
_VERSION = 1

_START_INFO = struct.Struct("<IIIIQQQQII")
"""magic, version, flags, nr_modules, modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr,
memmap_entries, reserved."""
_MODULE = struct.Struct("<QQQQ")
_MEMORY = struct.Struct("<QQII")


def start_info_size(modules: int, ranges: int) -> int:
    """Return how many bytes `start_info` returns for so many modules and ranges of memory."""
    return _START_INFO.size + modules * _MODULE.size + ranges * _MEMORY.size


def start_info(
    gpa: int,
    *,
    command_line: int,
    modules: Sequence[tuple[int, int]],
    memory_map: Sequence[tuple[int, int, int]],
    rsdp: int = 0,
) -> bytes:
    """Return `struct hvm_start_info` for guest-physical address `gpa`, its lists behind it.

    Args:
        gpa: where it will lie.
        command_line: the address of the command line, which ends with a NUL.
        modules: address and size of each; Linux takes the first for its initrd.
        memory_map: start, size and E820 type of each range.
        rsdp: the address of the ACPI tables' root pointer; 0: there is none.
    """
    modules_at = gpa + _START_INFO.size
    map_at = modules_at + len(modules) * _MODULE.size
    head = _START_INFO.pack(
        *(_MAGIC, _VERSION, 0, len(modules)),
        *(modules_at if modules else 0, command_line, rsdp),
        *(map_at, len(memory_map), 0),
    )
    listed = (_MODULE.pack(start, size, 0, 0) for start, size in modules)
    ranges = (_MEMORY.pack(start, size, kind, 0) for start, size, kind in memory_map)
    return b"".join((head, *listed, *ranges))
