"""The registers of the 16550A serial port and its saved state, as data.

`devices.uart16550` is the chip. The table drives it, and names what a trace shows of it.

Spec: PC16550D data sheet, "Registers".
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import Field, Register, RegisterTable, When, bits
from devices.states import require_bytes, require_flags, require_unsigned
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = [
    "FCR",
    "FIFO_SIZE",
    "IER",
    "IIR",
    "LCR",
    "LSR",
    "MCR",
    "MSR",
    "REGISTERS",
    "Uart16550State",
]

FIFO_SIZE = 16

DIVISOR_LATCH = When("LCR", 0x80, 0x80)

IER = Register("IER", 1, fields=bits(RDI=0, THRI=1, RLSI=2, MSI=3), doc="Interrupt enable.")
IIR = Register(
    "IIR",
    2,
    access="r",
    reset=0x01,
    fields=bits(
        ID=Field(
            "ID",
            0,
            4,
            {0x6: "LINE", 0x4: "DATA", 0xC: "TIMEOUT", 0x2: "THRE", 0x0: "MODEM", 0x1: "NONE"},
        ),
        FIFO=(7, 6),
    ),
    doc="Which interrupt is pending.",
)
FCR = Register(
    "FCR",
    2,
    access="w",
    fields=bits(
        ENABLE=0,
        CLEAR_RX=1,
        CLEAR_TX=2,
        DMA=3,
        TRIGGER=Field("TRIGGER", 6, 2, {0: "1", 1: "4", 2: "8", 3: "14"}),
    ),
    doc="FIFO control.",
)
LCR = Register(
    "LCR",
    3,
    fields=bits(
        WLS=Field("WLS", 0, 2, {0: "5", 1: "6", 2: "7", 3: "8"}),
        STB=2,
        PEN=3,
        EPS=4,
        STICK=5,
        BREAK=6,
        DLAB=7,
    ),
    doc="Line control.",
)
MCR = Register("MCR", 4, fields=bits(DTR=0, RTS=1, OUT1=2, OUT2=3, LOOP=4), doc="Modem control.")
LSR = Register(
    "LSR",
    5,
    access="r",
    reset=0x60,
    fields=bits(DR=0, OE=1, PE=2, FE=3, BI=4, THRE=5, TEMT=6, FIFOE=7),
    doc="Line status.",
)
MSR = Register(
    "MSR",
    6,
    access="r",
    reset=0xB0,
    fields=bits(DCTS=0, DDSR=1, TERI=2, DDCD=3, CTS=4, DSR=5, RI=6, DCD=7),
    doc="Modem status.",
)

REGISTERS = RegisterTable(
    Register("RBR", 0, access="r", doc="Receiver buffer."),
    Register("THR", 0, access="w", doc="Transmitter holding register."),
    # 9600 baud, as firmware leaves it: Linux's early console divides by what it reads here.
    Register("DLL", 0, reset=0x0C, when=DIVISOR_LATCH, doc="Divisor latch, low byte."),
    Register("DLM", 1, when=DIVISOR_LATCH, doc="Divisor latch, high byte."),
    IER,
    IIR,
    FCR,
    LCR,
    MCR,
    LSR,
    MSR,
    Register("SCR", 7, doc="Scratch."),
)


class Uart16550State(Record):
    """The registers that are not computed, the receiver's FIFO and what waits for a read."""

    kind: ClassVar[str] = "uart16550"
    version: ClassVar[int] = 1

    rbr: int
    ier: int
    fcr: int
    lcr: int
    mcr: int
    lsr_errors: int
    """OE, PE, FE, BI and FIFOE; the other bits of LSR follow from the FIFO."""
    msr: int
    scr: int
    divisor: int
    received: bytes
    errors: bytes
    """For each received character its PE, FE and BI as in LSR."""
    thre_pending: bool
    burst: int
    """How many more characters count as one filling of the transmitter."""
    inputs: int
    """The modem lines outside, as in MSR bits 7 to 4."""

    def check(self) -> None:
        """Refuse what no serial port can be in.

        Raises:
            StateError: a field is out of range.
        """
        require_unsigned(
            self, rbr=8, ier=4, fcr=8, lcr=8, mcr=5, lsr_errors=8, msr=8, scr=8, divisor=16
        )
        require_unsigned(self, burst=5, inputs=8)
        require_flags(self, "thre_pending")
        enabled = FCR.mask("ENABLE")
        room = FIFO_SIZE if self.fcr & enabled else 1
        require_bytes(self, received=range(room + 1), errors=range(room + 1))
        of_character = LSR.mask("PE", "FE", "BI")
        if len(self.received) != len(self.errors) or any(e & ~of_character for e in self.errors):
            raise StateError(f"{self.kind!r} field errors: not one set of errors a character")
        possible = {
            "fcr": FCR.mask("ENABLE", "DMA", "TRIGGER") if self.fcr & enabled else 0,
            "lsr_errors": LSR.mask("OE", "PE", "FE", "BI", "FIFOE"),
            "inputs": MSR.mask("CTS", "DSR", "RI", "DCD"),
        }
        for name, mask in possible.items():
            if getattr(self, name) & ~mask:
                raise StateError(f"{self.kind!r} field {name}: a reserved bit is set")
        if self.burst > room:
            raise StateError(f"{self.kind!r} field burst: more than the FIFO holds")
