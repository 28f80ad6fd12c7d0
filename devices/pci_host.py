"""The PCI configuration ports 0xCF8..0xCFF: how a PC finds its PCI functions.

Modelled: configuration mechanism #1 with the chip's access rules (CONFIG_ADDRESS answers only
32-bit accesses), the reset control register at 0xCF9 inside of it, the host bridge at 00:00.0,
and a place for other functions. Where no function is, reads are all ones. Left out: interrupt
routing, bridges to further buses, and memory-mapped configuration (ECAM).

Spec: PCI Local Bus Specification 3.0, "Software Generation of Configuration Transactions";
Intel 440FX PCIset data sheet, "CONFADD" and "CONFDATA"; Intel 82371SB (PIIX3) data sheet,
"RC: Reset Control Register".
"""

from __future__ import annotations

from devices.i440fx import HostBridge
from devices.pc_ports import PCI_PORTS as PORTS
from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.wiring import Signal, StateError, no_signal, open_bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Protocol

    from devices.protocols import State
else:
    Protocol = object

__all__ = ["PORTS", "PciFunction", "PciHost", "PciHostState", "bdf"]


CONFIG_ADDRESS = Register(
    "CONFIG_ADDRESS",
    0,
    size=4,
    exact=True,
    writable=0x80FF_FFFC,
    fields=bits(ENABLE=31, BUS=(23, 16), DEVICE=(15, 11), FUNCTION=(10, 8), REGISTER=(7, 2)),
)
RESET_CONTROL = Register(
    "RESET_CONTROL", 1, exact=True, writable=0x02, fields=bits(SRST=1, RCPU=2), doc="Port 0xCF9."
)
CONFIG_DATA = Register("CONFIG_DATA", 4, size=4, doc="A window on what CONFIG_ADDRESS selects.")

REGISTERS = RegisterTable(CONFIG_ADDRESS, RESET_CONTROL, CONFIG_DATA)

ENABLE = CONFIG_ADDRESS.mask("ENABLE")
RCPU = RESET_CONTROL.mask("RCPU")


def bdf(bus: int, device: int, function: int) -> int:
    """Pack a function's address into 16 bits: bus 15..8, device 7..3, function 2..0.

    Raises:
        ValueError: one of them is out of range.
    """
    if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
        raise ValueError(f"no such PCI function: {bus:02x}:{device:02x}.{function}")
    return bus << 8 | device << 3 | function


class PciFunction(Protocol):
    """A PCI function, as far as configuration space goes.

    Accesses are naturally aligned: `offset` is 0..255 and a multiple of `size` (1, 2 or 4 bytes).
    """

    def read_config(self, offset: int, size: int) -> int:
        """Read `size` bytes of configuration space."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes of configuration space."""


class PciHostState(Record):
    """The two registers, and the host bridge's 256 bytes of configuration space."""

    kind: ClassVar[str] = "pci-host"
    version: ClassVar[int] = 1

    address: int
    reset_control: int
    bridge: bytes


class PciHost(RegisterDevice):
    """The configuration ports, with the host bridge in place.

    `on_reset` is called when the guest asks for a reset through port 0xCF9. Functions that are
    attached keep their own state: this device saves and resets only the bridge.
    """

    registers = REGISTERS

    def __init__(self, name: str = "pci", *, on_reset: Signal = no_signal) -> None:
        super().__init__(name)
        self._on_reset = on_reset
        self.bridge = HostBridge("i440fx")
        self._functions: dict[int, PciFunction] = {bdf(0, 0, 0): self.bridge}

    def attach(self, where: int, function: PciFunction) -> None:
        """Put a function at the address `where` (see `bdf`).

        Raises:
            ValueError: the address is out of range or taken.
        """
        bdf(where >> 8, where >> 3 & 0x1F, where & 7)
        if where in self._functions:
            raise ValueError(
                f"PCI function {where >> 8:02x}:{where >> 3 & 0x1F:02x}.{where & 7} is taken"
            )
        self._functions[where] = function

    def read(self, offset: int, size: int) -> int:
        """Answer a read: of a register, or of the configuration space behind CONFIG_DATA."""
        if offset < CONFIG_DATA.offset:
            # An access across the two dwords is two bus cycles; no guest does it, none answers.
            return super().read(offset, size) if offset + size <= 4 else open_bus(size)
        function, start, inside = self._select(offset, size)
        if function is None:
            return open_bus(size)
        if inside == size and start % size == 0:
            return function.read_config(start, size) & open_bus(size)
        value = open_bus(size) & ~open_bus(inside)
        for position in range(inside):
            value |= (function.read_config(start + position, 1) & 0xFF) << (8 * position)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write: to a register, or to the configuration space behind CONFIG_DATA."""
        if offset < CONFIG_DATA.offset:
            if offset + size <= 4:
                super().write(offset, size, value)
            return
        function, start, inside = self._select(offset, size)
        if function is None:
            return
        if inside == size and start % size == 0:
            function.write_config(start, size, value)
            return
        for position in range(inside):
            function.write_config(start + position, 1, value >> (8 * position) & 0xFF)

    def write_RESET_CONTROL(self, value: int) -> None:
        """Choose the kind of reset (SRST), and reset when RCPU is set."""
        self.values["RESET_CONTROL"] = RESET_CONTROL.merge(self.values["RESET_CONTROL"], value)
        if value & RCPU:
            self._on_reset()

    def reset(self) -> None:
        """Return the ports and the bridge to their state after power-on."""
        super().reset()
        self.bridge.reset()

    def save(self) -> PciHostState:
        """Return the state of the ports and the bridge."""
        return PciHostState(
            address=self.values["CONFIG_ADDRESS"],
            reset_control=self.values["RESET_CONTROL"],
            bridge=self.bridge.config,
        )

    def load(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateError: it is another device's, or a bit is set that no guest can set.
        """
        state = require(state, PciHostState)
        require_unsigned(state, address=32, reset_control=8)
        if CONFIG_ADDRESS.merge(0, state.address) != state.address:
            raise StateError("'pci-host' field address: a reserved bit is set")
        if RESET_CONTROL.merge(0, state.reset_control) != state.reset_control:
            raise StateError("'pci-host' field reset_control: a reserved bit is set")
        self.bridge.restore(state.bridge)
        self.values["CONFIG_ADDRESS"] = state.address
        self.values["RESET_CONTROL"] = state.reset_control

    def _select(self, offset: int, size: int) -> tuple[PciFunction | None, int, int]:
        """The function that CONFIG_ADDRESS selects, the byte an access starts at in its space,
        and how many of its `size` bytes lie inside of the window."""
        address = self.values["CONFIG_ADDRESS"]
        lane = offset - CONFIG_DATA.offset
        inside = min(size, CONFIG_DATA.size - lane)
        if not address & ENABLE or inside <= 0:
            return None, 0, 0
        return self._functions.get(address >> 8 & 0xFFFF), (address & 0xFC) + lane, inside
