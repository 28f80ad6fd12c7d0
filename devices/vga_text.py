"""A VGA in text mode, as far as its registers go: ports 0x3B4 to 0x3DA.

Modelled: the index and data ports of the CRT controller, the sequencer, the graphics controller
and the attribute controller with its flip-flop, the palette DAC, miscellaneous output, and input
status 1, whose retrace bits follow a clock at 70 frames a second. The adapter starts in mode 3 as
a video BIOS leaves it. While miscellaneous output selects the ports of a monochrome adapter,
0x3B4, 0x3B5 and 0x3BA answer as 0x3D4, 0x3D5 and 0x3DA do; those go on answering.

Left out: the picture. The text pages from 0xB8000 are ordinary memory for whoever draws them, so
planes, latches, fonts and graphics modes are stored and have no effect. So are the write
protection of CRTC registers 0 to 7 and the retrace interrupt. The vertical retrace bit is up for
the whole vertical blanking (49 lines, 1.6 ms) where the pulse lasts two lines: a guest whose
port reads cost a quarter of a millisecond would hardly ever meet that.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; FreeVGA, "External
Registers", "CRT Controller Registers", "Attribute Controller Registers", "Color Registers".
"""

from __future__ import annotations

import time

from devices.pc_ports import VGA_BASE as BASE
from devices.pc_ports import VGA_PORTS as PORTS
from devices.registers import RegisterDevice
from devices.states import require
from devices.vga_registers import (
    ATTRIBUTE,
    ATTRIBUTE_MASK,
    CRTC,
    DAC_BYTES,
    GRAPHICS,
    REGISTERS,
    SEQUENCER,
    STATUS_1,
    VgaTextState,
)
from devices.wiring import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import State

__all__ = ["BASE", "PORTS", "VgaText", "VgaTextState"]

LINE_NS = 31_778
"""One scan line: 900 periods of the 28.322 MHz dot clock."""
LINES, VISIBLE_LINES = 449, 400
_VISIBLE_NS = LINE_NS * 4 // 5
"""80 of the 100 characters of a line are shown."""

_CRTC_DATA = 0x25
_DISPLAY_OFF, _RETRACE = (STATUS_1.mask(name) for name in ("DISPLAY_OFF", "RETRACE"))
_DAC_READING = 0x03


def _start_palette() -> bytes:
    """The first 64 entries hold the EGA's colours: two bits each of red, green and blue."""
    palette = bytearray(DAC_BYTES)
    for index in range(64):
        for color in range(3):
            bright, dim = index >> (2 - color) & 1, index >> (5 - color) & 1
            palette[3 * index + color] = 0x2A * bright + 0x15 * dim
    return bytes(palette)


START_PALETTE = _start_palette()


