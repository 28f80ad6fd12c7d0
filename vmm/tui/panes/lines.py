"""A widget that draws lines by itself, with a cursor and a fixed heading.

Textual's line interface is used because a screen that changes ten times a second must not cost
the guest its processor: a pane renders the lines that are visible, and only those that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from vmm.tui import look

__all__ = ["Lines", "Parts"]

Parts = Sequence[tuple[str, Style]]
"""A line: pieces of text with their styles."""


class Lines(Widget, can_focus=True):
    """Lines that are fetched when they are shown.

    A pane overrides `total` and `line`, and says `redraw()` when they may have changed.
    """

    ALLOW_SELECT = False

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home", "edge(-1)", "first", show=False),
        Binding("end", "edge(1)", "last", show=False),
        Binding("enter", "choose", "look into", show=False),
    ]

    class Chosen(Message):
        """A line was chosen: Enter, or a double click."""

        def __init__(self, pane: Lines, index: int) -> None:
            super().__init__()
            self.pane = pane
            self.index = index

    has_heading = False
    has_cursor = True

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.top = 0
        """The first line that is visible."""
        self.cursor = 0
        self._drawn: dict[int, object] = {}

    # What a pane has to say.

    def total(self) -> int:
        """How many lines there are."""
        raise NotImplementedError

    def line(self, index: int, width: int) -> Parts:
        """One of them."""
        raise NotImplementedError

    def heading(self, width: int) -> Parts:
        """The line above them, where there is one."""
        return ()

    def heading_clicked(self, x: int) -> None:
        """The heading was clicked at column `x`."""

    # Drawing.

    @property
    def rows(self) -> int:
        """How many lines have room."""
        return max(self.size.height - self.has_heading, 0)

    def redraw(self) -> None:
        """Draw the lines anew that changed."""
        self._clamp()
        if not self.is_mounted or not self.display or not self.size:
            return
        width = self.size.width
        regions = []
        for y in range(self.size.height):
            parts = self._parts(y, width)
            if self._drawn.get(y) != parts:
                regions.append(Region(0, y, width, 1))
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        """One line of the widget, as Textual wants it."""
        width = self.size.width
        drawn = self._drawn[y] = self._parts(y, width)
        parts, background = drawn
        strip = Strip([Segment(text, style) for text, style in parts])
        strip = strip.adjust_cell_length(width)
        return strip.apply_style(self.rich_style + background)

    def _parts(self, y: int, width: int) -> tuple[tuple[tuple[str, Style], ...], Style]:
        if self.has_heading and y == 0:
            return tuple(self.heading(width)), look.PLAIN
        index = self.top + y - self.has_heading
        if index >= self.total():
            return (), look.PLAIN
        background = look.PLAIN
        if index == self.cursor and self.has_cursor:
            background = look.SELECTED if self.has_focus else look.UNFOCUSED
        return tuple(self.line(index, width)), background

    def on_resize(self) -> None:
        """Keep the cursor visible."""
        self._drawn.clear()
        self.redraw()

    def on_focus(self) -> None:
        """The cursor's line shows whether the pane is focused."""
        self.redraw()

    def on_blur(self) -> None:
        """The cursor's line shows whether the pane is focused."""
        self.redraw()

    # Moving.

    def move_to(self, index: int) -> None:
        """Put the cursor on a line and make that visible."""
        self.cursor = index
        self._clamp()
        if self.cursor < self.top:
            self.top = self.cursor
        elif self.cursor >= self.top + self.rows:
            self.top = self.cursor - self.rows + 1
        self.moved()
        self.redraw()

    def moved(self) -> None:
        """The cursor was moved by the user."""

    def action_move(self, by: int) -> None:
        """Move the cursor by lines."""
        if self.has_cursor:
            self.move_to(self.cursor + by)
        else:
            self._scroll(by)

    def action_page(self, by: int) -> None:
        """Move the cursor by pages."""
        self.action_move(by * max(self.rows - 1, 1))

    def action_edge(self, which: int) -> None:
        """Move to the first or the last line."""
        self.action_move(which * self.total())

    def action_choose(self) -> None:
        """Choose the line under the cursor."""
        if self.has_cursor and self.cursor < self.total():
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where it was clicked; a double click chooses."""
        where = event.get_content_offset(self)
        if where is None:
            return
        if self.has_heading and where.y == 0:
            self.heading_clicked(where.x)
        elif self.has_cursor and self.top + where.y - self.has_heading < self.total():
            self.move_to(self.top + where.y - self.has_heading)
            if event.chain == 2:
                self.action_choose()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll by three lines."""
        event.stop()
        self._scroll(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll by three lines."""
        event.stop()
        self._scroll(3)

    def _scroll(self, by: int) -> None:
        self.top += by
        self._clamp()
        if self.has_cursor and self.rows:
            self.cursor = min(max(self.cursor, self.top), self.top + self.rows - 1)
            self.moved()
        self.redraw()

    def _clamp(self) -> None:
        total = self.total()
        self.cursor = max(min(self.cursor, total - 1), 0)
        self.top = max(min(self.top, total - self.rows), 0)
