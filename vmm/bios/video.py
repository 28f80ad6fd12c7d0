"""INT 10h, the screen: text modes 0 to 3 and 7.

Graphics modes, fonts of another height and VESA are not there. The screen memory is kept as a
VGA's would be, and what is shown is sent to the console as text besides.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 10h - Video; Ralf Brown's
Interrupt List, INT 10.
"""

from __future__ import annotations

from collections.abc import Mapping

from firmware.bios_data import Bda
from firmware.bios_rom import FONT_8X8, FONT_8X16, ROM_SEGMENT
from vmm.bios.host import BiosHost, MissingService, Service
from vmm.bios.registers import BiosRegisters
from vmm.bios.screen import ROWS, TextScreen
from vmm.bios.terminal import TextStream

__all__ = ["Video"]

_TEXT_MODES = {0: 40, 1: 40, 2: 80, 3: 80, 7: 80}
_CONTROLS = (0x07, 0x08, 0x0A, 0x0D)
_MAX_STRING = 0x2000
# Registers of the CRT controller; a high byte is followed by its low byte.
_DISPLAY_END, _CURSOR_START, _CURSOR_END, _START, _CURSOR = 0x01, 0x0A, 0x0B, 0x0C, 0x0E
_KEEP = 0x80  # in a mode number: do not clear the screen


