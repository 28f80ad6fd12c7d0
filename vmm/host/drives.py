"""Which disk has which BIOS drive number, and how it may be written to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vmm.errors import ConfigError
from vmm.host.disk import DiskAccess, DiskImage
from vmm.host.disk_formats import image_format

__all__ = ["open_drives", "parse_disk"]

_ACCESS: dict[str, DiskAccess] = {"ro": "read-only", "cow": "private", "rw": "writable"}
_FIRST_HARD_DISK = 0x80
_MOST_HARD_DISKS = 8


def parse_disk(text: str) -> tuple[str, DiskAccess]:
    """Read `FILE`, `FILE:ro`, `FILE:cow` or `FILE:rw` (which is what FILE alone means)."""
    path, colon, suffix = text.rpartition(":")
    if colon and path and suffix in _ACCESS:
        return path, _ACCESS[suffix]
    return text, "writable"


def open_drives(
    boot: str | Path | None, number: int, others: Sequence[str], *, private: bool = False
) -> dict[int, DiskImage]:
    """Open the boot image as drive `number`, and the others as the hard disks after it.

    The boot image is written to where its file allows it; where it does not, what the guest
    writes is kept for the run and then forgotten. With `private` that is so for all of them.

    Raises:
        ConfigError: a file cannot be opened, or there are more than eight hard disks.
    """
    drives: dict[int, DiskImage] = {}
    try:
        if boot is not None:
            access: DiskAccess = "private"
            if not private and os.access(boot, os.W_OK):
                access = "writable"
            drives[number] = DiskImage(boot, access=access)
        free = [
            n
            for n in range(_FIRST_HARD_DISK, _FIRST_HARD_DISK + _MOST_HARD_DISKS)
            if n not in drives
        ]
        if len(others) > len(free):
            raise ConfigError(f"{len(others)} disks: the BIOS has numbers for {len(free)} more")
        for text, drive in zip(others, free, strict=False):
            path, chosen = parse_disk(text)
            found = image_format(path)
            if found != "raw":
                raise ConfigError(f"{path}: a {found} image; BIOS services read raw images only")
            if private and chosen == "writable":
                chosen = "private"
            drives[drive] = DiskImage(path, access=chosen)
    except BaseException:
        for disk in drives.values():
            disk.close()
        raise
    return drives
