"""Persistent memory: from what `--pmem` says to a file in the guest's address space.

--pmem FILE[,readonly]

The file is storage, as a disk's is, and no part of the guest's RAM: a snapshot has what was written
privately and not what is in the file, and a machine out of a snapshot, or a fork, has it privately.
"""

from __future__ import annotations

import os

from devices.virtio.pmem import Pmem
from vmm.errors import ConfigError
from vmm.host.pmem_file import PmemFile
from vmm.layout import FOUR_GIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.host.disk import DiskAccess
    from vmm.machine import Machine
    from vmm.memory import GuestMemory
    from vmm.virtio.place import VirtioPlace

__all__ = ["FilePmem", "add_pmem"]

_READONLY = ",readonly"
_SECTION = 128 << 20
"""Linux manages memory by sections of this size; one that is shared with RAM costs it more."""


class FilePmem(Pmem):
    """Persistent memory that is a file's."""

    def __init__(self, start: int, file: PmemFile) -> None:
        super().__init__(start, file.size, file.flush)
        self.disk = file
        """What holds the data."""


def add_pmem(
    machine: Machine, text: str, *, private: bool = False, folder: str = ""
) -> VirtioPlace:
    """Give a machine persistent memory; the first is /dev/pmem0 to Linux.

    Args:
        machine: whose.
        text: what stands behind `--pmem`. What the guest writes to a file that is read-only
            goes nowhere.
        private: what the guest writes is kept for this machine only.
        folder: what a relative name is relative to; the current one unless given.

    Raises:
        ConfigError: the file cannot be had.
    """
    access: DiskAccess = "private" if private else "writable"
    if text.endswith(_READONLY):
        text, access = text.removesuffix(_READONLY), "read-only"
    file = PmemFile(os.path.join(folder, text), access)
    machine.closers.append(file.close)
    start = _behind(machine.memory)
    try:
        file.region = machine.memory.add_file(start, file.fd, file.size, access)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--pmem {text}: cannot be mapped: {error}") from None
    machine.hardware.map_new_regions()
    return machine.add_virtio(FilePmem(start, file))


def _behind(memory: GuestMemory) -> int:
    """The first address above 4 GiB and behind all memory."""
    end = max(FOUR_GIB, *(region.end for region in memory))
    return -(-end // _SECTION) * _SECTION
