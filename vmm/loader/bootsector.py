"""A boot sector: the first 512 bytes of a disk, run as a PC's BIOS runs them.

The sector lies at 0x7C00 and starts in real mode with the boot drive in DL. The image is also
the disk that the BIOS services read; attaching it is the machine's part.

Spec: BIOS Boot Specification 1.01 (a boot sector runs at 0000:7C00 with its drive in DL).
"""

from __future__ import annotations

from vmm.errors import BootError
from vmm.loader.placement import Placement
from vmm.loader.plan import BootOptions, BootPlan, Start

__all__ = ["SECTOR_SIZE", "check_signature", "has_signature", "plan"]

SECTOR_SIZE = 512
_LOAD_ADDR = 0x7C00
_SIGNATURE = b"\x55\xaa"
_SIGNATURE_OFFSET = 510
_BIOS_START = 0xF0000
_BIOS_SIZE = 0x10000


def has_signature(image: memoryview) -> bool:
    """Say whether the image starts with a sector that ends in 55 AA."""
    return image[_SIGNATURE_OFFSET:SECTOR_SIZE] == _SIGNATURE


def check_signature(image: memoryview, name: str) -> None:
    """Refuse an image that does not start with a boot sector.

    Raises:
        BootError: it is shorter than a sector, or the sector does not end in 55 AA.
    """
    if len(image) < SECTOR_SIZE:
        raise BootError(
            f"{name}: not a boot sector: {len(image)} bytes, expected at least {SECTOR_SIZE}; "
            "use --format flat16 to run it anyway"
        )
    if not has_signature(image):
        found = bytes(image[_SIGNATURE_OFFSET:SECTOR_SIZE]).hex(" ")
        raise BootError(
            f"{name}: not a boot sector: bytes 510..511 are {found}, expected 55 aa; "
            "use --format flat16 to run it anyway"
        )


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a boot sector.

    The stack starts at 0000:7C00 and grows down, away from the code: sectors that set none of
    their own rely on one.

    Raises:
        BootError: it is not a boot sector, or memory does not reach up to the BIOS at 1 MiB.
    """
    check_signature(image, options.name)
    if not options.layout.contains(_BIOS_START, _BIOS_SIZE):
        raise BootError(
            f"{options.name}: a boot sector needs the BIOS below 1 MiB, and memory ends at "
            f"{options.layout.low_end:#x}; use --memory 1M or more"
        )
    placement = Placement(options, start_tables=False)
    placement.put(_LOAD_ADDR, image[:SECTOR_SIZE], "boot sector")
    registers = {"rdx": options.boot_drive, "rsp": _LOAD_ADDR}
    start = Start("real", _LOAD_ADDR, registers=registers, segment=0)
    return BootPlan("bootsector", start, placement.writes, bios=True)
