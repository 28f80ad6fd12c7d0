"""The cells of the CMOS real-time clock and its saved state, as data.

`devices.cmos_rtc` is the chip. Every one of the 128 cells is a register behind the index port:
those with a meaning by their name, the others as CMOS_nn.

Spec: Motorola MC146818A data sheet, "Address Map", "Registers"; IBM PC/AT Technical Reference,
"CMOS RAM Address Map".
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import Field, Register, RegisterTable, When, bits
from devices.states import require_bytes, require_unsigned
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Literal

__all__ = [
    "CELL_NAMES",
    "REGISTERS",
    "STATUS_A",
    "STATUS_B",
    "STATUS_C",
    "STATUS_CELLS",
    "CmosRtcState",
]

CELLS = 128


def _cell(
    index: int,
    name: str,
    *,
    access: Literal["rw", "r"] = "rw",
    reset: int = 0,
    fields: tuple[Field, ...] = (),
) -> Register:
    where = When("INDEX", 0x7F, index)
    return Register(name, 1, access=access, reset=reset, fields=fields, when=where)


STATUS_A = _cell(0x0A, "STATUS_A", reset=0x26, fields=bits(RS=(3, 0), DV=(6, 4), UIP=7))
STATUS_B = _cell(
    0x0B,
    "STATUS_B",
    reset=0x02,
    fields=bits(DSE=0, H24=1, DM=2, SQWE=3, UIE=4, AIE=5, PIE=6, SET=7),
)
STATUS_C = _cell(0x0C, "STATUS_C", access="r", fields=bits(UF=4, AF=5, PF=6, IRQF=7))
STATUS_D = _cell(0x0D, "STATUS_D", access="r", reset=0x80, fields=bits(VRT=7))
STATUS_CELLS = range(0x0A, 0x0E)

_NAMED = {
    0x00: "SECONDS",
    0x01: "SECONDS_ALARM",
    0x02: "MINUTES",
    0x03: "MINUTES_ALARM",
    0x04: "HOURS",
    0x05: "HOURS_ALARM",
    0x06: "WEEKDAY",
    0x07: "DAY",
    0x08: "MONTH",
    0x09: "YEAR",
    0x0E: "DIAGNOSTIC",
    0x0F: "SHUTDOWN",
    0x10: "FLOPPY_TYPES",
    0x12: "DISK_TYPES",
    0x14: "EQUIPMENT",
    0x15: "BASE_MEMORY_LOW",
    0x16: "BASE_MEMORY_HIGH",
    0x17: "EXTENDED_MEMORY_LOW",
    0x18: "EXTENDED_MEMORY_HIGH",
    0x2E: "CHECKSUM_HIGH",
    0x2F: "CHECKSUM_LOW",
    0x30: "MEMORY_ABOVE_1M_LOW",
    0x31: "MEMORY_ABOVE_1M_HIGH",
    0x32: "CENTURY",
    0x34: "MEMORY_ABOVE_16M_LOW",
    0x35: "MEMORY_ABOVE_16M_HIGH",
    0x38: "BOOT_ORDER_3",
    0x3D: "BOOT_ORDER_12",
    0x5B: "MEMORY_ABOVE_4G_LOW",
    0x5C: "MEMORY_ABOVE_4G_MID",
    0x5D: "MEMORY_ABOVE_4G_HIGH",
    0x5F: "PROCESSORS",
}

_STATUS = dict(zip(STATUS_CELLS, (STATUS_A, STATUS_B, STATUS_C, STATUS_D), strict=True))
_CELLS = tuple(
    _STATUS.get(index) or _cell(index, _NAMED.get(index, f"CMOS_{index:02X}"))
    for index in range(CELLS)
)

CELL_NAMES = tuple(register.name for register in _CELLS)
"""The registers' names, by cell index."""

REGISTERS = RegisterTable(
    Register("INDEX", 0, access="w", fields=bits(CELL=(6, 0), NMI_OFF=7)),
    *_CELLS,
)

_ENABLES = STATUS_B.mask("PIE", "AIE", "UIE", "SQWE")
_LONGEST_OFFSET = 1 << 70


class CmosRtcState(Record):
    """The cells, and how far the clock in them is from the host's."""

    kind: ClassVar[str] = "cmos-rtc"
    version: ClassVar[int] = 1

    index: int
    status_a: int
    control: int
    """The bits of status B that the battery keeps: SET, DM, 24/12, DSE."""
    enables: int
    """The bits of status B that a reset clears: PIE, AIE, UIE, SQWE."""
    flags: int
    """PF, AF and UF of status C."""
    cells: bytes
    """All 128, with 0 in place of the four status registers."""
    offset_ns: int
    """What is added to the host's clock."""
    seen_ns: int
    """The host's time up to which the flags are worked out."""

    def check(self) -> None:
        """Refuse what no clock can be in.

        Raises:
            StateError: a field is out of range.
        """
        require_unsigned(self, index=8, status_a=7, control=8, enables=8, flags=8, seen_ns=64)
        require_bytes(self, cells=range(CELLS, CELLS + 1))
        possible = {
            "control": 0xFF & ~_ENABLES,
            "enables": _ENABLES,
            "flags": STATUS_C.mask("PF", "AF", "UF"),
        }
        for name, mask in possible.items():
            if getattr(self, name) & ~mask:
                raise StateError(f"{self.kind!r} field {name}: a reserved bit is set")
        if type(self.offset_ns) is not int or abs(self.offset_ns) >= _LONGEST_OFFSET:
            raise StateError(f"{self.kind!r} field offset_ns: not a distance between two dates")
        if any(self.cells[index] for index in STATUS_CELLS):
            raise StateError(f"{self.kind!r} field cells: a status register is among them")
