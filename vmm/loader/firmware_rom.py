"""Firmware: a ROM image that ends at 4 GiB and is entered at the reset vector.

A PC's chipset also shows the last 128 KiB of the ROM below 1 MiB, where real-mode code reaches
it: firmware jumps from the reset vector to F000:E05B. There it is a copy in RAM, which is what
the firmware makes of it anyhow when it shadows itself (SeaBIOS writes to its copy at 0xF0000).

Spec: Intel SDM vol. 3, First Instruction Executed; QEMU's pc machine for the copy's size.
"""

from __future__ import annotations

from vmm.errors import BootError
from vmm.layout import FOUR_GIB, PAGE_SIZE
from vmm.loader.placement import Placement
from vmm.loader.plan import BootOptions, BootPlan, Rom, Start

__all__ = ["MAX_SIZE", "looks_like_rom", "plan"]

MAX_SIZE = 16 << 20
"""The largest ROM: below 4 GiB - 16 MiB lie the local APICs."""

_SHADOW_END = 0x100000
_SHADOW_SIZE = 128 << 10
_RESET_VECTOR = 16
"""How many bytes before its end a ROM is entered."""
_JUMPS = (0xE9, 0xEA, 0xEB)
_BEFORE_JUMP = (0x90, 0xFA, 0xFC)
"""NOP (OVMF has two), CLI and CLD may come before the jump."""


def looks_like_rom(image: memoryview) -> bool:
    """Say whether the image has a ROM's size and a jump at the reset vector."""
    if not _fits(image):
        return False
    for opcode in image[-_RESET_VECTOR:]:
        if opcode in _JUMPS:
            return True
        if opcode not in _BEFORE_JUMP:
            return False
    return False


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a ROM image.

    Raises:
        BootError: its size is not a multiple of 4 KiB up to 16 MiB, or memory is in its place.
    """
    if not _fits(image):
        raise BootError(
            f"{options.name}: not a firmware image: {len(image)} bytes, expected a multiple of "
            f"{PAGE_SIZE} up to {MAX_SIZE}"
        )
    rom = Rom(FOUR_GIB - len(image), image, "firmware")
    if any(rom.gpa < r.end and r.start < FOUR_GIB for r in options.layout.ranges):
        raise BootError(
            f"{options.name}: memory is where the firmware belongs ({rom.gpa:#x}..{FOUR_GIB:#x})"
        )
    roms = [rom]
    placement = Placement(options, start_tables=False)
    shadow = image[-_SHADOW_SIZE:]
    shadow_start = _SHADOW_END - len(shadow)
    if options.layout.low_end <= shadow_start:
        roms.append(Rom(shadow_start, shadow, "firmware below 1 MiB"))
    else:
        placement.put(shadow_start, shadow, "firmware below 1 MiB")
    return BootPlan("firmware", Start("reset"), placement.writes, tuple(roms))


def _fits(image: memoryview) -> bool:
    return 0 < len(image) <= MAX_SIZE and len(image) % PAGE_SIZE == 0
