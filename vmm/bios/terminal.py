"""The screen's text as a stream: what INT 10h shows, sent on to the console.

The stream has a cursor of its own. It follows the screen's cursor only when something is shown:
moves are sent as cursor sequences to a terminal, as line breaks and blanks to anything else, so
that the text of a program reads well in a pipe too. Moves are relative, since the guest's screen
starts where the terminal's cursor happens to be.

Spec: ECMA-48, Control functions (CUU, CUD, CHA, ED, SGR).
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.wiring import ByteSink
from vmm.bios.screen import DEFAULT_ATTRIBUTE, ROWS, decode

__all__ = ["COLOURS", "TextStream"]

COLOURS = (0, 4, 2, 6, 1, 5, 3, 7)
"""The PC's colours count blue as 1 and red as 4, the terminal's the other way round."""


class TextStream:
    """Sends screen output to `out`. `terminal` allows cursor sequences and colours."""

    def __init__(self, out: ByteSink, *, terminal: bool) -> None:
        self._out = out
        self._terminal = terminal
        self._row = 0
        self._column = 0
        self._used = False
        self.sent = 0
        """How many bytes went out."""

    def save(self) -> dict[str, int]:
        """Where the next text goes, if nothing moves it."""
        return {"row": self._row, "column": self._column, "used": self._used}

    def load(self, saved: Mapping[str, int]) -> None:
        """Go on from there."""
        self._row, self._column = saved["row"], saved["column"]
        self._used = bool(saved["used"])

    def show(self, row: int, column: int, characters: bytes, attribute: int) -> None:
        """Show characters from a cell on; they stay within its row."""
        text = decode(characters)
        blank = not characters.strip(b" \x00\xff")
        if blank and len(characters) > 1 and not self._terminal:
            return  # a cleared area; the blanks that matter are made when text follows them
        self._move(row, column)
        if self._terminal and attribute != DEFAULT_ATTRIBUTE:
            text = f"\x1b[{_rendition(attribute)}m{text}\x1b[0m"
        self._send(text)
        self._column += len(characters)

    def control(self, row: int, column: int, code: int) -> None:
        """Send BEL, BS, CR or LF from a cell. BS at the row's start goes nowhere."""
        if code == 0x07:
            self._send("\a")
            return
        self._move(row, column)
        if code == 0x08 and column > 0:
            self._send("\b")
            self._column -= 1
        elif code == 0x0D:
            self._send("\r")
            self._column = 0
        elif code == 0x0A:
            self._send("\n")
            self._row = min(self._row + 1, ROWS - 1)

    def wrap(self) -> None:
        """Begin a new row: the last one is full."""
        self._send("\r\n")
        self._row = min(self._row + 1, ROWS - 1)
        self._column = 0

    def clear(self) -> None:
        """Clear the whole screen."""
        if self._terminal and self._used:
            self._send("\x1b[H\x1b[2J")
            self._row = self._column = 0

    def scrolled(self, rows: int) -> None:
        """Follow a whole-screen scroll up that a pipe need not repeat."""
        self._row = max(self._row - rows, 0)

    def repaint(self, lines: dict[int, bytes]) -> None:
        """Draw rows anew (row number to characters and attributes) after a window scrolled."""
        if not self._terminal:
            return
        for row, cells in lines.items():
            start = 0
            for end in range(2, len(cells) + 1, 2):
                if end == len(cells) or cells[end + 1] != cells[start + 1]:
                    self.show(row, start // 2, cells[start:end:2], cells[start + 1])
                    start = end

    @property
    def terminal(self) -> bool:
        """Whether cursor sequences are understood."""
        return self._terminal

    def _move(self, row: int, column: int) -> None:
        if (row, column) == (self._row, self._column):
            return
        if self._terminal:
            if row != self._row:
                down = row - self._row
                # Down by line feeds: at the bottom of a terminal they scroll, CUD does not.
                self._send("\n" * down if down > 0 else f"\x1b[{-down}A")
            self._send(f"\x1b[{column + 1}G")
        elif row != self._row:
            self._send("\r\n" * max(row - self._row, 1) + " " * column)
        elif column > self._column:
            self._send(" " * (column - self._column))
        else:
            self._send("\b" * (self._column - column) if column else "\r")
        self._row, self._column = row, column

    def _send(self, text: str) -> None:
        if text:
            self._used = True
            data = text.encode("utf-8")
            self.sent += len(data)
            self._out(data)


def _rendition(attribute: int) -> str:
    foreground, background = attribute & 0x0F, attribute >> 4 & 0x07
    codes = [(90 if foreground & 8 else 30) + COLOURS[foreground & 7]]
    if background:
        codes.append(40 + COLOURS[background])
    if attribute & 0x80:
        codes.append(5)
    return ";".join(map(str, codes))
