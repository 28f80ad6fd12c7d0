"""The errors that a user meets: one line each, saying what is wrong and what to do.

Everything raised on purpose derives from `VmmError`; the command prints its text after
"vmm: " and ends with its `status`. Statuses are even, so that they never meet the odd ones of
the debug-exit convention.
"""

from __future__ import annotations

from enum import IntEnum

from devices.wiring import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from devices.protocols import Device
    from vmm.exits import Exit

    FaultChoice: TypeAlias = Literal["retry", "skip", "raise"]
    """What becomes of an access whose device raised: it is made once more, it is dropped (a read is
answered with all ones), or the machine fails."""
else:
    FaultChoice = str

__all__ = [
    "BootError",
    "ConfigError",
    "DeviceFault",
    "ExitStatus",
    "FaultChoice",
    "GuestMemoryError",
    "KvmUnavailable",
    "LifecycleError",
    "MappingOverlap",
    "SnapshotError",
    "TraceError",
    "VmmError",
]


class ExitStatus(IntEnum):
    """What `vmm run` ends with, where the guest did not choose a status itself."""

    OK = 0
    USAGE = 2
    NO_KVM = 4
    GUEST_DIED = 6
    VMM_FAULT = 8
    TIMEOUT = 124
    INTERRUPTED = 130


class VmmError(Exception):
    """An error with a message for the user. `status` is what the command ends with."""

    status: ExitStatus = ExitStatus.USAGE


class ConfigError(VmmError):
    """A machine was asked for that cannot be: a size, a count or a name is wrong."""


class BootError(VmmError):
    """An image cannot be booted as asked: unreadable, malformed, too large."""


class MappingOverlap(ConfigError):
    """Two devices, or two regions of memory, claim the same addresses."""


class GuestMemoryError(VmmError, GuestAddressError):
    """An address given to `Machine.memory` is not in guest memory."""


class TraceError(VmmError):
    """A trace cannot be read, or holds nothing of what was asked for."""


class SnapshotError(VmmError):
    """A snapshot cannot be taken, read, or put back here."""


class LifecycleError(VmmError):
    """A machine or vCPU was asked for something that its state does not allow."""

    status = ExitStatus.VMM_FAULT


class DeviceFault(VmmError):
    """A device model (or a user's function on a port) raised: a fault of ours, not the guest's.

    What it raised is the `__cause__`.
    """

    status = ExitStatus.VMM_FAULT
    device: Device | None = None
    """The device, where one was at that address."""
    access: Exit | None = None
    """What the guest wanted of it, where that is known; what is read is not answered yet."""


class KvmUnavailable(VmmError):
    """KVM cannot be used here; the message says why and how to mend it."""

    status = ExitStatus.NO_KVM
