"""Moving in the time of a recording, by keys and by clicks on its time line."""

from __future__ import annotations

from textual import on

from vmm.tui.base import PanesApp
from vmm.tui.timeline import Timeline

__all__ = ["SeekingApp"]


class SeekingApp(PanesApp, inherit_bindings=False):
    """The panes, at any moment of a recording."""

    def action_seek(self, steps: int) -> None:
        """Move on a recording's time line, by hundredths."""
        span = self.source.span
        if span is not None:
            step = max((span.end_ns - span.begin_ns) // 100, 1)
            self._seek(span.now_ns + steps * step)

    def action_seek_exit(self, step: int) -> None:
        """Go to the next exit of a recording, or to the one before."""
        if self.source.span is not None:
            self.source.seek_exit(step)
            self._sought()

    def play(self, seconds: float) -> None:
        """Go on by that much, at the speed of the guest."""
        span = self.source.span
        if span is None or span.now_ns >= span.end_ns:
            self.playing = False
        else:
            self._seek(span.now_ns + int(seconds * 1e9))

    @on(Timeline.Sought)
    def _clicked(self, message: Timeline.Sought) -> None:
        self._seek(message.now_ns)

    def _seek(self, now_ns: int) -> None:
        self.source.seek(now_ns)
        self._sought()

    def _sought(self) -> None:
        if self.source.restarted:
            self.guest_console.clear()
        self.log_pane.follows = True
        self.refresh_all()
