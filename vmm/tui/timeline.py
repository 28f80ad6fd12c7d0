"""A recording's time line: how busy the guest was when, and where the screen stands."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from vmm.tui import look
from vmm.tui.format import clock, sparkline
from vmm.tui.source import Span

__all__ = ["Timeline"]


class Timeline(Widget):
    """Two lines: bars with the cursor and the marks among them, and the times.

    The bars before the cursor are bright: that is what the other panes show.
    """

    ALLOW_SELECT = False

    class Sought(Message):
        """A moment was clicked."""

        def __init__(self, now_ns: int) -> None:
            super().__init__()
            self.now_ns = now_ns

    def __init__(self) -> None:
        super().__init__(id="timeline")
        self._span: Span | None = None
        self.playing = False

    def show(self, span: Span | None, playing: bool) -> None:
        """Show where it stands."""
        if (span, playing) != (self._span, self.playing):
            self._span, self.playing = span, playing
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One of the two."""
        width = self.size.width
        span = self._span
        if span is None:
            return Strip.blank(width, self.rich_style)
        total = max(span.end_ns - span.begin_ns, 1)
        at = min((span.now_ns - span.begin_ns) * width // total, width - 1)
        if y == 0:
            bars = _fold(span.density, width)
            line = sparkline(bars, width)
            marks = {min(int((m - span.begin_ns) * width // total), width - 1) for m in span.marks}
            cells = []
            for x, character in enumerate(line):
                if x == at:
                    cells.append(Segment("┃", look.STRONG))
                elif x in marks:
                    cells.append(Segment("◆", look.WARN))
                else:
                    cells.append(Segment(character, look.ACCENT if x < at else look.DIM))
            strip = Strip(cells).simplify()
        else:
            state = "▶ playing" if self.playing else "‖ standing"
            now = f"{state} at {clock(span.now_ns - span.begin_ns)} s"
            end = f"{clock(total)} s "
            room = max(width - len(end) - 2, 0)
            text = now.center(room) if width > 40 else now
            strip = Strip([
                Segment("0 ", look.DIM), Segment(text.ljust(room), look.PLAIN),
                Segment(end, look.DIM),
            ])  # fmt: skip
        return strip.adjust_cell_length(width).apply_style(self.rich_style + Style())

    def on_click(self, event: events.Click) -> None:
        """Go to the moment that was clicked."""
        if self._span is None or not self.size.width:
            return
        total = self._span.end_ns - self._span.begin_ns
        self.post_message(
            self.Sought(self._span.begin_ns + total * (event.x + 1) // self.size.width)
        )


def _fold(density: object, width: int) -> list[float]:
    """Bars for `width` columns from any number of parts: the greatest of each column's."""
    values = [float(v) for v in density]  # type: ignore[attr-defined]
    if not values:
        return [0.0] * width
    folded = []
    for x in range(width):
        first = x * len(values) // width
        last = max((x + 1) * len(values) // width, first + 1)
        folded.append(max(values[first:last]))
    return folded
