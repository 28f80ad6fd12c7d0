"""The host's end of persistent memory: a file that is mapped into the guest's address space.

What the guest writes is in the file's page cache at once, and on the disk when it is flushed. The
file must not become shorter while it is mapped: an access behind its end would end this process.

Spec: mmap(2), fsync(2); the kernel's "pagemap, from the userspace perspective".
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping

from vmm.errors import ConfigError
from vmm.mapping import private_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.host.disk import DiskAccess
    from vmm.memory import Region

__all__ = ["ALIGNMENT", "PmemFile"]

ALIGNMENT = 2 << 20
"""What the guest's huge pages need, and Linux's driver asks for."""


class PmemFile:
    """A file to be mapped.

    Args:
        path: the file.
        access: read-only; writable; or private: what is written stays in memory.

    Raises:
        ConfigError: it cannot be opened as asked, or has no whole number of 2 MiB.
    """

    def __init__(self, path: str, access: DiskAccess = "writable") -> None:
        self.path, self.access = path, access
        self.region: Region | None = None
        """Where it is mapped, once it is."""
        self.fd = -1
        flags = os.O_RDWR if access == "writable" else os.O_RDONLY
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
            self.fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self.fd)
        except (OSError, ValueError) as error:
            self.close()
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"--pmem {path}: {why}") from None
        self.size = status.st_size
        """In bytes."""
        if not stat.S_ISREG(status.st_mode) or not self.size or self.size % ALIGNMENT:
            self.close()
            raise ConfigError(
                f"--pmem {path}: wants a file of a multiple of 2M; 'truncate -s %2M {path}' makes "
                "it one"
            )

    def flush(self) -> None:
        """Make durable what was written.

        Raises:
            OSError: the host could not.
        """
        if self.access == "writable":
            os.fsync(self.fd)

    def save(self) -> dict[str, Any]:
        """The file's size, and what was written privately, as JSON has it. What was written to
        the file is in the file."""
        written: dict[str, str] = {}
        region = self.region
        if self.access == "private" and region is not None:
            for start, end in private_pages(region.hva, region.size):
                written[str(start)] = region.view[start:end].hex()
        return {"size": self.size, "written": written}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over what `save` gave, and forget what was written privately since.

        Raises:
            ValueError: it was another file.
        """
        region = self.region
        if saved["size"] != self.size or region is None:
            raise ValueError(f"{self.path} has {self.size} bytes and had {saved['size']}")
        if self.access == "private":
            region.map.madvise(mmap.MADV_DONTNEED)
        for start, data in saved["written"].items():
            piece = bytes.fromhex(data)
            region.view[int(start) : int(start) + len(piece)] = piece

    def close(self) -> None:
        """Close the file; its mapping stays. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
