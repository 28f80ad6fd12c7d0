"""Mapping a file over memory that is mapped already, which Python's mmap cannot."""

from __future__ import annotations

import ctypes
import mmap
import os

__all__ = ["map_over"]

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
"""A gigabyte of copies that are never made needs no swap for them."""
_FAILED = ctypes.c_void_p(-1).value


def map_over(address: int, size: int, fd: int, offset: int) -> None:
    """Map `size` bytes of a file privately at `address`, over what is mapped there.

    Raises:
        OSError: the host refuses; what was mapped there may be gone.

    Spec: mmap(2), MAP_FIXED and MAP_PRIVATE.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    arguments = (
        *(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE),
        *(mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE, fd, ctypes.c_int64(offset)),
    )
    if libc.mmap(*arguments) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
