"""The host's end of a virtio disk: a raw image file or a block device.

Data goes straight between the file and the guest's memory. Methods may be called on several threads
at once; the kernel keeps their transfers apart.

Spec: preadv(2), fallocate(2), fdatasync(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vmm.host.disk import SECTOR_SIZE, DiskAccess, DiskImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BlockFile"]

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
"""What a file says whose file system cannot do it."""
_ZEROS = bytes(1 << 20)
_SERIAL_SIZE = 20


class BlockFile(DiskImage):
    """An image as a disk for `devices.virtio.blk.Blk`.

    Args:
        path: the file.
        access: read-only, writable, or private: what is written is kept in memory.
        serial: up to 20 characters that the guest sees; the file's name unless given.

    Raises:
        ConfigError: the file cannot be opened as asked, is empty, or is no file or disk.
    """

    def __init__(
        self, path: str | Path, *, access: DiskAccess = "private", serial: str = ""
    ) -> None:
        super().__init__(path, access=access)
        name = serial or Path(path).name
        self.serial = name.encode("ascii", "replace")[:_SERIAL_SIZE]

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers from byte `offset` on; the file's last sector is filled with zeros.

        Raises:
            OSError: the host could not read.
        """
        size = sum(map(len, buffers))
        done = os.preadv(self._fd, buffers, offset) if buffers else 0
        while done < size:
            rest = _behind(buffers, done)
            got = os.preadv(self._fd, rest, offset + done)
            if not got:  # behind the end of a file that ends within a sector, or was cut off
                for view in rest:
                    view[:] = bytes(len(view))
                break
            done += got
        if self._overlay:
            self._lay_over(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write the buffers from byte `offset` on.

        Raises:
            OSError: the host could not write, or the disk is read-only.
        """
        if self.access != "writable":
            self.write(offset // SECTOR_SIZE, b"".join(buffers))
            return
        size = sum(map(len, buffers))
        done = os.pwritev(self._fd, buffers, offset) if buffers else 0
        while done < size:
            done += os.pwritev(self._fd, _behind(buffers, done), offset + done)

    def discard(self, offset: int, size: int) -> None:
        """Give room in the file back, where the file system can; what is there then is zeros, or
        what was there.

        Raises:
            OSError: the host could not, or the disk is read-only.
        """
        if self.read_only:
            raise PermissionError(errno.EPERM, "the disk is read-only")
        if self.access == "writable" and size:
            self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, size)

    def zero(self, offset: int, size: int, *, unmap: bool) -> None:
        """Make `size` bytes zeros; with `unmap` they take no room, where the file system can.

        Raises:
            OSError: the host could not, or the disk is read-only.
        """
        if self.access == "writable" and size:
            mode = _PUNCH_HOLE if unmap else _ZERO_RANGE
            if self._fallocate(mode | _KEEP_SIZE, offset, size):
                return
        for at in range(offset, offset + size, len(_ZEROS)):
            part = memoryview(_ZEROS)[: min(len(_ZEROS), offset + size - at)]
            self.write_from(at, [part])

    def _fallocate(self, mode: int, offset: int, size: int) -> bool:
        """Say whether the file system could."""
        arguments = (ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(size))
        if not _libc().fallocate(ctypes.c_int(self._fd), *arguments):
            return True
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        raise OSError(number, os.strerror(number))

    def _lay_over(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Put what was written privately over what was read."""
        at = offset
        for view in buffers:
            done = 0
            while done < len(view):
                lba, within = divmod(at + done, SECTOR_SIZE)
                size = min(SECTOR_SIZE - within, len(view) - done)
                kept = self._overlay.get(lba)
                if kept is not None:
                    view[done : done + size] = kept[within : within + size]
                done += size
            at += len(view)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _behind(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """The buffers without their first `done` bytes."""
    for n, view in enumerate(buffers):
        if done < len(view):
            return [view[done:], *buffers[n + 1 :]]
        done -= len(view)
    return []
