"""The debug console of Bochs and QEMU: one port that prints what is written to it.

Modelled: the port at 0xE9 (Bochs, QEMU's isa-debugcon) and, as a second instance, at 0x402
(where SeaBIOS and OVMF write their logs). It reads as 0xE9, which is how SeaBIOS and others find
out that it is there. Left out: nothing; the device has no state.

Spec: Bochs User Manual, "port_e9_hack"; QEMU, hw/char/debugcon.c.
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable
from devices.states import require
from devices.wiring import ByteSink, discard

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORT", "PORT_FIRMWARE", "DebugCon", "DebugConState"]

PORT = 0xE9
"""Where Bochs has it."""

PORT_FIRMWARE = 0x402
"""Where SeaBIOS and OVMF look for it."""

READBACK = 0xE9

REGISTERS = RegisterTable(
    Register("DATA", 0, reset=READBACK, doc="Writes print a byte; reads tell that it is there."),
)

# One object a byte value: a print loop must not build one for each character.
_BYTES = tuple(bytes((value,)) for value in range(256))


class DebugConState(Record):
    """A debug console has nothing to remember."""

    kind: ClassVar[str] = "debugcon"
    version: ClassVar[int] = 1


class DebugCon(RegisterDevice):
    """A debug console that sends its bytes to `out`.

    A write of 2 or 4 bytes sends all of them, lowest first.
    """

    registers = REGISTERS

    def __init__(self, name: str = "debugcon", *, out: ByteSink = discard) -> None:
        super().__init__(name)
        self._out = out

    def write(self, offset: int, size: int, value: int) -> None:
        """Print the byte or bytes written."""
        if offset:
            return
        if size == 1:
            self._out(_BYTES[value & 0xFF])
        else:
            self._out(value.to_bytes(size, "little"))

    def save(self) -> DebugConState:
        """Return the (empty) state."""
        return DebugConState()

    def load(self, state: State) -> None:
        """Accept a debug console's state.

        Raises:
            StateError: it is another device's.
        """
        require(state, DebugConState)
