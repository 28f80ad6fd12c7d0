"""The BIOS ROM of the Python BIOS: 64 KiB at 0xF0000, and the interrupt vectors that lead into it.

No service is implemented here. For each interrupt vector the ROM has a stub that writes to one
I/O port; the machine leaves the guest there and the service runs in Python, which finds the
vector from RIP. What has to run in the guest is in the stubs: the end-of-interrupt commands of
hardware interrupts, the call of the tick hook, and the loop in which a service waits.

The trap port is 0xBA. No PC device claims it: the board's own ports below 0x100 end with the
second interrupt controller (0xA0), APM control (0xB2) and the second DMA controller (0xC0).

The ROM, from 0xF0000:
    0x0000  free, zero (room for ACPI and other tables)
    0x8000  the stubs, 32 bytes for each vector
    0xA000  parameter tables
    0xB000  the 8x8 font of INT 43h and INT 1Fh, and the 8x16 font behind it
    0xE05B  entry after a reset
    0xFFF0  the reset vector, the date and the machine's model
The font tables are in place but blank: there is no graphics mode to draw glyphs in.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference; Ralf Brown's Interrupt List, Tables
00241 (diskette parameter table), 03196 (hard disk parameter table), 00509 (system configuration).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "CONFIG_TABLE",
    "FLOPPY_TABLE",
    "FONT_8X8",
    "FONT_8X16",
    "PUSHES_AX",
    "ROM_SEGMENT",
    "ROM_SIZE",
    "ROM_START",
    "STUBS",
    "STUB_SIZE",
    "TRAP_PORT",
    "DriveGeometry",
    "build_rom",
    "build_vectors",
    "vector_at",
]

TRAP_PORT = 0xBA
ROM_SEGMENT = 0xF000
ROM_START = 0xF0000
ROM_SIZE = 0x10000

# Offsets in the ROM segment.
STUBS = 0x8000
STUB_SIZE = 32
CONFIG_TABLE = 0xA000
FLOPPY_TABLE = 0xA010
VIDEO_TABLE = 0xA020
DISK_TABLES = (0xA080, 0xA090)
FONT_8X8 = 0xB000
FONT_8X16 = 0xB800
_RESET_ENTRY = 0xE05B
_RESET_VECTOR = 0xFFF0
_DATE = b"11/01/26"
_MODEL = 0xFC  # PC/AT

PUSHES_AX = frozenset({0x08, *range(0x09, 0x10)})
"""Vectors whose stub has pushed AX when it traps: their interrupt frame lies 2 bytes higher."""

_TRAP = bytes([0xE6, TRAP_PORT])  # out 0xBA, al
_CLC = b"\xf8"
_IRET = b"\xcf"
_PUSH_AX, _POP_AX = b"\x50", b"\x58"
_EOI = b"\xb0\x20\xe6\x20"  # mov al, 0x20; out 0x20, al

# Carry is clear at the first trap, whatever the interrupted program had there. A service that has
# to wait sets it: the stub then opens interrupts for a moment and traps again with carry still
# set, which tells a repeat from a call.
_SERVICE_STUB = (
    _CLC
    + _TRAP
    + b"\x72\x01"  # jc wait
    + _IRET
    + b"\xfb"  # wait: sti
    + b"\xeb\xf8"  # jmp to the trap
)
_TICK_STUB = _PUSH_AX + _CLC + _TRAP + b"\xcd\x1c" + _EOI + _POP_AX + _IRET  # with int 0x1c
_KEY_STUB = _PUSH_AX + b"\xe4\x60" + _CLC + _TRAP + _EOI + _POP_AX + _IRET  # with in al, 0x60
# IRQ 2 to 7 share their vectors with processor exceptions. The stub reads the interrupt
# controller's in-service register into AL; carry comes back set when it was no interrupt.
_SHARED_STUB = (
    _PUSH_AX
    + b"\xb0\x0b\xe6\x20"  # mov al, 0x0b; out 0x20, al
    + b"\xe4\x20"  # in al, 0x20
    + _CLC
    + _TRAP
    + b"\x72\x04"  # jc behind the EOI
    + _EOI
    + _POP_AX
    + _IRET
)
_SLAVE_STUB = (  # IRQ 8 to 15; register C of the clock is read or it never interrupts again
    _PUSH_AX
    + b"\xb0\x0c\xe6\x70\xe4\x71"  # mov al, 0x0c; out 0x70, al; in al, 0x71
    + b"\xb0\x20\xe6\xa0\xe6\x20"  # mov al, 0x20; out 0xa0, al; out 0x20, al
    + _POP_AX
    + _IRET
)

# Hooks for programs to take over, and traps for debuggers: nothing to do by default.
_QUIET = frozenset({0x01, 0x02, 0x03, 0x04, 0x05, 0x1B, 0x1C, 0x23, 0x24, 0x28, 0x4A})


class DriveGeometry(NamedTuple):
    """A disk's shape as CHS addressing sees it."""

    cylinders: int
    heads: int
    sectors: int
    """Sectors per track, numbered from 1."""


