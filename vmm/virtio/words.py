"""The words of options for devices: `user,tcp=2222:22,mac=52:54:00:12:34:56`.

A kind comes first, alone or with its value, then keys with values, separated by commas. What is
wrong is told with the option's name and what it takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmm.errors import ConfigError

__all__ = ["Words"]


class Words:
    """The words of one option.

    Args:
        option: its name: "--net".
        text: what stands behind it.
        keys: those that it takes.

    Raises:
        ConfigError: a key is unknown or has no value.
    """

    def __init__(self, option: str, text: str, keys: Iterable[str]) -> None:
        self.option, self.text = option, text
        self._keys = tuple(keys)
        kind, *rest = text.split(",")
        self.kind, self.has_value, self.value = kind.partition("=")
        """The first word; of `tap=tap0` kind and value."""
        self._given: dict[str, list[str]] = {}
        for word in rest:
            key, equals, value = word.partition("=")
            if key not in self._keys or not equals or not value:
                raise self.error(f"{word!r} is none of {', '.join(f'{k}=' for k in self._keys)}")
            self._given.setdefault(key, []).append(value)

    def all(self, key: str) -> tuple[str, ...]:
        """The values of a key that may be given more than once."""
        return tuple(self._given.get(key, ()))

    def one(self, key: str) -> str | None:
        """The value of a key, None where it is not given.

        Raises:
            ConfigError: it is given twice.
        """
        values = self.all(key)
        if len(values) > 1:
            raise self.error(f"{key}= is given {len(values)} times")
        return values[0] if values else None

    def error(self, what: str) -> ConfigError:
        """An error about this option."""
        return ConfigError(f"{self.option} {self.text}: {what}")
