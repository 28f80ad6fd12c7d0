"""The guest's text screen, live on the terminal of `vmm run`.

A guest that writes to the text page at 0xB8000 itself prints nothing that a stream could carry.
Once that is seen, the page is shown on the terminal's alternate screen and kept up to date, with
colours and the cursor of the CRT controller, until the run ends.

The console's stream goes before: what a guest sends to a serial port or a debug console is meant
to be read, and the first byte of it gives the terminal back for good (`always` shows the screen
nevertheless; the stream is then held back until the end). Text that the BIOS prints is on the
page as well and does not count.

All drawing is done on the thread of host events, twenty times a second. A page that has not
changed costs one comparison of its bytes. The page is 25 rows of 80 or 40 columns, from the start
address that the CRT controller has; the monochrome page at 0xB0000 is not shown.

Spec: ECMA-48, Control functions (CUP, ED, SGR); xterm control sequences, DECSET 7, 25 and 1049.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from devices.vga_text import VgaText
from vmm.bios.screen import BLANK, ROWS, decode
from vmm.bios.terminal import COLOURS

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["LiveScreen"]

_PERIOD_S = 0.05
_WINDOW, _WINDOW_SIZE = 0xB8000, 0x8000
# The alternate screen, without wrapping at its right edge; and back.
_ENTER = b"\x1b[?1049h\x1b[?7l"
_LEAVE = b"\x1b[0m\x1b[?25h\x1b[?7h\x1b[?1049l"
_CLEAR = "\x1b[0m\x1b[2J"


def _terminal_size() -> tuple[int, int]:
    """Columns and lines of standard output."""
    try:
        return os.get_terminal_size(1)
    except OSError:
        return 80, ROWS


class LiveScreen:
    """Shows a machine's text page on a terminal.

    Args:
        machine: one with the devices of a PC.
        write: takes bytes for the terminal; never blocks. All of the console's output has to go
            through `LiveScreen.write` instead.
        always: show the screen although the guest uses its console.
        size: says how many columns and lines the terminal has now.
    """

    def __init__(
        self,
        machine: Machine,
        write: Callable[[bytes], None],
        *,
        always: bool = False,
        size: Callable[[], tuple[int, int]] = _terminal_size,
    ) -> None:
        self.shown = False
        """The terminal shows the page now, and not the console's stream."""
        self._machine = machine
        self._write = write
        self._always = always
        self._size = size
        vga = machine.devices.get("vga")
        self._vga = vga if isinstance(vga, VgaText) else VgaText()
        self._over = not machine.memory.contains(_WINDOW, _WINDOW_SIZE)
        self._before = b"" if self._over else self._page(ROWS * 80 * 2)
        self._streamed = 0
        self._holds = False
        self._held = 0
        self._rows: list[bytes] = []
        self._look: tuple[int | None, int, int, int, bool] | None = None

    def start(self) -> None:
        """Begin to watch the page."""
        if not self._over:
            self._machine.events.call_later(_PERIOD_S, self._tick)

    def stop(self) -> bytes:
        """Draw no more; return what gives the terminal back, nothing if it was not taken.

        It is the caller's to write, behind everything that waits, when the terminal is no longer
        in raw mode. Output of the console that was held back is part of it.
        """
        with self._machine.lock:
            self._over = True
            return self._give_back() if self.shown else b""

    def hold(self) -> bytes:
        """Draw nothing until `release`; return what gives the terminal back meanwhile."""
        with self._machine.lock:
            self._holds = True
            if not self.shown:
                return b""
            self.shown = False
            self._rows, self._look = [], None
            return _LEAVE

    def release(self) -> None:
        """Draw again."""
        self._holds = False

    def write(self, data: bytes) -> None:
        """Take the console's output: to the terminal, or held back while the page is shown."""
        with self._machine.lock:
            self._streamed += len(data)
            if self.shown:
                self._held += len(data)
            else:
                self._write(data)

    # When it is shown.

    def _tick(self) -> None:
        with self._machine.lock:
            if self._over:
                return
            data = b"" if self._holds else self._update()
            if data:
                self._write(data)
        if not self._over:
            self._machine.events.call_later(_PERIOD_S, self._tick)

    def _update(self) -> bytes:
        """Look at the page; return what the terminal needs."""
        if not self._always and self._console_used():
            self._over = True
            return self._give_back() if self.shown else b""
        if self.shown:
            return self._draw()
        if not self._drawn_directly():
            return b""
        self.shown = True
        return _ENTER + self._draw()

    def _give_back(self) -> bytes:
        self.shown = False
        kept = self._machine.console.output
        if not self._console_used():
            return _LEAVE  # the BIOS's text only: it was on the page
        return _LEAVE + kept[len(kept) - min(self._held, len(kept)) :]

    def _text_sent(self) -> int:
        """How much of the console's stream is text that the BIOS put on the page as well."""
        bios = self._machine.bios
        return bios.video.sent if bios is not None else 0

    def _console_used(self) -> bool:
        return self._streamed > self._text_sent()

    def _drawn_directly(self) -> bool:
        if self._machine.bios is not None:
            return self._machine.bios.drawn_directly
        page, before = self._page(len(self._before)), self._before
        if page == before:
            return False
        return any(
            page[i] not in (0, BLANK) and page[i : i + 2] != before[i : i + 2]
            for i in range(0, len(page), 2)
        )

    # What is shown.

    def _page(self, size: int) -> bytes:
        """Bytes of the page from its upper left corner; behind the window's end it begins anew."""
        start = 2 * self._vga.start % _WINDOW_SIZE
        first = min(size, _WINDOW_SIZE - start)
        read = self._machine.memory.read
        return read(_WINDOW + start, first) + read(_WINDOW, size - first)

    def _draw(self) -> bytes:
        vga = self._vga
        columns = 40 if vga.columns == 40 else 80
        width, height = self._size()
        page = self._page(2 * columns * ROWS)
        cursor = vga.cursor
        if cursor is not None:
            cursor -= vga.start
            if not 0 <= cursor < columns * ROWS:
                cursor = None
        top = self._top(height, cursor, columns)
        stride = 2 * columns
        rows = [
            page[row * stride : row * stride + 2 * min(columns, width)]
            for row in range(top, min(top + height, ROWS))
        ]
        look = (cursor, top, width, height, vga.blinks)
        if rows == self._rows and look == self._look:
            return b""
        out = []
        if self._look is None or look[1:] != self._look[1:] or len(rows) != len(self._rows):
            out.append(_CLEAR)
            self._rows = []
        for line, cells in enumerate(rows):
            if line >= len(self._rows) or cells != self._rows[line]:
                out.append(f"\x1b[{line + 1};1H{_paint(cells, blinks=vga.blinks)}")
        if cursor is None:
            out.append("\x1b[?25l")
        else:
            row, column = divmod(cursor, columns)
            out.append(f"\x1b[{row - top + 1};{column + 1}H\x1b[?25h")
        self._rows, self._look = rows, look
        return "".join(out).encode("utf-8")

    def _top(self, height: int, cursor: int | None, columns: int) -> int:
        """The first row that a low terminal shows: where it was, unless the cursor left."""
        top = 0 if self._look is None else self._look[1]
        if cursor is not None:
            row = cursor // columns
            top = min(max(top, row - height + 1), row)
        return max(min(top, ROWS - height), 0)


def _paint(cells: bytes, *, blinks: bool) -> str:
    """A row's characters and attributes as terminal text, one SGR sequence for each colour."""
    out = []
    start = 0
    for end in range(2, len(cells) + 2, 2):
        if end >= len(cells) or cells[end + 1] != cells[start + 1]:
            out.append(_rendition(cells[start + 1], blinks=blinks) + decode(cells[start:end:2]))
            start = end
    return "".join(out)


def _rendition(attribute: int, *, blinks: bool) -> str:
    foreground, background = attribute & 0x0F, attribute >> 4
    codes = [0, (90 if foreground & 8 else 30) + COLOURS[foreground & 7]]
    if blinks and background & 8:
        codes.append(5)
        background &= 7
    codes.append((100 if background & 8 else 40) + COLOURS[background & 7])
    return f"\x1b[{';'.join(map(str, codes))}m"
