"""The panes around a `Source`: laid out, and refreshed while it changes.

The screen shares its processors with the guest, so it is frugal: one timer asks the source ten
times a second, panes are drawn a few times a second, hidden ones not at all, and only lines that
changed. Where asking and drawing take long it rests for as long again and more, so that a slow
host is left to its guest. Panes under a dialog are drawn once a second: there each change draws the
whole terminal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual import events
from textual.app import App, ComposeResult
from textual.containers import Container
from textual.geometry import Size
from textual.widget import Widget
from textual.widgets import Input

from vmm.tui import look
from vmm.tui.arrange import PANES, Rect, arrange
from vmm.tui.bars import Footer, StatusBar
from vmm.tui.panes.activity import devices_table, reasons_table
from vmm.tui.panes.console import ConsolePane
from vmm.tui.panes.cpu import CpuPane
from vmm.tui.panes.kernel import counters_table
from vmm.tui.panes.log import Log
from vmm.tui.panes.table import Table
from vmm.tui.panes.textscreen import TextScreenPane
from vmm.tui.panes.typed import TypedPane
from vmm.tui.source import Source
from vmm.tui.timeline import Timeline

__all__ = ["PanesApp"]

TICK_S = 0.1
_TABLES_EVERY, _LOG_EVERY = 4, 2
"""In ticks: numbers that change more often cannot be read."""
_COVERED_EVERY = 10
_REST, _LONGEST_REST_S = 2.0, 2.0
"""The time to rest behind a tick, as a multiple of what it and the drawing took, and its limit."""
_SAID_S = 4.0
_TITLES = {
    "reasons": "exits",
    "devices": "devices and ports",
    "log": "log",
    "cpu": "vCPU",
    "console": "console",
    "kernel": "kernel",
    "screen": "text screen",
}


class PanesApp(App[str], inherit_bindings=False):
    """The panes, without anything that a user can do.

    Args:
        source: what is shown.
    """

    CSS_PATH = "style.tcss"
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    ESCAPE_TO_MINIMIZE = False

    def __init__(self, source: Source) -> None:
        super().__init__(ansi_color=False)
        self.source = source
        self.frozen = False
        self.ticks = 0
        """Tenths of a second, also those that were rested."""
        self._ticked = self._log_shown = self._tables_shown = self._bars_shown = 0
        self._rest_until = 0.0
        self._had_page = False
        self._titles: dict[str, str] = {}
        self._size_now: Size | None = None
        self.alone = ""
        """The pane that has the whole terminal, or nothing."""
        self.playing = False
        """A recording moves on by itself."""
        self.reasons = reasons_table()
        self.devices = devices_table()
        self.log_pane = Log(source.entry)
        self.cpu = CpuPane()
        self.guest_console = ConsolePane()
        self.kernel = counters_table()
        self.page = TextScreenPane()
        self.status = StatusBar()
        self.footer = Footer()
        self.timeline = Timeline()
        self.entry = Input(id="entry")
        panes = (self.reasons, self.devices, self.log_pane, self.cpu, self.guest_console,
                 self.kernel, self.page)  # fmt: skip
        self._panes: dict[str, Widget] = dict(zip(PANES, panes, strict=True))

    # -- what it is made of -----------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Bars above and below, the panes between."""
        yield self.status
        if not self.source.live:
            yield self.timeline
        yield Container(*self._panes.values(), id="body")
        yield self.footer
        yield self.entry

    def on_mount(self) -> None:
        """Begin."""
        self.register_theme(look.THEME)
        self.theme = look.THEME.name
        self.guest_console.typing = self.page.typing = self.source.live
        self.arrange_panes()
        self.reasons.focus()
        self.refresh_all()
        self.set_interval(TICK_S, self._tick)

    def on_resize(self, event: events.Resize) -> None:
        """Lay out the panes for the terminal's size."""
        self._size_now = event.size
        self.arrange_panes()

    def pane(self, name: str) -> Widget:
        """A pane by its name."""
        return self._panes[name]

    def arrange_panes(self) -> None:
        """Give the panes their places."""
        size = self._size_now or self.size
        width, height = max(size.width, 1), size.height - 2 - (0 if self.source.live else 2)
        if self.alone:
            rects = {self.alone: Rect(0, 0, width, height)}
        else:
            page = self.source.page is not None
            rects = arrange(width, height, screen=page, live=self.source.live)
        for name in PANES:
            pane, rect = self.pane(name), rects.get(name)
            pane.display = rect is not None
            if rect is not None:
                pane.styles.offset = (rect.x, rect.y)
                pane.styles.width, pane.styles.height = rect.width, rect.height
        self._had_page = self.source.page is not None
        shown = frozenset(rects)
        wanted = {"cpu": "cpus", "kernel": "counters"}
        self.source.want(
            frozenset({"console", "page"} | {wanted[n] for n in shown & wanted.keys()})
        )

    # -- refreshing -------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """The application is being taken down: whatever comes now comes too late."""
        return not self.screen_stack

    def _tick(self) -> None:
        self.ticks += 1
        began = time.monotonic()
        if self.over or began < self._rest_until:
            return
        passed, self._ticked = self.ticks - self._ticked, self.ticks
        covered = len(self.screen_stack) > 1
        self.source.poll()
        if not self.frozen:
            self.guest_console.feed(self.source.console())
            if self.ticks - self._log_shown >= (_COVERED_EVERY if covered else _LOG_EVERY):
                self._log_shown = self.ticks
                self._show_log()
            if self.ticks - self._tables_shown >= (_COVERED_EVERY if covered else _TABLES_EVERY):
                self._tables_shown = self.ticks
                self._show_tables()
        if not covered or self.ticks - self._bars_shown >= _COVERED_EVERY:
            self._bars_shown = self.ticks
            self.show_bars()
        self.ticked(passed)
        self.call_after_refresh(self._drawn, began)

    def _drawn(self, began: float) -> None:
        now = time.monotonic()
        self._rest_until = now + min((now - began) * _REST, _LONGEST_REST_S)

    def ticked(self, passed: int) -> None:
        """Called ten times a second, or more seldom, with the ticks since the last call."""

    def keys(self) -> Sequence[tuple[str, str, str]]:
        """What the footer shows: keys, what they do, and their actions."""
        return ()

    def refresh_all(self) -> None:
        """Show everything as it is now."""
        self.source.poll()
        self.guest_console.feed(self.source.console())
        self._show_log()
        self._show_tables()
        self.show_bars()

    def _show_log(self) -> None:
        self.log_pane.show(self.source.records)
        if (self.source.page is not None) != self._had_page:
            self.arrange_panes()
        self.page.show(self.source.page)

    def _show_tables(self) -> None:
        self.reasons.show(self.source.reasons)
        self.devices.show(self.source.places)
        if self.cpu.display:
            self.cpu.show(self.source.cpus)
        if self.kernel.display:
            self.kernel.show(self.source.counters)

    def show_bars(self) -> None:
        """Show the first line, the last, the titles and the time line."""
        status = self.source.status
        flags = (
            *(["FROZEN"] if self.frozen else []),
            *([f"filter: {self.log_pane.filter}"] if self.log_pane.filter else []),
        )
        self.status.show(status, tuple(flags))
        for number, name in enumerate(PANES, 1):
            title = f"{number} {_TITLES[name]}{self._title_note(name)}"
            if title != self._titles.get(name):  # to set it draws the whole pane
                self._titles[name] = self.pane(name).border_title = title
        if not self.source.live:
            self.timeline.show(self.source.span, self.playing)
        self.footer.show(self.keys())

    def _title_note(self, name: str) -> str:
        pane = self.pane(name)
        if isinstance(pane, Table):
            return f" · by {pane.sorted_by}"
        if pane is self.log_pane:
            return "" if self.log_pane.follows else " · standing, End follows"
        if isinstance(pane, TypedPane) and pane.has_focus and self.source.live:
            return f" · {TypedPane.HELP}"
        return ""
