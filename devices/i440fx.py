"""The host bridge of a PC: Intel 82441FX (440FX), PCI function 00:00.0.

Modelled: the configuration space with the chip's reset values and writable bits. It is there so
that firmware knows where it runs: SeaBIOS looks for 8086:1237 before it unlocks shadow RAM, and
takes the subsystem ID 1AF4:1100 as the sign of a virtual machine with fw_cfg (on the real chip
these two words are reserved). The Programmable Attribute Map registers are kept but do not act:
0xC0000..0xFFFFF is always RAM, readable and writable, and whoever loads a ROM puts a copy of its
last 128 KiB there. Left out: DRAM and SMRAM control act on nothing, and TRC is not there (a
reset goes through port 0xCF9).

Spec: Intel 440FX PCIset (82441FX, 82442FX) data sheet, "PCI Configuration Space Mapped
Registers".
"""

from __future__ import annotations

from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.wiring import StateError

__all__ = ["REGISTERS", "HostBridge"]

CONFIG_SIZE = 256

_PAM_HALF = "bit 0 and 4: reads go to RAM; bit 1 and 5: writes go to RAM"

REGISTERS = RegisterTable(
    Register("VID", 0x00, 2, "r", reset=0x8086),
    Register("DID", 0x02, 2, "r", reset=0x1237),
    Register("PCICMD", 0x04, 2, reset=0x0006, writable=0x0102, fields=bits(MAE=1, BME=2, SERRE=8)),
    Register(
        "PCISTS",
        0x06,
        2,
        reset=0x0280,
        writable=0,
        w1c=0xF900,
        fields=bits(FB2B=7, DPD=8, DEVT=(10, 9), STAS=11, RTAS=12, RMAS=13, SSE=14, DPE=15),
    ),
    Register("RID", 0x08, 1, "r", reset=0x02),
    Register("CLASSC", 0x09, 3, "r", reset=0x060000, fields=bits(PI=(7, 0), SCC=(15, 8))),
    Register("MLT", 0x0D, writable=0xF8),
    Register("HEADT", 0x0E, 1, "r"),
    Register("BIST", 0x0F, 1, "r"),
    Register("SVID", 0x2C, 2, "r", reset=0x1AF4),
    Register("SID", 0x2E, 2, "r", reset=0x1100),
    Register(
        "PMCCFG",
        0x50,
        2,
        writable=0xC3F4,
        fields=bits(IOQD=2, DDIM=(5, 4), EPTE=6, HFS=(9, 8), ELME=14, WPE=15),
    ),
    Register("DETURBO", 0x52),
    Register("DBC", 0x53, 1, "r", reset=0x80),
    Register("AXC", 0x54, writable=0x82),
    Register("DRT", 0x55, 2),
    Register("DRAMC", 0x57, reset=0x01, writable=0x77),
    Register("DRAMT", 0x58, reset=0x10, writable=0x7F),
    Register("PAM0", 0x59, writable=0x70, fields=bits(F0000=(6, 4)), doc=_PAM_HALF),
    Register("PAM1", 0x5A, writable=0x77, fields=bits(C0000=(2, 0), C4000=(6, 4)), doc=_PAM_HALF),
    Register("PAM2", 0x5B, writable=0x77, fields=bits(C8000=(2, 0), CC000=(6, 4)), doc=_PAM_HALF),
    Register("PAM3", 0x5C, writable=0x77, fields=bits(D0000=(2, 0), D4000=(6, 4)), doc=_PAM_HALF),
    Register("PAM4", 0x5D, writable=0x77, fields=bits(D8000=(2, 0), DC000=(6, 4)), doc=_PAM_HALF),
    Register("PAM5", 0x5E, writable=0x77, fields=bits(E0000=(2, 0), E4000=(6, 4)), doc=_PAM_HALF),
    Register("PAM6", 0x5F, writable=0x77, fields=bits(E8000=(2, 0), EC000=(6, 4)), doc=_PAM_HALF),
    *(Register(f"DRB{row}", 0x60 + row, reset=0x02) for row in range(8)),
    Register("FDHC", 0x68, writable=0xC0),
    Register("MTT", 0x70, writable=0xF8),
    Register("CLT", 0x71, reset=0x10, writable=0x1F),
    Register(
        "SMRAM",
        0x72,
        reset=0x02,
        writable=0x78,
        fields=bits(C_BASE_SEG=(2, 0), G_SMRAME=3, D_LCK=4, D_CLS=5, D_OPEN=6),
    ),
    Register("ERRCMD", 0x90, writable=0x1B),
    Register("ERRSTS", 0x91, writable=0, w1c=0x11),
)

SMRAM = REGISTERS["SMRAM"]
D_LCK = SMRAM.mask("D_LCK")
D_CLS = SMRAM.mask("D_CLS")
D_OPEN = SMRAM.mask("D_OPEN")


class HostBridge(RegisterDevice):
    """The bridge's configuration space, a `PciFunction`. `PciHost` saves and resets it."""

    registers = REGISTERS
    unanswered = 0x00

    def read_config(self, offset: int, size: int) -> int:
        """Read `size` bytes (1, 2 or 4) of configuration space."""
        return self.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes (1, 2 or 4) of configuration space."""
        self.write(offset, size, value)

    def write_SMRAM(self, value: int) -> None:
        """Set the SMRAM controls; once locked, only D_CLS moves until the next reset."""
        old = self.values["SMRAM"]
        if old & D_LCK:
            self.values["SMRAM"] = (old & ~D_CLS) | (value & D_CLS)
            return
        new = SMRAM.merge(old, value)
        self.values["SMRAM"] = new & ~D_OPEN if new & D_LCK else new

    @property
    def config(self) -> bytes:
        """The whole configuration space, 256 bytes."""
        return bytes(self.read(offset, 1) for offset in range(CONFIG_SIZE))

    def restore(self, config: bytes) -> None:
        """Take over a configuration space.

        Raises:
            StateError: a bit that no guest can change differs; the bridge is then unchanged.
        """
        if type(config) is not bytes or len(config) != CONFIG_SIZE:
            raise StateError(f"a configuration space is {CONFIG_SIZE} bytes")
        expected = HostBridge()
        for register in self.registers:
            end = register.offset + register.size
            value = int.from_bytes(config[register.offset : end], "little")
            if "w" in register.access:
                expected.values[register.name] = register.merge(register.reset, value) | (
                    value & register.w1c
                )
        if expected.config != config:
            raise StateError("a configuration space of another chip")
        self.values.update(expected.values)
