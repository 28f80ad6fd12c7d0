"""The guest's console: a terminal emulation that can be typed into."""

from __future__ import annotations

import pyte
import pyte.modes
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip

from vmm.tui import look
from vmm.tui.panes.typed import TypedPane

__all__ = ["ConsolePane"]

_COLUMNS, _ROWS = 80, 24
_HISTORY = 2000
_AT_ONCE = 64 << 10
"""Of more output than this at once only the end is shown: terminal emulation is slow."""


class ConsolePane(TypedPane):
    """What the guest writes, as its terminal would show it.

    The emulated terminal has 80 columns and 24 rows at the least, and grows with the pane; in a
    smaller pane the lower left part of it is seen, where the cursor is.
    """

    def __init__(self) -> None:
        super().__init__(id="console")
        self._terminal = pyte.HistoryScreen(_COLUMNS, _ROWS, history=_HISTORY, ratio=0.5)
        self._stream = pyte.ByteStream(self._terminal)
        self.clear()

    def clear(self) -> None:
        """Begin with an empty screen."""
        self._terminal.reset()
        # A newline alone goes to the start of the next line, as vmm run has it.
        self._terminal.set_mode(pyte.modes.LNM)
        self.refresh()

    def feed(self, data: bytes) -> None:
        """Take output."""
        if not data:
            return
        self._live()
        before = self._cursor
        self._stream.feed(data[-_AT_ONCE:])
        if self.display and self.size:
            if before != self._cursor:
                self._terminal.dirty.update((before, self._cursor))
            self.refresh()
        self._terminal.dirty.clear()

    @property
    def lines(self) -> list[str]:
        """What is shown, as text."""
        return [line.rstrip() for line in self._terminal.display]

    @property
    def _cursor(self) -> int:
        return int(self._terminal.cursor.y)

    def on_resize(self, event: events.Resize) -> None:
        """The emulated terminal grows with the pane."""
        rows, columns = max(event.size.height, _ROWS), max(event.size.width, _COLUMNS)
        if (rows, columns) != (self._terminal.lines, self._terminal.columns):
            self._live()
            _resize(self._terminal, rows, columns)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line."""
        screen = self._terminal
        width, height = self.size
        bottom = max(self._cursor + 1, self._last_used() + 1)
        first = max(min(bottom, screen.lines) - height, 0)
        row = first + y
        segments: list[Segment] = []
        if row < screen.lines:
            cells = screen.buffer[row]
            cursor = screen.cursor
            shown = self.has_focus and not cursor.hidden and row == cursor.y
            text, style = "", look.PLAIN
            for column in range(min(width, screen.columns)):
                cell = cells[column]
                here = _style(cell)
                if shown and column == min(cursor.x, screen.columns - 1):
                    here = Style(color="#0f1318", bgcolor="#c9d1d9")
                if here is not style and here != style:
                    segments.append(Segment(text, style))
                    text, style = "", here
                text += cell.data
            segments.append(Segment(text, style))
        strip = Strip(segments).adjust_cell_length(width)
        return strip.apply_style(self.rich_style)

    def _last_used(self) -> int:
        rows = [row for row, cells in self._terminal.buffer.items() if cells]
        return min(max(rows, default=0), self._terminal.lines - 1)

    def on_focus(self) -> None:
        """The cursor shows only while keys go to the guest."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor shows only while keys go to the guest."""
        self.refresh()

    def typed(self) -> None:
        """What is typed shows at the end."""
        self._live()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Look back."""
        event.stop()
        self._terminal.prev_page()
        self.refresh()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Look forward."""
        event.stop()
        self._terminal.next_page()
        self.refresh()

    def _live(self) -> None:
        """Leave what has scrolled away."""
        history = self._terminal.history
        while history.position < history.size:
            self._terminal.next_page()
            history = self._terminal.history


def _resize(screen: pyte.HistoryScreen, rows: int, columns: int) -> None:
    """Change a terminal's size; where rows go, the ones above the cursor do."""
    surplus = screen.cursor.y - rows + 1
    if surplus > 0:
        for _ in range(surplus):
            top = screen.buffer[0]
            screen.history.top.append(top)
            for row in range(screen.lines - 1):
                screen.buffer[row] = screen.buffer[row + 1]
            screen.buffer.pop(screen.lines - 1, None)
        screen.cursor.y -= surplus
    y, x = screen.cursor.y, screen.cursor.x
    for row in [r for r in screen.buffer if r >= rows]:
        screen.buffer.pop(row)
    screen.lines, screen.columns = rows, columns
    screen.set_margins()
    screen.cursor.y, screen.cursor.x = min(y, rows - 1), min(x, columns - 1)


_COLOURS = {
    "black": "#3b424b", "red": "#f47067", "green": "#7ec16e", "brown": "#d9a23b",
    "blue": "#5e9ded", "magenta": "#c88bea", "cyan": "#56c2c9", "white": "#c9d1d9",
    "brightblack": "#6e7a87", "brightred": "#ff938a", "brightgreen": "#a2e08f",
    "brightbrown": "#f2cc60", "brightyellow": "#f2cc60", "brightblue": "#8fc0ff",
    "brightmagenta": "#dbb0f5", "bfightmagenta": "#dbb0f5", "brightcyan": "#8fe3e8",
    "brightwhite": "#ffffff",
}  # fmt: skip

_styles: dict[tuple[object, ...], Style] = {}


def _style(cell: pyte.screens.Char) -> Style:
    key = cell[1:]
    found = _styles.get(key)
    if found is None:
        found = _styles[key] = Style(
            color=_colour(cell.fg) or "#c9d1d9",
            bgcolor=_colour(cell.bg),
            bold=cell.bold or None,
            italic=cell.italics or None,
            underline=cell.underscore or None,
            strike=cell.strikethrough or None,
            reverse=cell.reverse or None,
            blink=cell.blink or None,
        )
    return found


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if name in _COLOURS:
        return _COLOURS[name]
    return f"#{name}" if len(name) == 6 else None
