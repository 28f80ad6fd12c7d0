"""Colours, in one place: few, and each with one meaning.

Blue is for what can be chosen or is focused, green for running, yellow for standing still or
asking for attention, red for dead or lost; everything that only labels is dim.
"""

from __future__ import annotations

from rich.style import Style
from textual.theme import Theme

__all__ = [
    "ACCENT", "BAD", "BAR", "DIM", "GOOD", "HEAD", "MARK", "PLAIN", "SELECTED", "STRONG", "THEME",
    "UNFOCUSED", "WARN",
]  # fmt: skip

_BACK, _TEXT, _DIM, _BLUE = "#0f1318", "#c9d1d9", "#6e7a87", "#6cb6ff"
_GREEN, _YELLOW, _RED = "#7ec16e", "#e3b341", "#f47067"

THEME = Theme(
    "glass",
    primary=_BLUE,
    secondary="#8fa1b3",
    accent=_BLUE,
    foreground=_TEXT,
    background=_BACK,
    surface="#161b22",
    panel="#1c232c",
    success=_GREEN,
    warning=_YELLOW,
    error=_RED,
    dark=True,
)

PLAIN = Style(color=_TEXT)
DIM = Style(color=_DIM)
STRONG = Style(color="#f0f3f6", bold=True)
ACCENT = Style(color=_BLUE)
GOOD = Style(color=_GREEN)
WARN = Style(color=_YELLOW)
BAD = Style(color=_RED)
BAR = Style(color="#4a7fb5")
HEAD = Style(color=_DIM, bold=True)
MARK = Style(color=_BACK, bgcolor=_YELLOW)
SELECTED = Style(bgcolor="#1f3a57")
UNFOCUSED = Style(bgcolor="#1c232c")
