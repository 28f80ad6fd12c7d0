"""What a replay found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Difference", "ReplayResult"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a device first did something else than in the recording."""

    device: str
    access: int
    """The number of the access, from 1, over all devices; where the host called the device, that
    of the last one before."""
    what: str
    """"read of com1 LSR (port 0x3fd)", "receive(b'a') of com1"."""
    recorded: str
    replayed: str
    exit: int | None
    """The exit that was being handled, counted from 1 on its vCPU; None for a call from another
    thread of the host's."""
    vcpu: int | None
    seconds: float
    """When, counted from the recording's beginning."""

    def __str__(self) -> str:
        who = f"exit {self.exit:,}" if self.exit is not None else "between exits"
        if self.vcpu:
            who += f" of vCPU {self.vcpu}"
        return (
            f"access {self.access:,} ({who}, at {self.seconds:.6f} s): {self.what}: "
            f"recorded {self.recorded}, replayed {self.replayed}"
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """How a replay went."""

    accesses: int
    """Accesses that were replayed."""
    calls: int
    """Calls of the host's that were replayed: input, timers, the making of devices."""
    outward: int
    """What the devices did meanwhile, all of it as recorded: interrupt lines, bytes sent, times
    and memory asked for."""
    difference: Difference | None = None
    """The first; None where there is none."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Accesses to devices that were not replayed, by name: those that the machine did not make
    (functions on ports, classes of the user's, the Python BIOS), or that were not asked for."""
    complete: bool = True
    """The recording was closed in good order. Where it was not, its last entries are missing."""

    @property
    def identical(self) -> bool:
        """Whether every device did as recorded, as far as the recording goes."""
        return self.difference is None

    def __str__(self) -> str:
        if self.difference is not None:
            return str(self.difference)
        return (
            f"{self.accesses:,} accesses and {self.calls:,} calls replayed, "
            f"{self.outward:,} calls of the devices compared: identical"
        )
