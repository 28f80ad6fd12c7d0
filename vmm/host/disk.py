"""A disk in a file: 512-byte sectors of a raw image, read and written in place.

A disk can be read-only, writable, or private: then what the guest writes is kept in memory and
the file stays as it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Any, Literal, Self

from firmware.bios_rom import DriveGeometry
from vmm.errors import ConfigError

__all__ = [
    "SECTOR_SIZE",
    "DiskAccess",
    "DiskImage",
    "floppy_geometry",
    "hard_disk_geometry",
]

SECTOR_SIZE = 512

DiskAccess = Literal["read-only", "writable", "private"]

# Cylinders, heads and sectors per track of floppy formats, by their size in sectors.
_FLOPPIES = {
    c * h * s: DriveGeometry(c, h, s)
    for c, h, s in (
        (40, 1, 8),  # 160 KB
        (40, 1, 9),  # 180 KB
        (40, 2, 8),  # 320 KB
        (40, 2, 9),  # 360 KB
        (80, 2, 9),  # 720 KB
        (80, 2, 15),  # 1.2 MB
        (80, 2, 18),  # 1.44 MB
        (80, 2, 21),  # 1.68 MB
        (80, 2, 36),  # 2.88 MB
    )
}
_USUAL_FLOPPY = DriveGeometry(80, 2, 18)
_TRACK = 63
_CYLINDERS = 1024


def floppy_geometry(sectors: int) -> DriveGeometry:
    """Return the floppy format of an image: by its size, 1.44 MB where the size is none of them.

    A boot sector with a few sectors behind it is taken for the start of a 1.44 MB floppy.
    """
    exact = _FLOPPIES.get(sectors)
    if exact is not None or sectors <= 2880:
        return exact or _USUAL_FLOPPY
    return _FLOPPIES[5760]


def hard_disk_geometry(sectors: int) -> DriveGeometry:
    """Return the shape that BIOSes give a hard disk of that size (LBA-assisted translation).

    63 sectors a track, and as few of 16, 32, 64, 128 or 255 heads as keep it to 1,024 cylinders.
    """
    for heads in (16, 32, 64, 128, 255):
        cylinders = sectors // (heads * _TRACK)
        if cylinders <= _CYLINDERS:
            break
    return DriveGeometry(min(max(cylinders, 1), _CYLINDERS), heads, _TRACK)


class DiskImage:
    """A raw image file as a disk. Its size is the file's, rounded up to whole sectors.

    Raises:
        ConfigError: the file cannot be opened as asked, is empty, or is no file or disk.
    """

    def __init__(self, path: str | Path, *, access: DiskAccess = "private") -> None:
        self.path = Path(path)
        self.access = access
        self._overlay: dict[int, bytes] = {}
        self._fd = -1
        flags = os.O_RDWR if access == "writable" else os.O_RDONLY
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            size = self._size()
        except (OSError, ValueError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            refused = access == "writable" and getattr(error, "errno", 0) in (EACCES, EPERM, EROFS)
            hint = "; attach it read-only (:ro) or private (:cow)" if refused else ""
            raise ConfigError(f"{path}: cannot open the disk image: {reason}{hint}") from error
        if size == 0:
            self.close()
            raise ConfigError(f"{path}: the disk image is empty")
        self.sectors = -(-size // SECTOR_SIZE)
        self.geometry = hard_disk_geometry(self.sectors)
        self.floppy_geometry = floppy_geometry(self.sectors)

    @property
    def size_bytes(self) -> int:
        """The disk's size."""
        return self.sectors * SECTOR_SIZE

    @property
    def read_only(self) -> bool:
        """Writing is refused."""
        return self.access == "read-only"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing. What was written privately is gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._overlay.clear()

    def save(self) -> dict[str, Any]:
        """The disk's size, and what was written privately, as JSON has it. What was written to
        the file is in the file."""
        overlay = {str(lba): data.hex() for lba, data in self._overlay.items()}
        return {"sectors": self.sectors, "overlay": overlay}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over what `save` gave.

        Raises:
            ValueError: this is another disk.
        """
        if saved["sectors"] != self.sectors:
            raise ValueError(f"{self.path} has {self.sectors} sectors and had {saved['sectors']}")
        self._overlay.clear()
        for lba, data in saved["overlay"].items():
            self.write(int(lba), bytes.fromhex(data))

    def flush(self) -> None:
        """Make the file's contents durable.

        Raises:
            OSError: the host could not.
        """
        if self.access == "writable":
            os.fdatasync(self._fd)

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from sector `lba`. The file's last sector is filled with zeros.

        Raises:
            OSError: the host could not read.
            ValueError: the range is not on the disk.
        """
        self._check(lba, count)
        size = count * SECTOR_SIZE
        data = bytearray(size)
        done = 0
        view = memoryview(data)
        while done < size:
            got = os.preadv(self._fd, [view[done:]], lba * SECTOR_SIZE + done)
            if got == 0:
                break
            done += got
        if self._overlay:
            for index in range(count):
                kept = self._overlay.get(lba + index)
                if kept is not None:
                    data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE] = kept
        return bytes(data)

    def write(self, lba: int, data: bytes | bytearray | memoryview) -> None:
        """Write whole sectors from sector `lba`.

        Raises:
            OSError: the host could not write.
            PermissionError: the disk is read-only.
            ValueError: the range is not on the disk, or the data is no whole sectors.
        """
        view = memoryview(data).cast("B")
        if len(view) % SECTOR_SIZE:
            raise ValueError(f"{len(view)} bytes are no whole sectors")
        self._check(lba, len(view) // SECTOR_SIZE)
        if self.access == "read-only":
            raise PermissionError(f"{self.path}: the disk is read-only")
        if self.access == "private":
            for index in range(0, len(view), SECTOR_SIZE):
                self._overlay[lba + index // SECTOR_SIZE] = bytes(view[index : index + SECTOR_SIZE])
            return
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], lba * SECTOR_SIZE + done)

    def _check(self, lba: int, count: int) -> None:
        if lba < 0 or count < 0 or lba + count > self.sectors:
            raise ValueError(f"sectors {lba} to {lba + count - 1} are not on the disk")

    def _size(self) -> int:
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise ValueError("not a file or a disk")
        return os.lseek(self._fd, 0, os.SEEK_END)