class VgaText(RegisterDevice):
    """The adapter, with `clock` (nanoseconds) behind the retrace bits."""

    registers = REGISTERS
    inputs = ("set_crtc",)

    def __init__(self, name: str = "vga", *, clock: Clock = time.monotonic_ns) -> None:
        super().__init__(name)
        self._clock = clock
        self._power_on()

    # What the machine may want to know of the picture, and a BIOS to set.

    @property
    def columns(self) -> int:
        """Characters in a row."""
        return self.values["HORIZONTAL_DISPLAY_END"] + 1

    @property
    def start(self) -> int:
        """The cell, counted from 0xB8000, that stands in the upper left corner."""
        return self.values["START_ADDRESS_HIGH"] << 8 | self.values["START_ADDRESS_LOW"]

    @property
    def cursor(self) -> int | None:
        """The cell, counted from 0xB8000, with the cursor; None while it is switched off."""
        first, last = self.values["CURSOR_START"], self.values["CURSOR_END"]
        if first & 0x20 or first & 0x1F > last & 0x1F:
            return None
        return self.values["CURSOR_LOCATION_HIGH"] << 8 | self.values["CURSOR_LOCATION_LOW"]

    @property
    def blinks(self) -> bool:
        """Whether bit 7 of an attribute makes text blink; otherwise the background is bright."""
        return bool(self.values["ATTRIBUTE_MODE_CONTROL"] & 0x08)

    def set_crtc(self, index: int, value: int) -> None:
        """Set a register of the CRT controller, as a video BIOS does behind its services."""
        self.values[CRTC[index]] = value & 0xFF

    # Status and miscellaneous output.

    def read_INPUT_STATUS_1(self) -> int:
        """Say where the beam is, and make the attribute controller expect an index."""
        self._attribute_data_next = False
        line, in_line = divmod(self._clock() % (LINES * LINE_NS), LINE_NS)
        if line >= VISIBLE_LINES:
            return _DISPLAY_OFF | _RETRACE
        return _DISPLAY_OFF if in_line >= _VISIBLE_NS else 0

    def read_MISC_OUTPUT_READ(self) -> int:
        """Read back what was written to 0x3C2."""
        return self.values["MISC_OUTPUT"]

    def read_FEATURE_CONTROL_READ(self) -> int:
        """Read back what was written to 0x3DA."""
        return self.values["FEATURE_CONTROL"]

    # The attribute controller: index and value through one port.

    def read_ATTRIBUTE_INDEX(self) -> int:
        """Return the index."""
        return self.values["ATTRIBUTE_INDEX"]

    def write_ATTRIBUTE_INDEX(self, value: int) -> None:
        """Take an index or a value, whichever is next."""
        data, self._attribute_data_next = self._attribute_data_next, not self._attribute_data_next
        if not data:
            self.values["ATTRIBUTE_INDEX"] = value & 0x3F
            return
        number = self.values["ATTRIBUTE_INDEX"] & ATTRIBUTE_MASK
        if number < len(ATTRIBUTE):
            self.values[ATTRIBUTE[number]] = value

    # The DAC: an index, then red, green and blue in turn, on to the next entry.

    def read_DAC_STATE(self) -> int:
        """Say which index was written last."""
        return _DAC_READING if self._dac_reading else 0

    def write_DAC_READ_INDEX(self, value: int) -> None:
        """Begin to read at an entry."""
        self._select_color(value, reading=True)

    def write_DAC_WRITE_INDEX(self, value: int) -> None:
        """Begin to write at an entry."""
        self._select_color(value, reading=False)

    def read_DAC_DATA(self) -> int:
        """Read the next of red, green and blue."""
        return self._dac[self._next_color()]

    def write_DAC_DATA(self, value: int) -> None:
        """Write the next of red, green and blue: six bits."""
        self._dac[self._next_color()] = value & 0x3F

    def _select_color(self, index: int, *, reading: bool) -> None:
        self.values["DAC_WRITE_INDEX"] = index
        self._dac_color, self._dac_reading = 0, reading

    def _next_color(self) -> int:
        index = self.values["DAC_WRITE_INDEX"]
        at = 3 * index + self._dac_color
        self._dac_color = (self._dac_color + 1) % 3
        if not self._dac_color:
            self.values["DAC_WRITE_INDEX"] = (index + 1) & 0xFF
        return at

    # The ports of a monochrome adapter.

    def read_MONO_CRTC_INDEX(self) -> int:
        """Read as 0x3D4."""
        return self.values["CRTC_INDEX"]

    def write_MONO_CRTC_INDEX(self, value: int) -> None:
        """Write as to 0x3D4."""
        self.values["CRTC_INDEX"] = value & 0x3F

    def read_MONO_CRTC_DATA(self) -> int:
        """Read as 0x3D5."""
        return self.read(_CRTC_DATA, 1)

    def write_MONO_CRTC_DATA(self, value: int) -> None:
        """Write as to 0x3D5."""
        self.write(_CRTC_DATA, 1, value)

    def read_MONO_INPUT_STATUS_1(self) -> int:
        """Read as 0x3DA."""
        return self.read_INPUT_STATUS_1()

    def write_MONO_FEATURE_CONTROL(self, value: int) -> None:
        """Write as to 0x3DA."""
        self.values["FEATURE_CONTROL"] = value & 0x0B

    # State.

    def reset(self) -> None:
        """Return to mode 3."""
        super().reset()
        self._power_on()

    def _power_on(self) -> None:
        self._attribute_data_next = False
        self._dac = bytearray(START_PALETTE)
        self._dac_color = 0
        self._dac_reading = False

    def save(self) -> VgaTextState:
        """Return every register."""
        values = self.values
        return VgaTextState(
            misc_output=values["MISC_OUTPUT"],
            feature_control=values["FEATURE_CONTROL"],
            vga_enable=values["VGA_ENABLE"],
            crtc_index=values["CRTC_INDEX"],
            crtc=bytes(values[name] for name in CRTC),
            sequencer_index=values["SEQUENCER_INDEX"],
            sequencer=bytes(values[name] for name in SEQUENCER),
            graphics_index=values["GRAPHICS_INDEX"],
            graphics=bytes(values[name] for name in GRAPHICS),
            attribute_index=values["ATTRIBUTE_INDEX"],
            attribute=bytes(values[name] for name in ATTRIBUTE),
            attribute_data_next=self._attribute_data_next,
            pel_mask=values["PEL_MASK"],
            dac_index=values["DAC_WRITE_INDEX"],
            dac_color=self._dac_color,
            dac_reading=self._dac_reading,
            dac=bytes(self._dac),
        )

    def load(self, state: State) -> None:
        """Become the adapter that `state` was saved from.

        Raises:
            StateError: it is another device's, or a field is out of range; nothing changes.
        """
        state = require(state, VgaTextState)
        state.check()
        self.values.update(
            MISC_OUTPUT=state.misc_output,
            FEATURE_CONTROL=state.feature_control,
            VGA_ENABLE=state.vga_enable,
            CRTC_INDEX=state.crtc_index,
            SEQUENCER_INDEX=state.sequencer_index,
            GRAPHICS_INDEX=state.graphics_index,
            ATTRIBUTE_INDEX=state.attribute_index,
            PEL_MASK=state.pel_mask,
            DAC_WRITE_INDEX=state.dac_index,
        )
        for names, cells in (
            (CRTC, state.crtc),
            (SEQUENCER, state.sequencer),
            (GRAPHICS, state.graphics),
            (ATTRIBUTE, state.attribute),
        ):
            self.values.update(zip(names, cells, strict=True))
        self._attribute_data_next = state.attribute_data_next
        self._dac_color, self._dac_reading = state.dac_color, state.dac_reading
        self._dac = bytearray(state.dac)
