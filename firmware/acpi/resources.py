"""Resource templates: what a device in the DSDT occupies.

Each function returns one descriptor, and `template` makes the buffer of them that `_CRS` gives.

Spec: ACPI 6.5, "Resource Data Types for ACPI".
"""

from __future__ import annotations

import struct

from firmware.acpi.aml import buffer

__all__ = ["interrupt", "io", "irq", "memory32", "template"]

_END = b"\x79\x00"
"""The end tag; a checksum of 0 stands for one that is right."""


def template(*descriptors: bytes) -> bytes:
    """The buffer with these descriptors."""
    return buffer(b"".join(descriptors) + _END)


def io(start: int, size: int) -> bytes:
    """`size` ports from `start`, decoded with all 16 bits of the address.

    Raises:
        ValueError: they are not ports, or more than 255.

    Spec: ACPI 6.5, "I/O Port Descriptor".
    """
    if not 0 <= start <= 0xFFFF or not 1 <= size <= 0xFF or start + size > 1 << 16:
        raise ValueError(f"{size} ports from {start:#x}: 1 to 255 ports below 0x10000")
    return struct.pack("<BBHHBB", 0x47, 1, start, start, 1, size)


def irq(line: int) -> bytes:
    """An interrupt line of the ISA bus, 0 to 15: an edge to high, for this device alone.

    Raises:
        ValueError: there is no such line.

    Spec: ACPI 6.5, "IRQ Descriptor".
    """
    if not 0 <= line <= 15:
        raise ValueError(f"IRQ {line}: the ISA bus has 0 to 15")
    return struct.pack("<BH", 0x22, 1 << line)


def interrupt(gsi: int, *, level: bool = False) -> bytes:
    """A global system interrupt, active high, for this device alone: an edge, or a level.

    Spec: ACPI 6.5, "Extended Interrupt Descriptor".
    """
    consumer, edge = 1 << 0, 1 << 1
    return struct.pack("<BHBBI", 0x89, 6, consumer | (0 if level else edge), 1, gsi)


def memory32(start: int, size: int) -> bytes:
    """`size` bytes from guest-physical address `start`, below 4 GiB, that can be written.

    Raises:
        ValueError: they pass 4 GiB.

    Spec: ACPI 6.5, "32-Bit Fixed Memory Range Descriptor".
    """
    if start < 0 or size < 1 or start + size > 1 << 32:
        raise ValueError(f"{size:#x} bytes at {start:#x} do not lie below 4 GiB")
    return struct.pack("<BHBII", 0x86, 9, 1, start, size)
