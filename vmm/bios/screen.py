"""The text screen in guest memory: characters and attributes, scrolled as the BIOS does.

The page at 0xB8000 (0xB0000 in mode 7) is ordinary guest memory and holds a character and an
attribute byte for each cell. A shadow of what the BIOS put there tells whether a program draws on
the screen behind the BIOS's back.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 10h - Video.
"""

from __future__ import annotations

from firmware.bios_data import Bda
from vmm.bios.host import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import GuestMemory

__all__ = ["BLANK", "ROWS", "TextScreen", "decode", "screen_text"]

ROWS = 25
BLANK = 0x20
DEFAULT_ATTRIBUTE = 0x07
_PAGES = 8
_WINDOW = 0xB0000
_WINDOW_SIZE = 0x10000

_LOW_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_GLYPHS = _LOW_GLYPHS + bytes(range(32, 256)).decode("cp437").replace("\x7f", "⌂")
_TO_TEXT = str.maketrans(dict(enumerate(_GLYPHS)))


def decode(data: bytes) -> str:
    """Turn screen bytes (code page 437, control codes as their pictures) into text."""
    return data.decode("latin-1").translate(_TO_TEXT)


def screen_text(memory: GuestMemory) -> list[str]:
    """Return the rows of the active text page, without the blanks at their ends.

    Rows that are not in guest memory come back empty; the answer is always 25 rows.
    """
    screen = TextScreen(Ram(memory))
    page = screen.active_page
    return [decode(screen.row(page, row)[::2]).rstrip(" \u00a0") for row in range(ROWS)]


class TextScreen:
    """The text pages, addressed by page, row and column. All values may come from a guest."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._shadow = bytearray(_WINDOW_SIZE)
        self._drawn = False

    @property
    def columns(self) -> int:
        """Cells in a row: 40 or 80."""
        return 40 if self._ram.get(Bda.COLUMNS, 2) == 40 else 80

    @property
    def active_page(self) -> int:
        """The page that is shown."""
        return self._ram.get(Bda.ACTIVE_PAGE) % _PAGES

    @property
    def drawn_directly(self) -> bool:
        """Whether a program wrote to the screen memory itself, so far as can be seen in it."""
        self._compare(self.active_page)
        return self._drawn

    def load(self, drawn: bool) -> None:
        """Take what memory shows for what the BIOS put there; `drawn` says whether a program had
        drawn by itself before."""
        self._shadow[:] = self._ram.read(_WINDOW, _WINDOW_SIZE) or bytes(_WINDOW_SIZE)
        self._drawn = drawn

    def address(self, page: int, row: int, column: int) -> int:
        """Guest-physical address of a cell."""
        start = 0xB0000 if self._ram.get(Bda.VIDEO_MODE) == 7 else 0xB8000
        page_bytes = 0x800 if self.columns == 40 else 0x1000
        return start + page % _PAGES * page_bytes + (row * self.columns + column) * 2

    def row(self, page: int, row: int) -> bytes:
        """Return a row: character and attribute bytes in turn."""
        data = self._ram.read(self.address(page, row, 0), self.columns * 2)
        return bytes(self.columns * 2) if data is None else data

    def cell(self, page: int, row: int, column: int) -> tuple[int, int]:
        """Return the character and the attribute of a cell."""
        value = self._ram.get(self.address(page, row, column), 2)
        return value & 0xFF, value >> 8

    def put(
        self, page: int, row: int, column: int, characters: bytes, attribute: int | None = None
    ) -> None:
        """Write characters from a cell on, within its row. Attribute None keeps what is there."""
        characters = characters[: self.columns - column]
        address = self.address(page, row, column)
        cells = bytearray(self._ram.read(address, 2 * len(characters)) or b"")
        if not cells:
            return
        cells[::2] = characters
        if attribute is not None:
            cells[1::2] = bytes([attribute]) * len(characters)
        self._store(address, cells)

    def clear(self, page: int, attribute: int = DEFAULT_ATTRIBUTE) -> None:
        """Fill a page with blanks."""
        self.fill(page, 0, ROWS - 1, 0, self.columns - 1, attribute)

    def fill(self, page: int, top: int, bottom: int, left: int, right: int, attribute: int) -> None:
        """Fill a window with blanks; its corners belong to it."""
        blanks = bytearray([BLANK, attribute]) * (right - left + 1)
        for row in range(top, bottom + 1):
            self._store(self.address(page, row, left), blanks)

    def scroll(
        self, page: int, top: int, bottom: int, left: int, right: int, rows: int, attribute: int
    ) -> None:
        """Move a window's contents up by `rows` (down where negative) and blank what is left."""
        self._compare(page)
        height, width = bottom - top + 1, 2 * (right - left + 1)
        distance = min(abs(rows), height)
        kept = range(top + distance, bottom + 1) if rows > 0 else range(top, bottom + 1 - distance)
        lines = [self.row(page, r)[2 * left : 2 * left + width] for r in kept]
        for line, row in zip(lines, kept, strict=True):
            target = row - distance if rows > 0 else row + distance
            self._store(self.address(page, target, left), bytearray(line))
        if rows > 0:
            self.fill(page, bottom - distance + 1, bottom, left, right, attribute)
        else:
            self.fill(page, top, top + distance - 1, left, right, attribute)

    def _store(self, address: int, cells: bytearray) -> None:
        if self._ram.write(address, cells):
            start = address - _WINDOW
            self._shadow[start : start + len(cells)] = cells

    def _compare(self, page: int) -> None:
        """Note cells that hold something visible which the BIOS did not put there."""
        start, size = self.address(page, 0, 0), ROWS * self.columns * 2
        found = self._ram.read(start, size)
        ours = self._shadow[start - _WINDOW : start - _WINDOW + size]
        if self._drawn or found is None or found == ours:
            return
        self._drawn = any(
            found[i] not in (0, BLANK) and found[i : i + 2] != ours[i : i + 2]
            for i in range(0, size, 2)
        )
