"""What Linux is handed when it starts: `struct boot_params`, with the setup header in it.

A kernel image (bzImage) has the setup header at byte 0x1F1. A boot loader reads there what the
kernel can and needs, copies the header into an otherwise empty `boot_params` of 4 KiB (the "zero
page"), at the same offset, and fills in what it is to write. So one table of offsets serves both.

Spec: Linux, The Linux/x86 Boot Protocol (The Real-Mode Kernel Header; Details of Header Fields;
The kernel_info) and Zero Page; <asm/bootparam.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

__all__ = [
    "BOOT_FLAG",
    "BOOT_PARAMS",
    "BOOT_PARAMS_SIZE",
    "E820_MAX_ENTRIES",
    "HDRS",
    "SETUP_HEADER",
    "Loadflags",
    "SetupData",
    "Xloadflags",
    "boot_params",
    "highest_setup_type",
    "read_setup_header",
    "setup_data",
    "setup_header_bytes",
]

BOOT_PARAMS_SIZE = 4096
"""Bytes of `struct boot_params`."""
E820_MAX_ENTRIES = 128
"""How many entries of a memory map fit into it."""

HDRS = 0x5372_6448
"""The header's magic number: "HdrS"."""
BOOT_FLAG = 0xAA55

_HEADER_START = 0x1F1
_HEADER_ROOM_END = 0x290
"""What `boot_params` has behind the header begins here."""
_JUMP_TARGET = 0x202
"""The header ends where the jump over it leads: this, and the byte before it."""

SETUP_HEADER: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "setup_sects": (0x1F1, "B"),
        "root_flags": (0x1F2, "H"),
        "syssize": (0x1F4, "I"),
        "ram_size": (0x1F8, "H"),
        "vid_mode": (0x1FA, "H"),
        "root_dev": (0x1FC, "H"),
        "boot_flag": (0x1FE, "H"),
        "jump": (0x200, "H"),
        "header": (0x202, "I"),
        "version": (0x206, "H"),
        "realmode_swtch": (0x208, "I"),
        "start_sys_seg": (0x20C, "H"),
        "kernel_version": (0x20E, "H"),
        "type_of_loader": (0x210, "B"),
        "loadflags": (0x211, "B"),
        "setup_move_size": (0x212, "H"),
        "code32_start": (0x214, "I"),
        "ramdisk_image": (0x218, "I"),
        "ramdisk_size": (0x21C, "I"),
        "bootsect_kludge": (0x220, "I"),
        "heap_end_ptr": (0x224, "H"),
        "ext_loader_ver": (0x226, "B"),
        "ext_loader_type": (0x227, "B"),
        "cmd_line_ptr": (0x228, "I"),
        "initrd_addr_max": (0x22C, "I"),
        "kernel_alignment": (0x230, "I"),
        "relocatable_kernel": (0x234, "B"),
        "min_alignment": (0x235, "B"),
        "xloadflags": (0x236, "H"),
        "cmdline_size": (0x238, "I"),
        "hardware_subarch": (0x23C, "I"),
        "hardware_subarch_data": (0x240, "Q"),
        "payload_offset": (0x248, "I"),
        "payload_length": (0x24C, "I"),
        "setup_data": (0x250, "Q"),
        "pref_address": (0x258, "Q"),
        "init_size": (0x260, "I"),
        "handover_offset": (0x264, "I"),
        "kernel_info_offset": (0x268, "I"),
    }
)
"""Offset and width of each field of the setup header, in a kernel image and in `boot_params`."""

BOOT_PARAMS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "acpi_rsdp_addr": (0x070, "Q"),
        "ext_ramdisk_image": (0x0C0, "I"),
        "ext_ramdisk_size": (0x0C4, "I"),
        "ext_cmd_line_ptr": (0x0C8, "I"),
        "e820_entries": (0x1E8, "B"),
        "sentinel": (0x1EF, "B"),
        **SETUP_HEADER,
        "e820_table": (0x2D0, "2560s"),
    }
)
"""Offset and width of the fields of `boot_params` that have a meaning here."""

_E820_ENTRY = struct.Struct("<QQI")
_SETUP_DATA = struct.Struct("<QII")
_KERNEL_INFO = struct.Struct("<4sIII")
_KERNEL_INFO_MAGIC = b"LToP"