class Video(Service):
    """The video services."""

    vector = 0x10
    name = "video"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self.screen = TextScreen(host.ram)
        self._stream = TextStream(host.console, terminal=host.terminal)
        self.functions = {
            0x00: self._set_mode,
            0x01: self._set_shape,
            0x02: self._set_cursor,
            0x03: self._get_cursor,
            0x04: self._light_pen,
            0x05: self._select_page,
            0x06: self._scroll,
            0x07: self._scroll,
            0x08: self._read_cell,
            0x09: self._write_cells,
            0x0A: self._write_cells,
            0x0B: self._accept,
            0x0E: self._teletype,
            0x0F: self._get_mode,
            0x10: self._palette,
            0x11: self._font,
            0x12: self._alternate_select,
            0x13: self._write_string,
            0x1A: self._display_code,
        }

    def save(self) -> dict[str, int]:
        """Where the stream of text stands, and whether a program drew by itself."""
        return {**self._stream.save(), "drawn": self.screen.drawn_directly}

    def load(self, saved: Mapping[str, int]) -> None:
        """Go on with a screen that is in guest memory already."""
        self._stream.load(saved)
        self.screen.load(bool(saved["drawn"]))

    def missing(self, regs: BiosRegisters) -> None:
        """Answer as video BIOSes do: registers unchanged, but VESA calls fail in AX."""
        if regs.ah == 0x4F:
            regs.ax = 0x0100

    @property
    def sent(self) -> int:
        """How many bytes of text went to the console."""
        return self._stream.sent

    def say(self, text: str) -> None:
        """Show a message of the BIOS itself."""
        for code in text.encode("cp437", "replace"):
            self._write_teletype(self.screen.active_page, code, None)

    # Cursor and mode.

    def _cursor(self, page: int) -> tuple[int, int]:
        value = self.ram.get(Bda.CURSORS + 2 * (page & 7), 2)
        return min(value >> 8, ROWS - 1), min(value & 0xFF, self.screen.columns - 1)

    def _move(self, page: int, row: int, column: int) -> None:
        self.ram.put(Bda.CURSORS + 2 * (page & 7), row << 8 | column, 2)
        if page & 7 == self.screen.active_page:
            self._follow()

    def _follow(self) -> None:
        """Set the CRT controller's idea of the page and the cursor: kernels go on from there."""
        page = self.screen.active_page
        start = page * (self.ram.get(Bda.PAGE_BYTES, 2) // 2)
        row, column = self._cursor(page)
        location = start + row * self.screen.columns + column
        for index, value in ((_START, start), (_CURSOR, location)):
            self.host.crtc(index, value >> 8 & 0xFF)
            self.host.crtc(index + 1, value & 0xFF)

    def _set_mode(self, regs: BiosRegisters) -> None:
        mode = regs.al & ~_KEEP
        columns = _TEXT_MODES.get(mode)
        if columns is None:
            self.host.note(f"INT 10h: video mode {mode:#04x} is not a text mode; it was not set")
            raise MissingService
        self.ram.put(Bda.VIDEO_MODE, mode)
        self.ram.put(Bda.COLUMNS, columns, 2)
        self.ram.put(Bda.PAGE_BYTES, 0x800 if columns == 40 else 0x1000, 2)
        self.ram.put(Bda.PAGE_OFFSET, 0, 2)
        self.ram.put(Bda.ACTIVE_PAGE, 0)
        self.ram.put(Bda.CURSOR_SHAPE, 0x0607, 2)
        self.ram.put(Bda.CRTC_PORT, 0x3B4 if mode == 7 else 0x3D4, 2)
        self.ram.write(Bda.CURSORS, bytes(16))
        self.host.crtc(_DISPLAY_END, columns - 1)
        self._show_shape()
        self._follow()
        if not regs.al & _KEEP:
            for page in range(8):
                self.screen.clear(page)
            self._stream.clear()
        regs.al = 0x30  # what VGA BIOSes return for text modes

    def _get_mode(self, regs: BiosRegisters) -> None:
        regs.al = self.ram.get(Bda.VIDEO_MODE)
        regs.ah = self.screen.columns
        regs.bh = self.screen.active_page

    def _set_shape(self, regs: BiosRegisters) -> None:
        self.ram.put(Bda.CURSOR_SHAPE, regs.cx, 2)
        self._show_shape()

    def _show_shape(self) -> None:
        shape = self.ram.get(Bda.CURSOR_SHAPE, 2)
        self.host.crtc(_CURSOR_START, shape >> 8)
        self.host.crtc(_CURSOR_END, shape & 0xFF)

    def _set_cursor(self, regs: BiosRegisters) -> None:
        self._move(regs.bh, min(regs.dh, ROWS - 1), min(regs.dl, self.screen.columns - 1))

    def _get_cursor(self, regs: BiosRegisters) -> None:
        row, column = self._cursor(regs.bh)
        regs.dh, regs.dl = row, column
        regs.cx = self.ram.get(Bda.CURSOR_SHAPE, 2)
        regs.ax = 0

    def _light_pen(self, regs: BiosRegisters) -> None:
        regs.ah = 0

    def _select_page(self, regs: BiosRegisters) -> None:
        page = regs.al & 7
        self.ram.put(Bda.ACTIVE_PAGE, page)
        self.ram.put(Bda.PAGE_OFFSET, page * self.ram.get(Bda.PAGE_BYTES, 2), 2)
        self._follow()
        if self._stream.terminal:
            self._stream.repaint({row: self.screen.row(page, row) for row in range(ROWS)})

    # Text.

    def _scroll(self, regs: BiosRegisters) -> None:
        last_column, page = self.screen.columns - 1, self.screen.active_page
        top, left = min(regs.ch, ROWS - 1), min(regs.cl, last_column)
        bottom, right = min(regs.dh, ROWS - 1), min(regs.dl, last_column)
        if top > bottom or left > right:
            return
        rows = regs.al if 0 < regs.al <= bottom - top else bottom - top + 1
        up = regs.ah == 0x06
        self.screen.scroll(page, top, bottom, left, right, rows if up else -rows, regs.bh)
        whole = (top, left, bottom, right) == (0, 0, ROWS - 1, last_column)
        if whole and rows == ROWS and regs.bh & 0x70 == 0:
            self._stream.clear()
        elif self._stream.terminal:
            painted = range(top, bottom + 1)
            self._stream.repaint({row: self.screen.row(page, row) for row in painted})
        elif whole and up:
            self._stream.scrolled(rows)

    def _read_cell(self, regs: BiosRegisters) -> None:
        row, column = self._cursor(regs.bh)
        regs.al, regs.ah = self.screen.cell(regs.bh, row, column)

    def _write_cells(self, regs: BiosRegisters) -> None:
        row, column = self._cursor(regs.bh)
        left = regs.cx
        while left and row < ROWS:
            count = min(left, self.screen.columns - column)
            attribute = regs.bl if regs.ah == 0x09 else None
            self._put(regs.bh, row, column, bytes([regs.al]) * count, attribute)
            left -= count
            row, column = row + 1, 0

    def _put(
        self, page: int, row: int, column: int, characters: bytes, attribute: int | None
    ) -> None:
        self.screen.put(page, row, column, characters, attribute)
        if page & 7 == self.screen.active_page:
            _, shown = self.screen.cell(page, row, column)
            self._stream.show(row, column, characters, shown)

    def _teletype(self, regs: BiosRegisters) -> None:
        # BH names the page, but ROMs since the PS/2 write to the active one, and boot sectors
        # that leave anything in BH depend on it.
        self._write_teletype(self.screen.active_page, regs.al, None)

    def _write_teletype(self, page: int, code: int, attribute: int | None) -> None:
        row, column = self._cursor(page)
        shown = page & 7 == self.screen.active_page
        if code in _CONTROLS:
            if shown:
                self._stream.control(row, column, code)
            if code == 0x08:
                column = max(column - 1, 0)
            elif code == 0x0D:
                column = 0
            elif code == 0x0A:
                row += 1
        else:
            self._put(page, row, column, bytes([code]), attribute)
            column += 1
            if column == self.screen.columns:
                row, column = row + 1, 0
                if shown:
                    self._stream.wrap()
        if row == ROWS:
            row -= 1
            last = self.screen.columns - 1
            _, fill = self.screen.cell(page, row, last)
            self.screen.scroll(page, 0, ROWS - 1, 0, last, 1, fill)
        self._move(page, row, column)

    def _write_string(self, regs: BiosRegisters) -> None:
        mode, page = regs.al, regs.bh & 7
        if mode > 3:
            raise MissingService
        step = 2 if mode & 2 else 1  # characters and attributes in turn
        count = min(regs.cx, _MAX_STRING)
        data = self.ram.read(regs.es_base + regs.bp, count * step)
        if data is None:
            return
        before = self._cursor(page)
        self._move(page, min(regs.dh, ROWS - 1), min(regs.dl, self.screen.columns - 1))
        for index in range(0, len(data), step):
            self._write_teletype(page, data[index], data[index + 1] if step == 2 else regs.bl)
        if not mode & 1:
            self._move(page, *before)

    # What programs ask to find out which adapter there is.

    def _accept(self, regs: BiosRegisters) -> None:
        """Take a colour setting; text goes on in the standard colours."""

    def _palette(self, regs: BiosRegisters) -> None:
        if regs.al not in (0x00, 0x01, 0x02, 0x03, 0x10, 0x12, 0x13, 0x1B):
            raise MissingService  # the functions that read the palette back

    def _font(self, regs: BiosRegisters) -> None:
        if regs.al in (0x04, 0x14):  # the 8x16 font, which is the one in use
            return
        tables = {0: FONT_8X8 + 128 * 8, 1: FONT_8X16, 3: FONT_8X8, 4: FONT_8X8 + 128 * 8}
        if regs.al != 0x30 or regs.bh > 7:
            raise MissingService
        regs.set_es(ROM_SEGMENT)
        regs.bp = tables.get(regs.bh, FONT_8X16)
        regs.cx = 16
        regs.dl = ROWS - 1

    def _alternate_select(self, regs: BiosRegisters) -> None:
        if regs.bl == 0x10:  # colour, 256 KiB, no feature bits, the switches of a colour display
            regs.bx, regs.cx = 0x0003, 0x0009
        elif regs.bl in (0x30, 0x31, 0x32, 0x33, 0x34, 0x36):
            regs.al = 0x12
        else:
            raise MissingService

    def _display_code(self, regs: BiosRegisters) -> None:
        if regs.al > 1:
            raise MissingService
        if regs.al == 0:
            regs.bx = self.ram.get(Bda.DISPLAY_CODE)  # VGA with a colour display, no other
        regs.al = 0x1A
