"""What is being done, in one line that is written over, for whoever waits at a terminal.

Where standard error is a pipe or a file nothing is printed.
"""

from __future__ import annotations

import os
import sys
import time

__all__ = ["Progress"]

_EVERY_S = 0.1
"""A terminal at the end of a slow line is not kept busy."""


class Progress:
    """One line on standard error, for as long as a `with` block lasts; gone behind it."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = 0.0
        try:
            self.shown = os.isatty(sys.stderr.fileno())
        except (OSError, ValueError):
            self.shown = False

    def say(self, text: str) -> None:
        """Show what is being done now."""
        now = time.monotonic()
        if not self.shown or now - self._last < _EVERY_S:
            return
        self._last = now
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except OSError:
            width = 80
        line = " ".join(f"{self._title}: {text}".split())
        self._write("\r\x1b[K" + line[: max(width - 1, 1)])

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._last:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            self.shown = False
