"""Exits by reason, and by device and port: two tables of one shape."""

from __future__ import annotations

from collections.abc import Callable

from vmm.tui import look
from vmm.tui.format import bar, count, duration, percent, rate, sparkline
from vmm.tui.panes.table import Column, Table
from vmm.tui.source import Activity, Spread

__all__ = ["devices_table", "reasons_table"]

Col = Column[Activity]


def _times(name: str, get: Callable[[Activity], Spread], rank: int) -> list[Col]:
    def column(title: str, pick: Callable[[Spread], int], more: int) -> Col:
        return Col(
            title,
            6,
            lambda row, width: duration(pick(get(row))) if row.count else "-",
            lambda row: pick(get(row)),
            rank + more,
            style=look.PLAIN if name == "handler" else look.DIM,
        )

    short = "g" if name == "guest" else "h"
    return [
        column(f"{short}·p50", lambda s: s.p50, 0),
        column(f"{short}·p95", lambda s: s.p95, 2),
        column(f"{short}·p99", lambda s: s.p99, 1),
        column(f"{short}·max", lambda s: s.max, 3),
    ]


def _counts() -> list[Col]:
    return [
        Col("count", 7, lambda row, w: count(row.count), lambda row: row.count, 0),
        Col("rate/s", 6, lambda row, w: rate(row.rate), lambda row: row.rate, 0, style=look.STRONG),
        Col("time", 5, lambda row, w: percent(row.share), lambda row: row.share, 2),
    ]


def _spark(rank: int, width: int = 10) -> Col:
    return Col(
        "last minute",
        width,
        lambda row, w: sparkline(row.history, w),
        rank=rank,
        left=True,
        grows=True,
        style=look.BAR,
    )


def reasons_table() -> Table[Activity]:
    """Exits by reason."""
    return Table(
        [
            Col("reason", 14, lambda row, w: row.name, lambda row: row.name, -1,
                left=True, style=look.ACCENT, descending=False),
            *_counts(),
            Col("", 8, lambda row, w: bar(row.share, w), rank=6, left=True, style=look.BAR),
            *_times("guest", lambda row: row.guest, 4),
            *_times("handler", lambda row: row.handler, 3),
            _spark(5),
        ],
        lambda row: row.key,
        sort="count",
        id="reasons",
    )  # fmt: skip


def devices_table() -> Table[Activity]:
    """Exits by device and port."""
    return Table(
        [
            Col("device", 9, lambda row, w: row.name, lambda row: row.name, -1,
                left=True, style=look.ACCENT, descending=False),
            Col("where", 9, lambda row, w: row.where, lambda row: row.key[1], -1,
                left=True, descending=False),
            *_counts(),
            Col("last access", 12, lambda row, w: row.what, rank=3, left=True, grows=True),
            *_times("handler", lambda row: row.handler, 4),
            Col("last minute", 12, lambda row, w: sparkline(row.history, w), rank=9, left=True,
                style=look.BAR),
        ],
        lambda row: row.key,
        sort="count",
        id="devices",
    )  # fmt: skip
