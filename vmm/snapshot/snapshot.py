"""A snapshot: the whole state of a machine, apart from the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType

from vmm.snapshot.chips import VmState
from vmm.snapshot.cpu import VcpuState
from vmm.snapshot.ram import MemoryImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Snapshot"]


class Snapshot:
    """What `Machine.snapshot` takes and `vmm.restore` puts back.

    Any number of machines can be made of one, also after the machine that it was taken of is
    gone. Its memory is held until `close`, or in its file.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any],
        backend: str,
        vcpus: tuple[VcpuState, ...],
        vm: VmState,
        devices: Mapping[str, Mapping[str, Any]],
        others: Mapping[str, Any],
        image: MemoryImage,
        exits: int,
        path: str | None = None,
        digest: str = "",
        trusted: bool = True,
    ) -> None:
        self.settings = settings
        """What the machine was made with, and how it was furnished."""
        self.backend = backend
        """The KVM backend it was taken on."""
        self.vcpus = vcpus
        self.vm = vm
        self.devices = devices
        """The states of devices by name (`vmm.device_states`)."""
        self.others = others
        """What belongs to no device: typed input that waits, the Python BIOS, private disks."""
        self.image = image
        self.exits = exits
        """How many exits the machine had had."""
        self.path = path
        """The file, if it has one."""
        self.digest = digest
        """The file's checksum, by which snapshots that build upon it know it."""
        self.trusted = trusted
        """Whether this process took it: what it names on this host may be run and written to."""

    @property
    def memory_size(self) -> int:
        """Bytes of RAM."""
        size: int = self.settings["memory"]
        return size

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory. Machines that were made of it keep theirs."""
        self.image.close()

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else os.fspath(self.path)
        return f"<Snapshot {where}: {self.memory_size >> 20}M, {len(self.vcpus)} vCPUs>"
