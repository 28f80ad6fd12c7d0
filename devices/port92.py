"""System control port A, at 0x92: the fast way to open A20 and to reset the processor.

Modelled: the A20 bit and the reset bit, which acts when it goes from 0 to 1. It starts with A20
open, which is how firmware leaves it. Left out: the disk lights and the password lock, whose bits
are kept and do nothing.

Spec: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
"""

from __future__ import annotations

from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.wiring import Signal, no_signal

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORT", "Port92", "Port92State"]

PORT = 0x92

CONTROL = Register(
    "CONTROL",
    0,
    reset=0x02,
    fields=bits(INIT=0, A20=1, LOCK=3, WATCHDOG=4, LIGHT=(7, 6)),
)
REGISTERS = RegisterTable(CONTROL)

_INIT, _A20 = CONTROL.mask("INIT"), CONTROL.mask("A20")


class Port92State(Record):
    """The port's bits."""

    kind: ClassVar[str] = "port92"
    version: ClassVar[int] = 1

    control: int


def _ignore(level: bool) -> None:
    """Take an A20 level that nobody wants."""


class Port92(RegisterDevice):
    """The port. `on_a20` is told each change of its A20 bit; `on_reset` resets the processor."""

    registers = REGISTERS

    def __init__(
        self,
        name: str = "port92",
        *,
        on_a20: Callable[[bool], None] = _ignore,
        on_reset: Signal = no_signal,
    ) -> None:
        super().__init__(name)
        self._on_a20 = on_a20
        self._on_reset = on_reset

    @property
    def a20(self) -> bool:
        """Whether the port opens the A20 gate."""
        return bool(self.values["CONTROL"] & _A20)

    def write_CONTROL(self, value: int) -> None:
        """Keep the bits; act on those that change."""
        before = self._keep(value)
        if value & ~before & _INIT:
            self._on_reset()

    def reset(self) -> None:
        """Open A20 and clear the other bits."""
        self._keep(CONTROL.reset)

    def _keep(self, value: int) -> int:
        """Set the bits, tell a change of A20, and return what they were."""
        before = self.values["CONTROL"]
        self.values["CONTROL"] = value
        if (value ^ before) & _A20:
            self._on_a20(self.a20)
        return before

    def save(self) -> Port92State:
        """Return the bits."""
        return Port92State(control=self.values["CONTROL"])

    def load(self, state: State) -> None:
        """Take over the bits and the A20 gate; a reset bit that is set resets nothing.

        Raises:
            StateError: it is another device's, or not a byte.
        """
        state = require(state, Port92State)
        require_unsigned(state, control=8)
        self._keep(state.control)
