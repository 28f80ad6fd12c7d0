"""Reading the values of options: each gives the value, or one line that says what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vmm.errors import ConfigError

__all__ = ["address", "addresses", "close_to", "count", "duration_ns", "one_of", "seconds", "size"]

_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}

_LONGEST_S = 1e9
"""30 years: more than the host's timers can be set to is no bound at all."""

Reader = Callable[[str], object]


def count(option: str) -> Callable[[str], int]:
    """Read a whole number above 0."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if value < 1:
            raise ConfigError(f"{option} {text}: give a whole number above 0")
        return value

    return read


def seconds(option: str) -> Callable[[str], float]:
    """Read a time in seconds, above 0 and below 30 years."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= _LONGEST_S:
            raise ConfigError(f"{option} {text}: give seconds above 0, for example 2.5")
        return value

    return read


def address(option: str) -> Callable[[str], int]:
    """Read an address or a number of a drive, decimal or 0x..."""

    def read(text: str) -> int:
        try:
            return int(text, 0)
        except ValueError:
            raise ConfigError(f"{option} {text}: not a number; write 1048576 or 0x100000") from None

    return read


def addresses(option: str) -> Callable[[str], range]:
    """Read an address, or two with a dash between: the first and the last of a range."""
    single = address(option)

    def read(text: str) -> range:
        low, dash, high = text.partition("-")
        first = single(low)
        last = single(high) if dash else first
        if not 0 <= first <= last:
            raise ConfigError(f"{option} {text}: a range goes up: 0x3f8-0x3ff")
        return range(first, last + 1)

    return read


def duration_ns(option: str) -> Callable[[str], int]:
    """Read a time with its unit, 10us or 1.5s, or in seconds without one; gives nanoseconds."""

    def read(text: str) -> int:
        number = text.rstrip("nuµms")
        factor = _UNITS_NS.get(text[len(number) :] or "s")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if factor is None or not 0 <= value <= _LONGEST_S:
            raise ConfigError(f"{option} {text}: give a time with its unit: 10us, 1.5ms, 2s")
        return round(value * factor)

    return read


def size(option: str) -> Callable[[str], str]:
    """Check a size in bytes, 64M, and leave it as it is written."""

    def read(text: str) -> str:
        from vmm.layout import parse_size

        parse_size(text, what=option.removeprefix("--"))
        return text

    return read


def one_of(option: str, choices: Sequence[str]) -> Callable[[str], str]:
    """Read one of some words."""

    def read(text: str) -> str:
        if text in choices:
            return text
        hint = close_to(text, choices) or f"choose from {', '.join(choices)}"
        raise ConfigError(f"{option} {text}: not known; {hint}")

    return read


def close_to(word: str, known: Iterable[str]) -> str:
    """Say "did you mean ...?", or nothing where no known word is like it; of two that are, one that
    begins with the word."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), 3)
    near.sort(key=lambda other: not other.startswith(word))
    return f"did you mean {near[0]}?" if near else ""
