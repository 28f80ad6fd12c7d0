"""The text screen of a guest that draws on the page at 0xB8000."""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from vmm.bios.screen import decode
from vmm.tui.panes.typed import TypedPane
from vmm.tui.source import Page

__all__ = ["TextScreenPane"]

_PALETTE = (
    "#000000", "#0000aa", "#00aa00", "#00aaaa", "#aa0000", "#aa00aa", "#aa5500", "#aaaaaa",
    "#555555", "#5555ff", "#55ff55", "#55ffff", "#ff5555", "#ff55ff", "#ffff55", "#ffffff",
)  # fmt: skip
"""Spec: IBM VGA, default palette of the text modes."""


class TextScreenPane(TypedPane):
    """Characters and colours of the page, and its cursor."""

    def __init__(self) -> None:
        super().__init__(id="screen")
        self._page: Page | None = None

    def show(self, page: Page | None) -> None:
        """Show a page."""
        if page != self._page:
            self._page = page
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One row."""
        width, height = self.size
        page = self._page
        if page is None or not page.rows:
            text = "no text screen" if y == 0 else ""
            return Strip([Segment(text, Style(color="#6e7a87"))]).adjust_cell_length(
                width, self.rich_style
            )
        cursor = page.cursor
        top = 0
        if cursor is not None:
            top = max(min(cursor[0] - height + 1, len(page.rows) - height), 0)
        row = top + y
        if row >= len(page.rows):
            return Strip.blank(width, self.rich_style)
        cells = page.rows[row][: 2 * width]
        segments = []
        start = 0
        for end in range(2, len(cells) + 2, 2):
            if end >= len(cells) or cells[end + 1] != cells[start + 1]:
                text = decode(cells[start:end:2])
                segments.append(Segment(text, _style(cells[start + 1], page.blinks)))
                start = end
        strip = Strip(segments)
        if cursor is not None and cursor[0] == row and cursor[1] < width:
            column = cursor[1]
            under = strip.crop(column, column + 1).apply_style(Style(underline=True, bold=True))
            strip = Strip.join([strip.crop(0, column), under, strip.crop(column + 1)])
        return strip.adjust_cell_length(width, self.rich_style)


@lru_cache(maxsize=512)
def _style(attribute: int, blinks: bool) -> Style:
    back = attribute >> 4
    blink = blinks and back & 8
    return Style(
        color=_PALETTE[attribute & 15],
        bgcolor=_PALETTE[back & 7 if blinks else back],
        blink=True if blink else None,
    )
