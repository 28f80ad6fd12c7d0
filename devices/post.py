"""The POST port 0x80: firmware writes how far it has come, a diagnostic card shows it.

Modelled: the latch, which reads back what was last written as the spare DMA page register behind
it does, and a short history for the report of a death. A code that repeats the one before it is
not kept again: kernels write to port 0x80 only to wait a microsecond, and thousands of such
writes would drown the codes that tell something. Left out: the display.

Spec: IBM PC/AT Technical Reference, "Diagnostic checkpoint port".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable
from devices.states import require, require_unsigned
from devices.wiring import StateError

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PORT", "PostPort", "PostState"]

PORT = 0x80

REGISTERS = RegisterTable(Register("POST", 0, doc="The last checkpoint that was reached."))

HISTORY = 16
"""How many codes are kept."""


class PostState(Record):
    """The latch and the codes before it, oldest first."""

    kind: ClassVar[str] = "post"
    version: ClassVar[int] = 1

    last: int
    codes: tuple[int, ...]


class PostPort(RegisterDevice):
    """Keeps the last codes; `sink`, if given, is called with each code as it is written."""

    registers = REGISTERS

    def __init__(self, name: str = "post", *, sink: Callable[[int], None] | None = None) -> None:
        super().__init__(name)
        self._sink = sink
        self._codes: deque[int] = deque(maxlen=HISTORY)

    @property
    def codes(self) -> tuple[int, ...]:
        """The last codes, oldest first, repeats left out."""
        return tuple(self._codes)

    def write_POST(self, value: int) -> None:
        """Latch a code."""
        if not self._codes or value != self.values["POST"]:
            self._codes.append(value)
        self.values["POST"] = value
        if self._sink is not None:
            self._sink(value)

    def reset(self) -> None:
        """Clear the latch and the history."""
        super().reset()
        self._codes.clear()

    def save(self) -> PostState:
        """Return the latch and the history."""
        return PostState(last=self.values["POST"], codes=self.codes)

    def load(self, state: State) -> None:
        """Take over a saved latch and history.

        Raises:
            StateError: it is another device's, or a code is not a byte.
        """
        state = require(state, PostState)
        require_unsigned(state, last=8)
        if type(state.codes) is not tuple or len(state.codes) > HISTORY:
            raise StateError(f"'post' field codes: not a tuple of up to {HISTORY} codes")
        if any(type(code) is not int or not 0 <= code <= 0xFF for code in state.codes):
            raise StateError("'post' field codes: not all of them are bytes")
        self.values["POST"] = state.last
        self._codes = deque(state.codes, maxlen=HISTORY)
