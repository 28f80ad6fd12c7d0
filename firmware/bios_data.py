"""The BIOS data area: where each field lies and what it holds when the BIOS hands over.

Real-mode programs read and write this area directly (the keyboard buffer, the tick count, the
cursor), so it is the BIOS's one and only record of these things; nothing is kept a second time
elsewhere.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, BIOS Data Area; Ralf Brown's Interrupt
List, Memory List (MEMORY.LST).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["BDA_SIZE", "BDA_START", "EBDA_SEGMENT", "Bda", "build_data_area", "equipment_word"]

BDA_START = 0x400
BDA_SIZE = 0x100
EBDA_SEGMENT = 0x9FC0
"""The extended BIOS data area: the last KiB below 640 KiB; its first byte is its size in KiB."""


class Bda(IntEnum):
    """Guest-physical addresses of the fields, with their widths in bytes."""

    COM_PORTS = 0x400  # 4 x 2
    LPT_PORTS = 0x408  # 3 x 2
    EBDA = 0x40E  # 2, a segment
    EQUIPMENT = 0x410  # 2
    MEMORY_KIB = 0x413  # 2
    SHIFT_FLAGS = 0x417  # 2
    KEY_HEAD = 0x41A  # 2, an offset into segment 40h
    KEY_TAIL = 0x41C  # 2
    KEY_BUFFER = 0x41E  # 16 x 2
    FLOPPY_STATUS = 0x441  # 1
    VIDEO_MODE = 0x449  # 1
    COLUMNS = 0x44A  # 2
    PAGE_BYTES = 0x44C  # 2
    PAGE_OFFSET = 0x44E  # 2
    CURSORS = 0x450  # 8 x 2: column, row
    CURSOR_SHAPE = 0x460  # 2: last scan line, first scan line
    ACTIVE_PAGE = 0x462  # 1
    CRTC_PORT = 0x463  # 2
    TICKS = 0x46C  # 4, since midnight
    MIDNIGHT = 0x470  # 1, days gone by since it was last asked
    WARM_BOOT = 0x472  # 2
    DISK_STATUS = 0x474  # 1
    DISK_COUNT = 0x475  # 1
    LPT_TIMEOUTS = 0x478  # 4 x 1
    COM_TIMEOUTS = 0x47C  # 4 x 1
    KEY_START = 0x480  # 2
    KEY_END = 0x482  # 2
    LAST_ROW = 0x484  # 1
    CHARACTER_HEIGHT = 0x485  # 2
    EGA_CONTROL = 0x487  # 1
    EGA_SWITCHES = 0x488  # 1
    VGA_FLAGS = 0x489  # 1
    DISPLAY_CODE = 0x48A  # 1
    KEYBOARD_TYPE = 0x496  # 1


def equipment_word(*, floppies: int, serial_ports: int) -> int:
    """Return the equipment word of INT 11h: a colour 80x25 screen, an FPU, no printer, no mouse."""
    word = 0x0022 | (serial_ports & 7) << 9
    if floppies:
        word |= 0x0001 | (min(floppies, 4) - 1) << 6
    return word


def build_data_area(
    *,
    memory_kib: int = 639,
    com_ports: tuple[int, ...] = (0x3F8,),
    floppies: int = 0,
    hard_disks: int = 0,
    ticks: int = 0,
) -> bytes:
    """Return the 256 bytes at 0x400 as they are when the boot sector starts.

    `memory_kib` is the conventional memory below the extended data area, `ticks` the timer
    ticks (18.2 a second) since midnight.
    """
    area = bytearray(BDA_SIZE)

    def put(field: int, value: int, size: int = 2) -> None:
        at = field - BDA_START
        area[at : at + size] = value.to_bytes(size, "little")

    for index, port in enumerate(com_ports[:4]):
        put(Bda.COM_PORTS + 2 * index, port)
        put(Bda.COM_TIMEOUTS + index, 1, 1)
    put(Bda.EBDA, EBDA_SEGMENT)
    put(Bda.EQUIPMENT, equipment_word(floppies=floppies, serial_ports=len(com_ports[:4])))
    put(Bda.MEMORY_KIB, memory_kib)
    put(Bda.KEY_HEAD, 0x1E)
    put(Bda.KEY_TAIL, 0x1E)
    put(Bda.KEY_START, 0x1E)
    put(Bda.KEY_END, 0x3E)
    put(Bda.VIDEO_MODE, 3, 1)
    put(Bda.COLUMNS, 80)
    put(Bda.PAGE_BYTES, 0x1000)
    put(Bda.CURSOR_SHAPE, 0x0607)
    put(Bda.CRTC_PORT, 0x3D4)
    put(Bda.TICKS, ticks, 4)
    put(Bda.DISK_COUNT, hard_disks, 1)
    put(Bda.LAST_ROW, 24, 1)
    put(Bda.CHARACTER_HEIGHT, 16)
    put(Bda.EGA_CONTROL, 0x60, 1)  # 256 KiB of display memory
    put(Bda.EGA_SWITCHES, 0x09, 1)
    put(Bda.VGA_FLAGS, 0x11, 1)  # VGA active, 400 scan lines
    put(Bda.DISPLAY_CODE, 0x08, 1)
    put(Bda.KEYBOARD_TYPE, 0x10, 1)  # 101 keys
    return bytes(area)
