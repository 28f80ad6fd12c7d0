"""Which panes are shown at a terminal's size, and where: a function from numbers to rectangles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PANES", "Rect", "arrange"]

PANES = ("reasons", "devices", "log", "cpu", "console", "kernel", "screen")
"""All panes, in the order of their numbers, from 1."""

_CONSOLE = 80
_GAP = 1


@dataclass(frozen=True, slots=True)
class Rect:
    """A part of the terminal, in characters."""

    x: int
    y: int
    width: int
    height: int


def arrange(width: int, height: int, *, screen: bool = False, live: bool = True) -> dict[str, Rect]:
    """Lay out the panes that have room.

    Args:
        width: of the terminal.
        height: of what status bar and footer leave.
        screen: the guest has a text screen that is worth a place.
        live: there is a machine, with registers and counters in the kernel; a recording has none.
    """
    low = height < 30
    if width >= 168 and not low:
        return _wide(width, height, screen=screen, live=live)
    if width >= 110 and not low:
        return _normal(width, height, screen=screen, live=live)
    console = "screen" if screen else "console"
    if low:
        return _rows(width, height, {"reasons": (6, 0), "log": (6, 1), console: (7, 1)})
    return _rows(
        width, height, {"reasons": (7, 0), "devices": (7, 1), "log": (7, 1), console: (9, 1)}
    )


def _rows(width: int, height: int, wanted: Mapping[str, tuple[int, int]]) -> dict[str, Rect]:
    """One pane under the other: each gets its least height and a share of the rest."""
    heights = _share(height, wanted)
    rects, y = {}, 0
    for name, size in heights.items():
        rects[name] = Rect(0, y, width, size)
        y += size
    return rects


def _normal(width: int, height: int, *, screen: bool, live: bool) -> dict[str, Rect]:
    rows = _share(height, {"reasons": (8, 0), "devices": (9, 1), "log": (8, 2), "console": (10, 2)})
    right = width - _CONSOLE - _GAP
    rects, y = {}, 0
    rects["reasons"] = Rect(0, y, width, rows["reasons"])
    y += rows["reasons"]
    cpu = 52 if width >= 130 else 46
    if live:
        rects["devices"] = Rect(0, y, width - cpu - _GAP, rows["devices"])
        rects["cpu"] = Rect(width - cpu, y, cpu, rows["devices"])
    else:
        rects["devices"] = Rect(0, y, width, rows["devices"])
    y += rows["devices"]
    rects["log"] = Rect(0, y, width, rows["log"])
    y += rows["log"]
    bottom = rows["console"]
    rects["screen" if screen else "console"] = Rect(0, y, _CONSOLE, bottom)
    if live:
        rects["kernel"] = Rect(width - right, y, right, bottom)
    return rects


def _wide(width: int, height: int, *, screen: bool, live: bool) -> dict[str, Rect]:
    right = min(max(_CONSOLE, width * 2 // 5), width - 88)
    left = width - right - _GAP
    x = width - right
    rects = _rows(left, height, {"reasons": (9, 1), "devices": (11, 2), "log": (10, 7)})
    upper = min(24, height // 2) if live else 0
    cpu = min(52, right)
    if live:
        rects["cpu"] = Rect(x, 0, cpu, upper)
        if right - cpu - _GAP >= 24:
            rects["kernel"] = Rect(x + cpu + _GAP, 0, right - cpu - _GAP, upper)
    lower = height - upper
    if screen and lower >= 44:
        rects["screen"] = Rect(x, upper, right, 26)
        rects["console"] = Rect(x, upper + 26, right, lower - 26)
    else:
        rects["screen" if screen else "console"] = Rect(x, upper, right, lower)
    return rects


def _share(height: int, wanted: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Share out lines: the least of each, then the rest by weight; the last gets what is odd."""
    least = sum(size for size, _ in wanted.values())
    weights = sum(weight for _, weight in wanted.values())
    rest = max(height - least, 0)
    sizes = {
        name: size + rest * weight // max(weights, 1) for name, (size, weight) in wanted.items()
    }
    last = list(sizes)[-1]
    sizes[last] = max(sizes[last] + height - sum(sizes.values()), 2)
    return sizes
