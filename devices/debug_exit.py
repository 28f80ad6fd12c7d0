"""QEMU's isa-debug-exit: a write ends the run, and its value is the verdict.

Modelled: the four ports from 0xF4 as test kernels use them (kvm-unit-tests, the Rust OS
tutorials), written 1, 2 or 4 bytes wide. The device hands on the value as written; that the exit
status is `(value << 1 | 1) & 0xff` is the machine's business. Reads return 0.

Spec: QEMU, hw/misc/debugexit.c.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable
from devices.states import require

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORTS", "DebugExit", "DebugExitState"]

PORTS = range(0xF4, 0xF8)

REGISTERS = RegisterTable(
    Register("CODE", 0, size=4, doc="A write of any width ends the run with its value."),
)


def _ignore(code: int) -> None:
    """Take a verdict that nobody waits for."""


class DebugExitState(Record):
    """A debug-exit port has nothing to remember."""

    kind: ClassVar[str] = "debug-exit"
    version: ClassVar[int] = 1


class DebugExit(RegisterDevice):
    """Calls `on_exit` with the value (32 bits at most) of each write."""

    registers = REGISTERS

    def __init__(
        self, name: str = "debug-exit", *, on_exit: Callable[[int], None] = _ignore
    ) -> None:
        super().__init__(name)
        self._on_exit = on_exit

    def write(self, offset: int, size: int, value: int) -> None:
        """Report the value written, whichever of the four ports it was written to."""
        if offset < len(PORTS):
            self._on_exit(value & 0xFFFF_FFFF)

    def save(self) -> DebugExitState:
        """Return the (empty) state."""
        return DebugExitState()

    def load(self, state: State) -> None:
        """Accept a debug-exit port's state.

        Raises:
            StateError: it is another device's.
        """
        require(state, DebugExitState)