def vector_at(linear: int) -> int | None:
    """Return the vector of the stub that holds linear address `linear`, None outside of them."""
    offset = linear - ROM_START - STUBS
    return offset // STUB_SIZE if 0 <= offset < 256 * STUB_SIZE else None


def build_vectors() -> bytes:
    """Return the interrupt vector table: 256 far pointers, 1 KiB, to be put at address 0."""
    offsets = [STUBS + vector * STUB_SIZE for vector in range(256)]
    # These are no code: programs find tables through them.
    offsets[0x1D] = VIDEO_TABLE
    offsets[0x1E] = FLOPPY_TABLE
    offsets[0x1F] = FONT_8X8 + 128 * 8
    offsets[0x41], offsets[0x46] = DISK_TABLES
    offsets[0x43] = FONT_8X8
    return b"".join(struct.pack("<HH", offset, ROM_SEGMENT) for offset in offsets)


def build_rom(disks: Sequence[DriveGeometry] = ()) -> bytes:
    """Return the 64 KiB ROM. `disks` are the first two hard disks, for INT 41h and INT 46h."""
    rom = bytearray(ROM_SIZE)

    def put(offset: int, data: bytes) -> None:
        rom[offset : offset + len(data)] = data

    for vector in range(256):
        put(STUBS + vector * STUB_SIZE, _stub(vector))
    put(CONFIG_TABLE, _config_table())
    put(FLOPPY_TABLE, _floppy_table())
    put(VIDEO_TABLE, _video_table())
    for at, disk in zip(DISK_TABLES, disks, strict=False):
        put(at, _disk_table(disk))
    put(_RESET_ENTRY, _far_jump(STUBS + 0x19 * STUB_SIZE))
    put(_RESET_VECTOR, _far_jump(_RESET_ENTRY) + _DATE)
    rom[0xFFFE] = _MODEL
    rom[0xFFFF] = -sum(rom) & 0xFF  # the bytes of a BIOS ROM add up to 0
    return bytes(rom)


def _stub(vector: int) -> bytes:
    if vector == 0x08:
        return _TICK_STUB
    if vector == 0x09:
        return _KEY_STUB
    if 0x0A <= vector <= 0x0F:
        return _SHARED_STUB
    if 0x70 <= vector <= 0x77:
        return _SLAVE_STUB
    if vector in _QUIET:
        return _IRET
    return _SERVICE_STUB


def _far_jump(offset: int) -> bytes:
    return struct.pack("<BHH", 0xEA, offset, ROM_SEGMENT)


def _config_table() -> bytes:
    # Feature byte 1: second interrupt controller, real-time clock, extended BIOS data area.
    # Feature byte 2: INT 16h AH=09h is not there, so 0.
    return struct.pack("<H8B", 8, _MODEL, 0x01, 0x00, 0x64, 0x00, 0x00, 0x00, 0x00)


def _floppy_table() -> bytes:
    # A 1.44 MB drive: step rate and head unload, head load, motor off after 37 ticks, 512-byte
    # sectors, 18 a track, gap, data length, format gap, fill byte, settle 15 ms, motor start 1 s.
    return bytes([0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08])


def _video_table() -> bytes:
    # 6845 registers for 40x25, 80x25, graphics and monochrome, then page sizes, columns and the
    # mode control bytes, which is all that a program can look up here.
    text_40 = bytes.fromhex("38 28 2d 0a 1f 06 19 1c 02 07 06 07 00 00 00 00")
    text_80 = bytes.fromhex("71 50 5a 0a 1f 06 19 1c 02 07 06 07 00 00 00 00")
    graphics = bytes.fromhex("38 28 2d 0a 7f 06 64 70 02 01 06 07 00 00 00 00")
    mono = bytes.fromhex("61 50 52 0f 19 06 19 19 02 0d 0b 0c 00 00 00 00")
    sizes = struct.pack("<4H", 0x0800, 0x1000, 0x4000, 0x4000)
    columns = bytes([40, 40, 80, 80, 40, 40, 80, 80])
    modes = bytes([0x2C, 0x28, 0x2D, 0x29, 0x2A, 0x2E, 0x1E, 0x29])
    return text_40 + text_80 + graphics + mono + sizes + columns + modes


def _disk_table(disk: DriveGeometry) -> bytes:
    # Control byte bit 3: more than eight heads. No write precompensation, landing at the end.
    cylinders = min(disk.cylinders, 1024)
    control = 0x08 if disk.heads > 8 else 0
    return struct.pack(
        "<HBHHBBBBBHBB",
        *(cylinders, disk.heads, 0, 0xFFFF, 0, control, 0, 0, 0, cylinders, disk.sectors, 0),
    )
