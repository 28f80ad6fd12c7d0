"""What the tables describe, as values."""

from __future__ import annotations

from collections import namedtuple

__all__ = ["Board", "VirtioSlot"]

VirtioSlot = namedtuple("VirtioSlot", "gpa size gsi")
"""A virtio device's registers, `size` bytes at `gpa`, and its interrupt, an edge of `gsi`."""


class Board(
    namedtuple(
        "Board",
        "cpus ram pm_base sci reset_port reset_value virtio generation_gpa ged_gsi pvpanic_port",
        defaults=((), None, None, None),
    )
):
    """A machine, as far as its tables tell of it.

    `cpus` processors whose APIC ids and UIDs are 0, 1, ...; `ram` is (gpa, size) of each range;
    `pm_base` is the first of the ports of the fixed hardware: PM1a events, PM1a control 4 behind
    it, the timer 8 behind; its interrupt is `sci`. A byte `reset_value` written to `reset_port`
    resets the machine. `virtio` has a `VirtioSlot` for each device. `generation_gpa` is where the
    16 bytes of the generation ID lie, whose change the interrupt `ged_gsi` tells of. A guest that
    panics says so at `pvpanic_port`. The last three are None where there is no such thing.
    """

    __slots__ = ()
