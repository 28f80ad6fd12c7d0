"""What a machine is made with, and which of it cannot be."""

from __future__ import annotations

from devices.records import Record
from vmm.errors import ConfigError
from vmm.layout import MemoryLayout

__all__ = ["MachineConfig"]

_MOST_CPUS = 255


class MachineConfig(Record):
    """What a machine is made of, in values that JSON has; `vmm.Machine` says what they mean."""

    memory: int
    cpus: int
    irqchip: bool
    cpu: str
    strict: bool
    huge_pages: bool
    debug_exit: int | None

    def layout(self) -> MemoryLayout:
        """Where RAM lies, if such a machine can be.

        Raises:
            ConfigError: it cannot.
        """
        layout = MemoryLayout.for_size(self.memory)
        if self.cpus < 1:
            raise ConfigError(f"{self.cpus} vCPUs: a machine needs at least one")
        if self.cpus > _MOST_CPUS:
            raise ConfigError(
                f"{self.cpus} vCPUs: a machine has {_MOST_CPUS} at most, since the number of a "
                "local APIC has 8 bits"
            )
        if self.cpus > 1 and not self.irqchip:
            raise ConfigError(
                f"{self.cpus} vCPUs need irqchip=True (--irqchip on): the others are started by "
                "INIT and SIPI, which the local APIC delivers"
            )
        return layout
