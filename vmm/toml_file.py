"""Files of TOML that users write: read with a bound, and with the line of whatever is wrong."""

from __future__ import annotations

import re
from pathlib import Path

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tomllib
    from typing import Any

__all__ = ["read_toml"]

_LARGEST = 1 << 20


def read_toml(path: str | Path, kind: str, *, whole: str, name: str) -> tuple[str, dict[str, Any]]:
    """Read a file; give its text, with LF between lines, and what it says.

    Args:
        path: the file.
        kind: what it is to be, with its article.
        whole: what errors of the whole file begin with.
        name: what errors of a line begin with, before the line's number.

    Raises:
        ConfigError: it cannot be read, or is no TOML; where a line is to blame the message says
            which.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{whole}: cannot be read: {why}") from None
    if len(data) > _LARGEST:
        raise ConfigError(f"{whole}: larger than 1 MiB; is that {kind}?")
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8, as TOML is") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}:{_not_toml(text, error)}") from None
    except RecursionError:
        raise ConfigError(f"{whole}: nested too deeply") from None


def _not_toml(text: str, error: tomllib.TOMLDecodeError) -> str:
    """tomllib says where in parentheses: at a line and a column, or at the end."""
    why, _, where = str(error).partition(" (at ")
    line = re.match(r"line (\d+)", where)
    number = int(line[1]) if line else text.rstrip("\n").count("\n") + 1
    return f"{number}: not TOML: {why[:1].lower()}{why[1:]}"
