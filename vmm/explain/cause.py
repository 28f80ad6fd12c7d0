"""What an explanation comes to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cause"]


@dataclass(frozen=True, slots=True)
class Cause:
    """The likely cause of a death.

    `sentence` has no full stop and starts small, so that it can follow a colon; `details` are
    facts behind it, `advice` is what to try, best first.
    """

    sentence: str
    details: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
