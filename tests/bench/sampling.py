"""Measuring two things side by side: rounds in turn, a ratio for each round.

A host is never quiet, and its speed drifts. So both sides are measured within a moment of each
other, many times, each of them first in every other round; what is reported is the median of the
rounds' ratios and how far they spread.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Comparison", "Target", "all_cpus", "compare", "pinned"]

Measure = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """What a median ratio, ours to the peer's, is to be."""

    bound: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        """Say whether `ratio` is on the right side of the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Comparison:
    """The rounds of one figure, in the figure's unit."""

    ours: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Ours to the peer's, round by round."""
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)]

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the ratios."""
        if len(self.ratios) < 2:
            return self.ratio, self.ratio
        first, _, third = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return first, third

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest ratio."""
        return min(self.ratios), max(self.ratios)


def compare(ours: Measure, peer: Measure, rounds: int) -> Comparison:
    """Measure both sides in `rounds` rounds, after one that does not count."""
    peer()
    ours()
    found = Comparison([], [])
    for number in range(rounds):
        if number % 2:
            found.ours.append(ours())
            found.peer.append(peer())
        else:
            found.peer.append(peer())
            found.ours.append(ours())
    return found


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this process, and those that it starts, on the last processor it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def all_cpus() -> Iterator[None]:
    """Leave the choice of processors to the scheduler."""
    yield