class Loadflags:
    """Bits of `loadflags`."""

    LOADED_HIGH = 1 << 0
    """The kernel's place is 1 MiB and above: a bzImage."""
    KEEP_SEGMENTS = 1 << 6
    CAN_USE_HEAP = 1 << 7


class Xloadflags:
    """Bits of `xloadflags`."""

    KERNEL_64 = 1 << 0
    """There is a 64-bit entry point, 0x200 behind the 32-bit one."""


class SetupData:
    """Types of `struct setup_data`."""

    RNG_SEED = 9
    """Bytes for the kernel's random number generator."""


def setup_header_bytes(image: bytes | memoryview) -> bytes:
    """Return the setup header of a kernel image as it is, with fields that are not known here.

    Raises:
        ValueError: there is none.
    """
    if len(image) < _JUMP_TARGET:
        raise ValueError("no setup header")
    end = min(_JUMP_TARGET + image[_JUMP_TARGET - 1], _HEADER_ROOM_END)
    return bytes(image[_HEADER_START:end])


def read_setup_header(image: bytes | memoryview) -> dict[str, int]:
    """Read the setup header of a kernel image: every field of `SETUP_HEADER` by its name, 0 where
    the kernel's header ends before it.

    Raises:
        ValueError: there is none.
    """
    header = setup_header_bytes(image)
    padded = header.ljust(_HEADER_ROOM_END - _HEADER_START, b"\0")
    found = {}
    for name, (offset, width) in SETUP_HEADER.items():
        inside = offset - _HEADER_START + struct.calcsize(width) <= len(header)
        field = struct.unpack_from(f"<{width}", padded, offset - _HEADER_START)
        found[name] = int(field[0]) if inside else 0
    if found["header"] != HDRS or found["boot_flag"] != BOOT_FLAG:
        raise ValueError("no setup header")
    return found


def boot_params(
    header: bytes, values: Mapping[str, int], memory_map: Iterable[tuple[int, int, int]]
) -> bytes:
    """Return the `BOOT_PARAMS_SIZE` bytes of `struct boot_params`.

    Args:
        header: the kernel's setup header (`setup_header_bytes`), or nothing.
        values: fields of `BOOT_PARAMS` that are to have another value than in `header`.
        memory_map: start, size and E820 type of each range.

    Raises:
        ValueError: there are more than `E820_MAX_ENTRIES` ranges.
        struct.error: a value is too wide for its field.
    """
    made = bytearray(BOOT_PARAMS_SIZE)
    made[_HEADER_START : _HEADER_START + len(header)] = header
    for name, value in values.items():
        offset, width = BOOT_PARAMS[name]
        struct.pack_into(f"<{width}", made, offset, value)
    ranges = tuple(memory_map)
    if len(ranges) > E820_MAX_ENTRIES:
        raise ValueError(f"{len(ranges)} ranges of memory; {E820_MAX_ENTRIES} fit")
    made[BOOT_PARAMS["e820_entries"][0]] = len(ranges)
    at, _ = BOOT_PARAMS["e820_table"]
    for number, entry in enumerate(ranges):
        _E820_ENTRY.pack_into(made, at + number * _E820_ENTRY.size, *entry)
    return bytes(made)


def setup_data(kind: int, data: bytes, *, next_gpa: int = 0) -> bytes:
    """Return a `struct setup_data` of a type (`SetupData`); the next one lies at `next_gpa`."""
    return _SETUP_DATA.pack(next_gpa, kind, len(data)) + data


def highest_setup_type(code: bytes | memoryview, offset: int) -> int | None:
    """Return the highest type of setup data that a kernel says it takes, or None.

    Args:
        code: the protected-mode part of the image.
        offset: `kernel_info_offset` of its header.
    """
    if not 0 < offset <= len(code) - _KERNEL_INFO.size:
        return None
    magic, size, _, highest = _KERNEL_INFO.unpack_from(code, offset)
    if magic != _KERNEL_INFO_MAGIC or size < _KERNEL_INFO.size:
        return None
    return int(highest) & 0x7FFF_FFFF  # the top bit says that the indirect kinds are taken as well
