"""Mapping a file over memory that is mapped already, which Python's mmap cannot, and what of such a
private mapping is the process's own.

Spec: mmap(2); the kernel's "pagemap, from the userspace perspective".
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["has_private_pages", "map_over", "private_pages"]

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
"""A gigabyte of copies that are never made needs no swap for them."""
_PAGE = 4096
_SWAPPED = 1 << 62
_PRESENT = 1 << 63
_OF_A_FILE = 1 << 61
_ENTRIES = 1 << 16
_NOTHING = bytes(8 * _ENTRIES)
_FAILED = ctypes.c_void_p(-1).value


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    return libc


def map_over(address: int, size: int, fd: int, offset: int, *, shared: bool = False) -> None:
    """Map `size` bytes of a file privately, or `shared`, at `address`, over what is mapped there.

    Raises:
        OSError: the host refuses; what was mapped there may be gone.

    Spec: mmap(2), MAP_FIXED, MAP_PRIVATE and MAP_SHARED.
    """
    libc = _libc()
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    arguments = (
        *(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE),
        *(kind | _MAP_FIXED | _MAP_NORESERVE, fd, ctypes.c_int64(offset)),
    )
    if libc.mmap(*arguments) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def private_pages(address: int, size: int) -> Iterator[tuple[int, int]]:
    """The pages of a private mapping that were written, as ranges of offsets in it; all of it where
    the host does not say."""
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a sandbox without /proc
        yield 0, size
        return
    try:
        first, count = address // _PAGE, size // _PAGE
        for chunk in range(0, count, _ENTRIES):
            data = os.pread(pagemap, 8 * min(_ENTRIES, count - chunk), 8 * (first + chunk))
            if data == _NOTHING[: len(data)]:
                continue
            for number, (entry,) in enumerate(struct.iter_unpack("<Q", data)):
                if entry & _SWAPPED or entry & (_PRESENT | _OF_A_FILE) == _PRESENT:
                    at = (chunk + number) * _PAGE
                    yield at, at + _PAGE
    finally:
        os.close(pagemap)


def has_private_pages(address: int, size: int) -> bool:
    """Say whether any page of a private mapping was written."""
    return next(private_pages(address, size), None) is not None
