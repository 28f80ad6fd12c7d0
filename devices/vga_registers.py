"""The registers of a VGA and its saved state, as data.

`devices.vga_text` is the adapter. Offsets count from port 0x3B0. Each of the four indexed chips
has its registers behind its index register. Reset values are those of mode 3, 80 columns by 25
rows, in which a video BIOS leaves the adapter.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; FreeVGA, "Hardware Level
VGA and SVGA Video Programming Information".
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import Field, Register, RegisterTable, When, bits
from devices.states import require_bytes, require_flags, require_unsigned
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Literal

__all__ = [
    "ATTRIBUTE",
    "ATTRIBUTE_MASK",
    "CRTC",
    "DAC_BYTES",
    "GRAPHICS",
    "REGISTERS",
    "SEQUENCER",
    "STATUS_1",
    "VgaTextState",
]

DAC_BYTES = 3 * 256
ATTRIBUTE_MASK = 0x1F
"""The bits of the attribute index that choose a register; bit 5 beside them shows the picture."""

_CRTC = (
    ("HORIZONTAL_TOTAL", 0x5F),
    ("HORIZONTAL_DISPLAY_END", 0x4F),
    ("HORIZONTAL_BLANK_START", 0x50),
    ("HORIZONTAL_BLANK_END", 0x82),
    ("HORIZONTAL_RETRACE_START", 0x55),
    ("HORIZONTAL_RETRACE_END", 0x81),
    ("VERTICAL_TOTAL", 0xBF),
    ("OVERFLOW", 0x1F),
    ("PRESET_ROW_SCAN", 0x00),
    ("MAXIMUM_SCAN_LINE", 0x4F),
    ("CURSOR_START", 0x0D),
    ("CURSOR_END", 0x0E),
    ("START_ADDRESS_HIGH", 0x00),
    ("START_ADDRESS_LOW", 0x00),
    ("CURSOR_LOCATION_HIGH", 0x00),
    ("CURSOR_LOCATION_LOW", 0x00),
    ("VERTICAL_RETRACE_START", 0x9C),
    ("VERTICAL_RETRACE_END", 0x8E),
    ("VERTICAL_DISPLAY_END", 0x8F),
    ("OFFSET", 0x28),
    ("UNDERLINE_LOCATION", 0x1F),
    ("VERTICAL_BLANK_START", 0x96),
    ("VERTICAL_BLANK_END", 0xB9),
    ("CRTC_MODE_CONTROL", 0xA3),
    ("LINE_COMPARE", 0xFF),
)
_SEQUENCER = (
    ("RESET", 0x03),
    ("CLOCKING_MODE", 0x00),
    ("MAP_MASK", 0x03),
    ("CHARACTER_MAP_SELECT", 0x00),
    ("MEMORY_MODE", 0x02),
)
_GRAPHICS = (
    ("SET_RESET", 0x00),
    ("ENABLE_SET_RESET", 0x00),
    ("COLOR_COMPARE", 0x00),
    ("DATA_ROTATE", 0x00),
    ("READ_MAP_SELECT", 0x00),
    ("GRAPHICS_MODE", 0x10),
    ("MISCELLANEOUS_GRAPHICS", 0x0E),
    ("COLOR_DONT_CARE", 0x00),
    ("BIT_MASK", 0xFF),
)
_PALETTE = bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f")
_ATTRIBUTE = (
    *((f"PALETTE_{index:X}", value) for index, value in enumerate(_PALETTE)),
    ("ATTRIBUTE_MODE_CONTROL", 0x0C),
    ("OVERSCAN_COLOR", 0x00),
    ("COLOR_PLANE_ENABLE", 0x0F),
    ("HORIZONTAL_PANNING", 0x08),
    ("COLOR_SELECT", 0x00),
)
_FIELDS = {
    "MAXIMUM_SCAN_LINE": bits(MSL=(4, 0), SVB9=5, LC9=6, SD=7),
    "CURSOR_START": bits(START=(4, 0), OFF=5),
    "CURSOR_END": bits(END=(4, 0), SKEW=(6, 5)),
    "VERTICAL_RETRACE_END": bits(VRE=(3, 0), PROTECT=7),
    "CLOCKING_MODE": bits(DM98=0, SLR=2, DCR=3, S4=4, SD=5),
    "MISCELLANEOUS_GRAPHICS": bits(
        GRAPHICS=0,
        CHAIN_OE=1,
        MEMORY_MAP=Field("MEMORY_MAP", 2, 2, {0: "A0000+128K", 1: "A0000+64K", 2: "B0000+32K"}),
    ),
    "ATTRIBUTE_MODE_CONTROL": bits(ATGE=0, MONO=1, LGE=2, BLINK=3, PPM=5, BIT8=6, P54S=7),
}


def _chip(
    cells: tuple[tuple[str, int], ...],
    offset: int,
    index: str,
    mask: int,
    access: Literal["rw", "r"] = "rw",
) -> tuple[Register, ...]:
    """The registers of an indexed chip, all of them at one offset."""
    return tuple(
        Register(
            name,
            offset,
            access=access,
            reset=value,
            fields=_FIELDS.get(name, ()),
            when=When(index, mask, number),
        )
        for number, (name, value) in enumerate(cells)
    )


CRTC = tuple(name for name, _ in _CRTC)
"""The registers of the CRT controller by index."""
SEQUENCER = tuple(name for name, _ in _SEQUENCER)
GRAPHICS = tuple(name for name, _ in _GRAPHICS)
ATTRIBUTE = tuple(name for name, _ in _ATTRIBUTE)

_MONO = When("MISC_OUTPUT", 0x01, 0x00)
"""The adapter stands at the ports of a monochrome one as well."""

STATUS_1 = Register("INPUT_STATUS_1", 0x2A, access="r", fields=bits(DISPLAY_OFF=0, RETRACE=3))
_MISC = bits(IOAS=0, RAM=1, CLOCK=(3, 2), PAGE=5, HSYNC_NEGATIVE=6, VSYNC_NEGATIVE=7)

REGISTERS = RegisterTable(
    Register("MONO_CRTC_INDEX", 0x04, when=_MONO),
    Register("MONO_CRTC_DATA", 0x05, when=_MONO),
    Register("MONO_INPUT_STATUS_1", 0x0A, access="r", fields=STATUS_1.fields, when=_MONO),
    Register("MONO_FEATURE_CONTROL", 0x0A, access="w", when=_MONO),
    # 0x3C0 takes an index and a value in turn; 0x3C1 reads the value.
    Register("ATTRIBUTE_INDEX", 0x10, writable=0x3F, fields=bits(INDEX=(4, 0), PAS=5)),
    *_chip(_ATTRIBUTE, 0x11, "ATTRIBUTE_INDEX", ATTRIBUTE_MASK, access="r"),
    Register("INPUT_STATUS_0", 0x12, access="r", reset=0x10, fields=bits(SENSE=4, CRT_INT=7)),
    Register("MISC_OUTPUT", 0x12, access="w", reset=0x67, fields=_MISC),
    Register("VGA_ENABLE", 0x13, reset=0x01, writable=0x01, fields=bits(ENABLE=0)),
    Register("SEQUENCER_INDEX", 0x14, writable=0x07),
    *_chip(_SEQUENCER, 0x15, "SEQUENCER_INDEX", 0x07),
    Register("PEL_MASK", 0x16, reset=0xFF),
    Register(
        "DAC_STATE",
        0x17,
        access="r",
        fields=bits(MODE=Field("MODE", 0, 2, {0: "write", 3: "read"})),
    ),
    Register("DAC_READ_INDEX", 0x17, access="w"),
    Register("DAC_WRITE_INDEX", 0x18),
    Register("DAC_DATA", 0x19),
    Register("FEATURE_CONTROL_READ", 0x1A, access="r"),
    Register("MISC_OUTPUT_READ", 0x1C, access="r", reset=0x67, fields=_MISC),
    Register("GRAPHICS_INDEX", 0x1E, writable=0x0F),
    *_chip(_GRAPHICS, 0x1F, "GRAPHICS_INDEX", 0x0F),
    Register("CRTC_INDEX", 0x24, writable=0x3F),
    *_chip(_CRTC, 0x25, "CRTC_INDEX", 0x3F),
    STATUS_1,
    Register("FEATURE_CONTROL", 0x2A, access="w", writable=0x0B),
)


class VgaTextState(Record):
    """Every register, each indexed chip as bytes by index."""

    kind: ClassVar[str] = "vga-text"
    version: ClassVar[int] = 1

    misc_output: int
    feature_control: int
    vga_enable: int
    crtc_index: int
    crtc: bytes
    sequencer_index: int
    sequencer: bytes
    graphics_index: int
    graphics: bytes
    attribute_index: int
    attribute: bytes
    attribute_data_next: bool
    """The next write to port 0x3C0 is a value, not an index."""
    pel_mask: int
    dac_index: int
    dac_color: int
    """Which of red, green and blue (0 to 2) comes next."""
    dac_reading: bool
    dac: bytes
    """Red, green and blue of 256 entries, 6 bits each."""

    def check(self) -> None:
        """Refuse what no adapter can be in.

        Raises:
            StateError: a field is out of range.
        """
        require_unsigned(
            self,
            misc_output=8,
            feature_control=8,
            vga_enable=1,
            crtc_index=6,
            sequencer_index=3,
            graphics_index=4,
            attribute_index=6,
            pel_mask=8,
            dac_index=8,
            dac_color=2,
        )
        require_flags(self, "attribute_data_next", "dac_reading")
        require_bytes(
            self,
            crtc=_exactly(len(CRTC)),
            sequencer=_exactly(len(SEQUENCER)),
            graphics=_exactly(len(GRAPHICS)),
            attribute=_exactly(len(ATTRIBUTE)),
            dac=_exactly(DAC_BYTES),
        )
        if self.dac_color > 2:
            raise StateError(f"{self.kind!r} field dac_color = {self.dac_color}: not 0 to 2")


def _exactly(size: int) -> range:
    return range(size, size + 1)
