"""System control port B, at 0x61: the gate of timer channel 2, the speaker, the NMI sources.

It serves machines without KVM's timer, which answers this port itself. Modelled: the four control
bits, the refresh toggle that firmware and boot loaders count to wait for microseconds, and the
output of timer channel 2 as far as there is such a timer. Left out: sound, and parity and channel
check errors, which never happen.

Spec: IBM PC/AT Technical Reference, "System Timers", "I/O Port 61h"; Intel 82371AB (PIIX4) data
sheet, "NMISC - NMI Status and Control Register".
"""

from __future__ import annotations

import time
from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.wiring import Clock

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORT", "REFRESH_NS", "Port61", "Port61State"]

PORT = 0x61

REFRESH_NS = 15_085
"""Time from one memory refresh to the next: 18 periods of 1.193182 MHz."""

CONTROL = Register(
    "CONTROL",
    0,
    writable=0x0F,
    fields=bits(
        GATE2=0,
        SPEAKER=1,
        PARITY_OFF=2,
        CHANNEL_OFF=3,
        REFRESH=4,
        OUT2=5,
        CHANNEL_CHECK=6,
        PARITY_CHECK=7,
    ),
)
REGISTERS = RegisterTable(CONTROL)

_GATE2, _REFRESH, _OUT2 = (CONTROL.mask(name) for name in ("GATE2", "REFRESH", "OUT2"))
_KEPT = 0x0F


class Port61State(Record):
    """The four bits that a guest writes."""

    kind: ClassVar[str] = "port61"
    version: ClassVar[int] = 1

    control: int


def _no_gate(level: bool) -> None:
    """Drive the gate of a timer that is not there."""


def _no_output() -> bool:
    """Read the output of a timer that is not there: high, as a line at rest.

    It must not be low: firmware that measures the processor's speed waits for it to rise.
    """
    return True


class Port61(RegisterDevice):
    """The port, with `clock` (nanoseconds) behind the refresh toggle.

    `pit_gate` is told each change of channel 2's gate, `pit_output` is asked for its output.
    """

    registers = REGISTERS

    def __init__(
        self,
        name: str = "port61",
        *,
        clock: Clock = time.monotonic_ns,
        pit_gate: Callable[[bool], None] = _no_gate,
        pit_output: Callable[[], bool] = _no_output,
    ) -> None:
        super().__init__(name)
        self._clock = clock
        self._pit_gate = pit_gate
        self._pit_output = pit_output

    def read_CONTROL(self) -> int:
        """Return the control bits, the refresh toggle and channel 2's output."""
        refresh = _REFRESH if self._clock() // REFRESH_NS & 1 else 0
        return self.values["CONTROL"] | refresh | (_OUT2 if self._pit_output() else 0)

    def write_CONTROL(self, value: int) -> None:
        """Set the four control bits."""
        self._keep(value & _KEPT)

    def reset(self) -> None:
        """Clear the control bits."""
        self._keep(0)

    def _keep(self, value: int) -> None:
        changed = value ^ self.values["CONTROL"]
        self.values["CONTROL"] = value
        if changed & _GATE2:
            self._pit_gate(bool(value & _GATE2))

    def save(self) -> Port61State:
        """Return the control bits."""
        return Port61State(control=self.values["CONTROL"])

    def load(self, state: State) -> None:
        """Take over the control bits.

        Raises:
            StateError: it is another device's, or more than four bits.
        """
        state = require(state, Port61State)
        require_unsigned(state, control=4)
        self._keep(state.control)
