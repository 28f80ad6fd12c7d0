"""QEMU's pvpanic on the ISA bus: the kernel of a guest says that it has panicked.

Modelled: the one port, which tells by the bits that it reads as what may be reported, and takes
reports. PANICKED is the end of the guest; CRASH_LOADED says that it handles the panic itself, by
a crash kernel that was loaded for that. Where both are set the first counts, as in QEMU. Left out:
a regular shutdown (bit 2), which ACPI's soft-off tells already, so that it does not read as
supported; what is written of bits that are not supported does nothing.

Spec: QEMU, docs/specs/pvpanic.rst; Linux, include/uapi/misc/pvpanic.h.
"""

from __future__ import annotations

from devices.pc_ports import PVPANIC_PORT as PORT
from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.states import require
from devices.wiring import Signal, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORT", "PvPanic", "PvPanicState"]

EVENT = Register(
    "EVENT",
    0,
    reset=0x03,
    writable=0,
    fields=bits(PANICKED=0, CRASH_LOADED=1),
    doc="Reads as what may be reported; a write reports it.",
)
REGISTERS = RegisterTable(EVENT)

PANICKED = EVENT.mask("PANICKED")
CRASH_LOADED = EVENT.mask("CRASH_LOADED")


class PvPanicState(Record):
    """The port has nothing to remember."""

    kind: ClassVar[str] = "pvpanic"
    version: ClassVar[int] = 1


class PvPanic(RegisterDevice):
    """Calls `on_panicked` where the guest has panicked, `on_crash_loaded` where its crash kernel
    takes over."""

    registers = REGISTERS

    def __init__(
        self,
        name: str = "pvpanic",
        *,
        on_panicked: Signal = no_signal,
        on_crash_loaded: Signal = no_signal,
    ) -> None:
        super().__init__(name)
        self._on_panicked = on_panicked
        self._on_crash_loaded = on_crash_loaded

    def write_EVENT(self, value: int) -> None:
        """Report an event."""
        if value & PANICKED:
            self._on_panicked()
        elif value & CRASH_LOADED:
            self._on_crash_loaded()

    def save(self) -> PvPanicState:
        """Return the (empty) state."""
        return PvPanicState()

    def load(self, state: State) -> None:
        """Accept a pvpanic's state.

        Raises:
            StateError: it is another device's.
        """
        require(state, PvPanicState)
