"""What firmware and kernels expect to find in the CMOS memory of a PC.

A real machine's set-up program stores these cells; here they are computed when the machine is
built. Memory sizes and the checksum are the PC's own convention; the sizes above 16 MiB and 4 GiB,
the processor count and the boot order are those that SeaBIOS reads on an emulator.

Spec: IBM PC/AT Technical Reference, "CMOS RAM Address Map"; SeaBIOS, src/hw/rtc.h.
"""

from __future__ import annotations

__all__ = ["BOOT_DEVICES", "firmware_cells"]

BOOT_DEVICES = {"a": 1, "c": 2, "d": 3, "n": 4}
"""Boot devices by letter: floppy, hard disk, CD-ROM, network."""

_KIB, _MIB = 1 << 10, 1 << 20
_BLOCK = 64 * _KIB
_BASE_MEMORY = 640 * _KIB
_EQUIPMENT = 0x06
"""A mathematics coprocessor and a pointing device; no floppy drive."""
_CHECKED = range(0x10, 0x2E)


def firmware_cells(
    *, memory_below_4g: int, memory_above_4g: int, cpus: int, boot_order: str
) -> dict[int, int]:
    """Return the cells (index to byte) for sizes in bytes and boot devices in order, as letters.

    A size that its cells cannot express is given as the largest that they can.

    Raises:
        ValueError: a boot device is unknown, or there are more than three.
    """
    unknown = sorted(set(boot_order) - set(BOOT_DEVICES))
    if unknown or len(boot_order) > 3:
        raise ValueError(f"boot order {boot_order!r}: up to three of {', '.join(BOOT_DEVICES)}")
    extended = max(0, memory_below_4g - _MIB) // _KIB
    above_16m = max(0, memory_below_4g - 16 * _MIB) // _BLOCK
    first, second, third = (*(BOOT_DEVICES[letter] for letter in boot_order), 0, 0, 0)[:3]
    cells = {
        0x14: _EQUIPMENT,
        0x38: third << 4,
        0x3D: second << 4 | first,
        0x5F: min(max(cpus, 1), 256) - 1,
    }
    cells |= _little(0x15, 2, min(memory_below_4g, _BASE_MEMORY) // _KIB)
    cells |= _little(0x17, 2, extended)
    cells |= _little(0x30, 2, extended)
    cells |= _little(0x34, 2, above_16m)
    cells |= _little(0x5B, 3, memory_above_4g // _BLOCK)
    checksum = sum(cells.get(index, 0) for index in _CHECKED)
    return cells | {0x2E: checksum >> 8 & 0xFF, 0x2F: checksum & 0xFF}


def _little(index: int, count: int, value: int) -> dict[int, int]:
    """Spread a value over `count` cells, lowest byte first, cut off at the largest."""
    data = min(value, (1 << 8 * count) - 1).to_bytes(count, "little")
    return {index + n: byte for n, byte in enumerate(data)}
