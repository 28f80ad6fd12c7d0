"""Numbers for people: aligned, with units, never wider than asked for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bar", "bytes_text", "clock", "count", "duration", "percent", "rate", "sparkline"]

_STEPS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"
_NONE = "-"


def count(value: int) -> str:
    """A number of things in at most 7 characters: "12,345", "1.23M", "45.6G"."""
    if value < 1_000_000:
        return f"{value:,}"
    return _scaled(float(value))


def rate(per_second: float) -> str:
    """Things a second in at most 6 characters: "0.3", "812", "73.1k"."""
    if per_second <= 0:
        return _NONE
    if per_second < 9.95:
        return f"{per_second:.1f}"
    if per_second < 999.5:
        return f"{per_second:.0f}"
    return _scaled(per_second)


def duration(nanoseconds: float | None) -> str:
    """A time in at most 6 characters: "940ns", "13.2µs", "1.05ms", "12.3s", "3h05m"."""
    if nanoseconds is None or nanoseconds < 0:
        return _NONE
    if nanoseconds < 999.5:
        return f"{nanoseconds:.0f}ns"
    for size, unit in ((1e3, "µs"), (1e6, "ms"), (1e9, "s")):
        if nanoseconds < 999.5 * size and (unit != "s" or nanoseconds < 120e9):
            return _three(nanoseconds / size) + unit
    seconds = int(nanoseconds / 1e9)
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds // 60 % 60:02}m"


def clock(nanoseconds: int) -> str:
    """A moment since the start: "12.345678" s, or "1:02:03.456"."""
    seconds, rest = divmod(max(nanoseconds, 0), 1_000_000_000)
    if seconds < 100:
        return f"{seconds}.{rest // 1000:06}"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{seconds:02}.{rest // 1_000_000:03}"


def percent(share: float) -> str:
    """A share of one in at most 5 characters: "12.3%", "<0.1%"."""
    if share <= 0:
        return _NONE
    if share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.1f}%" if share < 0.9995 else "100%"


def bytes_text(size: int) -> str:
    """A size in bytes: "512", "64K", "1.5M"."""
    for shift, unit in ((30, "G"), (20, "M"), (10, "K")):
        if size >> shift:
            return f"{size / (1 << shift):.1f}".removesuffix(".0") + unit
    return str(size)


def sparkline(values: Sequence[float], width: int, top: float | None = None) -> str:
    """The last `width` values as bars of eighths, the newest at the right.

    `top` is the value of a full bar; the greatest of them unless given. Anything above nothing
    shows.
    """
    shown = list(values)[-width:]
    highest = max(shown, default=0.0) if top is None else top
    if highest <= 0:
        return " " * width
    line = "".join(_STEPS[0 if v <= 0 else max(1, min(8, round(8 * v / highest)))] for v in shown)
    return line.rjust(width)


def bar(share: float, width: int) -> str:
    """A share of one as a bar, `width` characters long when full."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_PARTS[rest] if rest else "")).ljust(width)


def _scaled(value: float) -> str:
    for size, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        if value < 999.5 * size or unit == "T":
            return _three(value / size) + unit
    raise AssertionError


def _three(value: float) -> str:
    """Three significant digits."""
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
