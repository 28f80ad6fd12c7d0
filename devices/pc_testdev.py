"""QEMU's pc-testdev: what kernels that test a hypervisor poke at (kvm-unit-tests).

Modelled: the loopback register at ports 0xE0 and, by bytes, at 0xE8; the page flush at 0xE4; the
interrupt lines at 0x2000 + n; and 64 KiB of memory behind MMIO at 0xFF000000, each access to
which is an exit. Left out: nothing.

The loopback at 0xE8..0xEB covers port 0xE9, so a machine has this device or a debug console
there, not both. The memory lies where a firmware ROM of more than 15 MiB would.

Spec: QEMU, hw/misc/pc-testdev.c.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable
from devices.states import require, require_bytes, require_unsigned
from devices.wiring import open_bus

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = [
    "IRQ_LINES",
    "IRQ_PORTS",
    "MMIO",
    "PORTS",
    "PcTestIrqLines",
    "PcTestIrqLinesState",
    "PcTestMemory",
    "PcTestMemoryState",
    "PcTestPorts",
    "PcTestPortsState",
]

PORTS = range(0xE0, 0xEC)
IRQ_LINES = 24
IRQ_PORTS = range(0x2000, 0x2000 + IRQ_LINES)
MMIO = range(0xFF00_0000, 0xFF01_0000)

PAGE_MASK = 0xFFFF_F000

TEST_PORTS = RegisterTable(
    Register("DATA", 0, size=4, doc="Reads back what was written, in any width."),
    Register("FLUSH", 4, size=4, access="w", exact=True, doc="Unmap and map the page named."),
    Register("DATA_BYTES", 8, size=4, doc="The register at 0 again."),
)

TEST_IRQ_LINES = RegisterTable(
    *(Register(f"LINE{line}", line, access="w", exact=True) for line in range(IRQ_LINES))
)


def _no_line(line: int, level: bool) -> None:
    """Drive a line that is not connected."""


def _no_flush(gpa: int) -> None:
    """Flush a page where nothing is mapped."""


class PcTestPortsState(Record):
    """The loopback register."""

    kind: ClassVar[str] = "pc-testdev-ports"
    version: ClassVar[int] = 1

    data: int


class PcTestPorts(RegisterDevice):
    """The loopback register and the page flush.

    `flush` is called with the guest-physical address of a page; the host is to drop its mapping
    and let it come back, so that the next access faults in the hypervisor.
    """

    registers = TEST_PORTS

    def __init__(
        self, name: str = "testdev-ports", *, flush: Callable[[int], None] = _no_flush
    ) -> None:
        super().__init__(name)
        self._flush = flush

    def write_DATA(self, value: int) -> None:
        """Set the loopback register."""
        self.values["DATA"] = self.values["DATA_BYTES"] = value

    write_DATA_BYTES = write_DATA

    def write_FLUSH(self, value: int) -> None:
        """Flush the page that holds address `value`."""
        self._flush(value & PAGE_MASK)

    def save(self) -> PcTestPortsState:
        """Return the loopback register."""
        return PcTestPortsState(data=self.values["DATA"])

    def load(self, state: State) -> None:
        """Take over a loopback register.

        Raises:
            StateError: it is another device's, or not 32 bits wide.
        """
        state = require(state, PcTestPortsState)
        require_unsigned(state, data=32)
        self.write_DATA(state.data)


class PcTestIrqLinesState(Record):
    """The lines that are asserted, bit n for line n."""

    kind: ClassVar[str] = "pc-testdev-irq"
    version: ClassVar[int] = 1

    asserted: int


class PcTestIrqLines(RegisterDevice):
    """One port a line: a byte other than 0 asserts it, 0 releases it.

    `irq` is called with the line's number and its level. Loading a state does not call it: the
    interrupt controller's own state has the levels of its pins.
    """

    registers = TEST_IRQ_LINES

    def __init__(
        self, name: str = "testdev-irq", *, irq: Callable[[int, bool], None] = _no_line
    ) -> None:
        super().__init__(name)
        self._irq = irq
        self._asserted = 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Drive the line of the port written; only bytes count."""
        if size != 1 or offset >= IRQ_LINES:
            return
        level = value != 0
        self._asserted = self._asserted & ~(1 << offset) | level << offset
        self._irq(offset, level)

    def reset(self) -> None:
        """Release the lines that are asserted."""
        super().reset()
        asserted, self._asserted = self._asserted, 0
        for line in range(IRQ_LINES):
            if asserted >> line & 1:
                self._irq(line, False)

    def save(self) -> PcTestIrqLinesState:
        """Return which lines are asserted."""
        return PcTestIrqLinesState(asserted=self._asserted)

    def load(self, state: State) -> None:
        """Take over which lines are asserted.

        Raises:
            StateError: it is another device's, or names a line that is not there.
        """
        state = require(state, PcTestIrqLinesState)
        require_unsigned(state, asserted=IRQ_LINES)
        self._asserted = state.asserted


class PcTestMemoryState(Record):
    """The contents of the memory."""

    kind: ClassVar[str] = "pc-testdev-mmio"
    version: ClassVar[int] = 1

    contents: bytes


class PcTestMemory:
    """64 KiB that hold what was written, reached by MMIO in any width."""

    registers: ClassVar[RegisterTable] = RegisterTable()

    def __init__(self, name: str = "testdev-mmio") -> None:
        self.name = name
        self._contents = bytearray(len(MMIO))

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes; behind the end there are only ones."""
        data = self._contents[offset : offset + size]
        return int.from_bytes(data, "little") | open_bus(size) & ~open_bus(len(data))

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes, as far as they lie inside."""
        inside = min(size, len(MMIO) - offset)
        if inside > 0:
            data = value.to_bytes(size, "little")[:inside]
            self._contents[offset : offset + inside] = data

    def reset(self) -> None:
        """Clear the memory."""
        self._contents[:] = bytes(len(MMIO))

    def save(self) -> PcTestMemoryState:
        """Return the contents."""
        return PcTestMemoryState(contents=bytes(self._contents))

    def load(self, state: State) -> None:
        """Take over the contents.

        Raises:
            StateError: it is another device's, or not 64 KiB.
        """
        state = require(state, PcTestMemoryState)
        require_bytes(state, contents=range(len(MMIO), len(MMIO) + 1))
        self._contents[:] = state.contents
