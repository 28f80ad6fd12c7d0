"""The ACPI tables that are data: who is there, where the fixed hardware is, what finds the rest.

Spec: ACPI 6.4, "ACPI Software Programming Model". The tables have that version's revisions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from firmware.acpi.board import Board
from firmware.acpi.table import OEM_ID, checksum, table

__all__ = ["FACS_SIZE", "RSDP_SIZE", "facs", "fadt", "madt", "rsdp", "rsdt", "srat", "xsdt"]

RSDP_SIZE = 36
FACS_SIZE = 64

_LAPIC_GPA = 0xFEE0_0000
_IOAPIC_GPA = 0xFEC0_0000
_FIRST_X2APIC_ID = 255
"""APIC ids from here on do not fit 8 bits: 255 there stands for every processor."""
_ALL_PROCESSORS = 0xFF
_ALL_X2APIC = 0xFFFF_FFFF

# Interrupt flags of the MADT: polarity in bits 1..0, trigger mode in bits 3..2.
_AS_THE_BUS_HAS_IT = 0
_LEVEL_HIGH = 0b11 << 2 | 0b01

# Feature flags of the FADT.
_WBINVD = 1 << 0
_PROC_C1 = 1 << 2
_SLP_BUTTON = 1 << 5  # set: there is none among the fixed hardware
_FIX_RTC = 1 << 6  # set: the clock wakes nobody through the fixed hardware
_RESET_REG_SUP = 1 << 10

# IA-PC boot architecture flags. There is a VGA, which is told by a clear bit.
_LEGACY_DEVICES = 1 << 0
_8042 = 1 << 1

_NO_C2, _NO_C3 = 0xFFFF, 0xFFFF
"""Latencies in microseconds that say that the processor does not have the power state."""
_CMOS_CENTURY = 0x32

_SYSTEM_IO = 1
_BYTE, _WORD, _DWORD = 1, 2, 3


def rsdp(rsdt_gpa: int, xsdt_gpa: int) -> bytes:
    """The root pointer of revision 2, 36 bytes, which lies on a multiple of 16.

    Spec: ACPI 6.4, "Root System Description Pointer (RSDP) Structure".
    """
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 2, rsdt_gpa))
    first[8] = checksum(first)  # over what ACPI 1.0 knew
    whole = first + struct.pack("<IQB3x", RSDP_SIZE, xsdt_gpa, 0)
    whole[32] = checksum(whole)
    return bytes(whole)


def rsdt(tables: Sequence[int]) -> bytes:
    """The list of tables for readers of ACPI 1.0, with 32-bit addresses."""
    return table("RSDT", 1, struct.pack(f"<{len(tables)}I", *tables))


def xsdt(tables: Sequence[int]) -> bytes:
    """The list of tables by their guest-physical addresses."""
    return table("XSDT", 1, struct.pack(f"<{len(tables)}Q", *tables))


def facs() -> bytes:
    """The structure with the global lock, 64 bytes on a multiple of 64; nobody contends for it.

    Spec: ACPI 6.4, "Firmware ACPI Control Structure (FACS)".
    """
    return struct.pack("<4sI24xB31x", b"FACS", FACS_SIZE, 2)


def fadt(board: Board, facs_gpa: int, dsdt_gpa: int) -> bytes:
    """Where the fixed hardware is, and what kind of PC this is.

    There is no SMI command port: the machine has no legacy mode, and is in ACPI mode always.

    Spec: ACPI 6.4, "Fixed ACPI Description Table (FADT)".
    """
    event, control, timer = board.pm_base, board.pm_base + 4, board.pm_base + 8
    flags = _WBINVD | _PROC_C1 | _SLP_BUTTON | _FIX_RTC | _RESET_REG_SUP
    none = _address(0, 0, 0, space=0)
    body = b"".join(
        (
            struct.pack("<IIBBH", facs_gpa, dsdt_gpa, 0, 0, board.sci),
            struct.pack("<IBBBB", 0, 0, 0, 0, 0),  # SMI_CMD and what is written to it
            struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),  # their lengths in bytes
            struct.pack("<HHHH", _NO_C2, _NO_C3, 0, 0),
            struct.pack("<5B", 0, 0, 0, 0, _CMOS_CENTURY),
            struct.pack("<HxI", _LEGACY_DEVICES | _8042, flags),
            _address(board.reset_port, 8, _BYTE),
            struct.pack("<BHB", board.reset_value, 0, 4),
            struct.pack("<QQ", 0, dsdt_gpa),  # the FACS has its address in 32 bits
            *(_address(event, 32, _WORD), none, _address(control, 16, _WORD), none),
            *(none, _address(timer, 32, _DWORD), none, none),
            *(none, none),  # the sleep registers of hardware without fixed registers
            b"GLASSVMM",
        )
    )
    return table("FACP", 6, body)


def madt(board: Board) -> bytes:
    """The interrupt controllers: a local APIC for each processor, and one IOAPIC.

    The timer's line 0 comes in at pin 2, as on every PC, and the SCI is a level. LINT1 is NMI.

    Spec: ACPI 6.4, "Multiple APIC Description Table (MADT)".
    """
    dual_8259 = 1
    parts = [struct.pack("<II", _LAPIC_GPA, dual_8259)]
    for index in range(board.cpus):
        if index < _FIRST_X2APIC_ID:
            parts.append(struct.pack("<BBBBI", 0, 8, index, index, 1))
        else:
            parts.append(struct.pack("<BBHIII", 9, 16, 0, index, 1, index))
    parts.append(struct.pack("<BBBBII", 1, 12, 0, 0, _IOAPIC_GPA, 0))
    for line, gsi, flags in ((0, 2, _AS_THE_BUS_HAS_IT), (board.sci, board.sci, _LEVEL_HIGH)):
        parts.append(struct.pack("<BBBBIH", 2, 10, 0, line, gsi, flags))
    parts.append(struct.pack("<BBBHB", 4, 6, _ALL_PROCESSORS, _AS_THE_BUS_HAS_IT, 1))
    if board.cpus > _FIRST_X2APIC_ID:
        parts.append(struct.pack("<BBHIB3x", 10, 12, _AS_THE_BUS_HAS_IT, _ALL_X2APIC, 1))
    return table("APIC", 5, b"".join(parts))


def srat(board: Board) -> bytes:
    """The one node to which all processors and all of the memory belong.

    Spec: ACPI 6.4, "System Resource Affinity Table (SRAT)".
    """
    node, enabled = 0, 1
    parts = [struct.pack("<I8x", 1)]
    for index in range(board.cpus):
        if index < _FIRST_X2APIC_ID:
            parts.append(struct.pack("<BBBBIB3sI", 0, 16, node, index, enabled, 0, b"\0\0\0", 0))
        else:
            parts.append(struct.pack("<BBHIIII4x", 2, 24, 0, node, index, enabled, 0))
    for start, size in _without_video(board.ram):
        parts.append(struct.pack("<BBIHQQIIQ", 1, 40, node, 0, start, size, 0, enabled, 0))
    return table("SRAT", 3, b"".join(parts))


def _without_video(ram: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Ranges of RAM, without what is the display's and the firmware's below 1 MiB."""
    low_end, one_mib = 0xA_0000, 0x10_0000
    for start, size in ram:
        end = start + size
        if start < low_end:
            yield start, min(end, low_end) - start
        if end > one_mib:
            yield max(start, one_mib), end - max(start, one_mib)


def _address(address: int, bits: int, access: int, *, space: int = _SYSTEM_IO) -> bytes:
    """A register's address.

    Spec: ACPI 6.4, "Generic Address Structure".
    """
    return struct.pack("<BBBBQ", space, bits, 0, access, address)
