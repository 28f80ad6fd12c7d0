"""The first line and the last: what machine this is, and which keys there are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from vmm.tui import look
from vmm.tui.format import count, duration, rate
from vmm.tui.source import Status

__all__ = ["Footer", "StatusBar"]

_PHASES = {
    "running": look.GOOD,
    "paused": look.WARN,
    "failed": look.BAD,
    "died": look.BAD,
    "gone": look.BAD,
}


class StatusBar(Widget):
    """Name, phase, backend, uptime, exits and what is lost."""

    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__(id="status")
        self._status = Status("")
        self._flags: tuple[str, ...] = ()

    def show(self, status: Status, flags: tuple[str, ...]) -> None:
        """Show a status; `flags` are the screen's own: FROZEN, a filter."""
        if (status, flags) != (self._status, self._flags):
            self._status, self._flags = status, flags
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line."""
        s = self._status
        width = self.size.width
        phase = _PHASES.get(s.phase, look.WARN)
        left: list[tuple[str, Style]] = [
            (" glassvm ", look.HEAD),
            (s.name, look.STRONG),
            ("  ● ", phase),
            (s.phase, phase),
        ]
        for flag in self._flags:
            left += [("  ", look.PLAIN), (f" {flag} ", look.MARK)]
        if s.lost:
            left.append((f"  {count(s.lost)} lost", look.BAD))
        if s.note:
            left.append((f"  {s.note}", look.WARN))
        right: list[tuple[str, Style]] = [
            (" up ", look.DIM),
            (duration(s.uptime_ns) + "  ", look.PLAIN),
            (count(s.exits), look.STRONG),
            (" exits  ", look.DIM),
            (rate(s.rate).rjust(5), look.STRONG),
            ("/s ", look.DIM),
        ]
        if s.backend and width >= 100:
            right.insert(0, (f" {s.backend} ", look.DIM))
        used = sum(len(text) for text, _ in right)
        head = Strip([Segment(*part) for part in left]).adjust_cell_length(max(width - used, 0))
        strip = Strip.join([head, Strip([Segment(*part) for part in right])])
        return strip.adjust_cell_length(width).apply_style(self.rich_style)


class Footer(Widget):
    """Keys with what they do now; a click does the same."""

    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__(id="footer")
        self._keys: tuple[tuple[str, str, str], ...] = ()
        self._message: tuple[str, Style] | None = None
        self._spots: list[tuple[int, int, str]] = []

    def show(self, keys: Sequence[tuple[str, str, str]]) -> None:
        """Show keys: how each is called, what it does, and its action."""
        if tuple(keys) != self._keys:
            self._keys = tuple(keys)
            self.refresh()

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show a message in their place; an empty one takes it away."""
        message = (text, look.BAD if bad else look.WARN) if text else None
        if message != self._message:
            self._message = message
            self.refresh()

    @property
    def message(self) -> str:
        """What is said now."""
        return self._message[0] if self._message else ""

    def render_line(self, y: int) -> Strip:
        """The line."""
        width = self.size.width
        parts: list[tuple[str, Style]] = []
        self._spots = []
        if self._message is not None:
            parts.append((f" {self._message[0]}", self._message[1]))
        else:
            at = 0
            for key, what, action in self._keys:
                text = f" {key} {what} "
                if at + len(text) > width:
                    break
                parts += [(f" {key}", look.ACCENT), (f" {what} ", look.DIM)]
                self._spots.append((at, at + len(text), action))
                at += len(text)
        strip = Strip([Segment(text, style) for text, style in parts])
        return strip.adjust_cell_length(width).apply_style(self.rich_style)

    async def on_click(self, event: events.Click) -> None:
        """Do what was clicked."""
        for start, end, action in self._spots:
            if start <= event.x < end:
                await self.app.run_action(action)
                return
