"""Two moments and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmm.tui.format import count, duration, rate
from vmm.tui.source import Section

__all__ = ["Mark", "difference"]

_MOST = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, and everything that counts up as it was then."""

    time_ns: int
    totals: Mapping[str, float]


def difference(first: Mark, second: Mark) -> list[Section]:
    """What happened between two marks, the greatest differences first."""
    if second.time_ns < first.time_ns:
        first, second = second, first
    span = second.time_ns - first.time_ns
    seconds = span / 1e9
    groups: dict[str, list[tuple[float, str]]] = {}
    for name in {*first.totals, *second.totals}:
        more = second.totals.get(name, 0) - first.totals.get(name, 0)
        if more:
            group, _, what = name.partition(": ")
            groups.setdefault(group, []).append((more, what))
    sections = [Section("", (f"{duration(span)} lie between the marks",))]
    for group in sorted(groups):
        rows = sorted(groups[group], key=lambda row: (-abs(row[0]), row[1]))
        lines = []
        for more, what in rows[:_MOST]:
            sign = "+" if more > 0 else "-"
            if group == "time":
                share = f"{100 * more / span:5.1f}%" if span else ""
                lines.append(f"{what:<32} {sign}{duration(abs(more)):>9}  {share}")
            else:
                each = f"{rate(abs(more) / seconds)}/s" if seconds else ""
                lines.append(f"{what:<32} {sign}{count(int(abs(more))):>9}  {each:>8}")
        sections.append(Section(group, tuple(lines)))
    if len(sections) == 1:
        sections.append(Section("", ("nothing happened",)))
    return sections
