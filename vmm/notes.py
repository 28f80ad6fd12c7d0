"""What befell a machine that its user wants to know, and no exit tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["Notes"]


class Notes:
    """Sentences, in the order in which they came; on any thread."""

    def __init__(self) -> None:
        self._all: list[str] = []
        self.takers: list[Callable[[str], None]] = []
        """Called with each, as it comes."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all))

    def add(self, text: str) -> None:
        """Note one; not under a lock that a taker could wait for."""
        self._all.append(text)
        for take in list(self.takers):
            take(text)
