"""Reading the files that a machine boots: images and modules.

A file of 1 MiB and more is mapped and not read, so that a large disk image costs no memory. Who
cuts such a file short while the machine starts gets what any user of mmap gets, a SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import stat

from vmm.errors import BootError
from vmm.loader.plan import Module

__all__ = ["MAP_FROM_BYTES", "read_file", "read_module"]

MAP_FROM_BYTES = 1 << 20

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def read_file(path: str | os.PathLike[str]) -> bytes | memoryview:
    """Return the contents of an image or module file, read-only.

    Raises:
        BootError: it is missing, not readable, not a regular file, or empty.
    """
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:
        raise BootError(f"{name!r}: not a file name: it has a NUL character inside") from None
    except OSError as error:
        raise BootError(f"{name}: {_reason(error)}") from None
    try:
        status = os.fstat(fd)
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise BootError(f"{name}: {kind}, not a file to boot from")
        if status.st_size == 0:
            raise BootError(f"{name}: the file is empty")
        if status.st_size >= MAP_FROM_BYTES:
            return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise BootError(f"{name}: {_reason(error)}") from None
    finally:
        os.close(fd)


def read_module(text: str) -> Module:
    """Read a module given as on the command line: `FILE` or `FILE ARGUMENTS`.

    Raises:
        BootError: the file cannot be read (as `read_file`).
    """
    path, _, arguments = text.strip().partition(" ")
    return Module(path, read_file(path), arguments.strip())


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return error.strerror or str(error)
