"""The MP tables: processors and interrupt wiring for kernels without ACPI.

The floating pointer comes first, then the configuration table 16 bytes behind it: processors, the
ISA bus, one IOAPIC, and where each line of the bus comes in. The timer's line 0 is at pin 2, the
8259 reaches the processors through LINT0, and LINT1 is NMI. What is no line of the ISA bus is not
in here: a kernel finds virtio devices by its command line or not at all.

Spec: Intel MultiProcessor Specification 1.4, "MP Configuration Table".
"""

from __future__ import annotations

import struct

__all__ = ["MOST_PROCESSORS", "mp_tables"]

MOST_PROCESSORS = 254
"""The IOAPIC needs an id of its own, and 255 stands for every processor."""

_POINTER_SIZE = 16
_HEADER_SIZE = 44
_REVISION = 4
_LAPIC_GPA = 0xFEE0_0000
_IOAPIC_GPA = 0xFEC0_0000
_LAPIC_VERSION = 0x14
_IOAPIC_VERSION = 0x11
_EVERY_LAPIC = 0xFF

_PROCESSOR, _BUS, _IOAPIC, _IO_INTERRUPT, _LOCAL_INTERRUPT = range(5)
_INT, _NMI, _EXT_INT = 0, 1, 3
_ENABLED, _BOOT_PROCESSOR = 1, 2
_ISA_BUS = 0
_AS_THE_BUS_HAS_IT = 0
_LEVEL_HIGH = 0b11 << 2 | 0b01
_TIMER_PIN = 2
_CASCADE = 2
"""The line of the second 8259, which no device has."""


def mp_tables(gpa: int, *, cpus: int, sci: int, signature: int = 0, features: int = 0) -> bytes:
    """Make the tables that lie at guest-physical address `gpa`, a multiple of 16.

    Args:
        gpa: where they will lie.
        cpus: how many processors there are; their APIC ids are 0, 1, ...
        sci: the line of the ISA bus that is a level, as the ACPI hardware drives it.
        signature: EAX of CPUID leaf 1.
        features: EDX of CPUID leaf 1.

    Raises:
        ValueError: there are more processors than the tables can tell, or the address is no
            multiple of 16 below 4 GiB.
    """
    if not 1 <= cpus <= MOST_PROCESSORS:
        raise ValueError(f"{cpus} processors: an MP table has 1 to {MOST_PROCESSORS}")
    if gpa % _POINTER_SIZE or not 0 <= gpa < 1 << 32:
        raise ValueError(f"MP tables at {gpa:#x}: not a multiple of 16 below 4 GiB")
    table = _configuration(cpus, sci, signature, features)
    pointer = struct.pack(
        "<4sIBBB5x", b"_MP_", gpa + _POINTER_SIZE, _POINTER_SIZE // 16, _REVISION, 0
    )
    return _summed(pointer, 10) + table


def _configuration(cpus: int, sci: int, signature: int, features: int) -> bytes:
    ioapic = cpus
    entries = [
        struct.pack(
            "<BBBBII8x",
            *(_PROCESSOR, index, _LAPIC_VERSION),
            _ENABLED | (0 if index else _BOOT_PROCESSOR),
            *(signature, features),
        )
        for index in range(cpus)
    ]
    entries.append(struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<BBBBI", _IOAPIC, ioapic, _IOAPIC_VERSION, _ENABLED, _IOAPIC_GPA))
    for line in range(16):
        if line == _CASCADE:
            continue
        pin = line or _TIMER_PIN
        flags = _LEVEL_HIGH if line == sci else _AS_THE_BUS_HAS_IT
        entries.append(_interrupt(_IO_INTERRUPT, _INT, line, ioapic, pin, flags))
    for lint, kind in enumerate((_EXT_INT, _NMI)):
        entries.append(_interrupt(_LOCAL_INTERRUPT, kind, 0, _EVERY_LAPIC, lint))
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBx",
        *(b"PCMP", _HEADER_SIZE + len(body), _REVISION, 0, b"GLASSVMM", b"glassvm     "),
        *(0, 0, len(entries), _LAPIC_GPA, 0, 0),
    )
    return _summed(header + body, 7)


def _interrupt(
    entry: int, kind: int, line: int, apic: int, pin: int, flags: int = _AS_THE_BUS_HAS_IT
) -> bytes:
    return struct.pack("<BBHBBBB", entry, kind, flags, _ISA_BUS, line, apic, pin)


def _summed(data: bytes, position: int) -> bytes:
    """Set the byte at `position`, which is zero, so that all bytes add up to zero."""
    whole = bytearray(data)
    whole[position] = -sum(whole) & 0xFF
    return bytes(whole)
