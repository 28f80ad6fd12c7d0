"""What a machine says it is: the texts of its SMBIOS tables, as users give them.

The words are those of QEMU's -smbios: "type=1,serial=S-17,uuid=..." or, since nearly everything
that is set belongs to the system, "serial=S-17". A comma in a value is written twice.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

from devices.records import Record
from firmware.smbios import FIELDS
from vmm.errors import ConfigError

__all__ = ["Identity"]

_SYSTEM, _OEM_STRINGS = 1, 11
_NAMES = {0: "BIOS", 1: "system", 3: "chassis", 11: "OEM strings"}


class Identity(Record):
    """The texts by type and name, as `firmware.smbios` takes them, and the user's own strings."""

    texts: dict[tuple[int, str], str]
    oem_strings: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: Iterable[str]) -> Identity:
        """Read what was given to `--smbios`, each time.

        Raises:
            ConfigError: a part is no NAME=VALUE, a type or a name is not known, or a value cannot
                be.
        """
        texts: dict[tuple[int, str], str] = {}
        strings: list[str] = []
        for text in given:
            parts = re.findall(r"(?:,,|[^,])+", text) or [""]
            pairs = [_pair(part, text) for part in parts]
            kind = _SYSTEM
            if pairs[0][0] == "type":
                kind = _type(pairs.pop(0)[1], text)
            for name, value in pairs:
                if name not in FIELDS[kind]:
                    raise ConfigError(
                        f"--smbios {text}: the {_NAMES[kind]} has no {name!r}; there are "
                        f"{', '.join(FIELDS[kind])}"
                    )
                if not value or not value.isprintable():
                    raise ConfigError(f"--smbios {text}: {name} is empty or cannot be printed")
                if kind == _OEM_STRINGS:
                    strings.append(value)
                    continue
                if name == "uuid":
                    value = _uuid(value, text)
                texts[kind, name] = value
        return cls(texts, tuple(strings))


def _pair(part: str, text: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals:
        raise ConfigError(f"--smbios {text}: {part!r} is not NAME=VALUE, such as serial=S-17")
    return name, value.replace(",,", ",")


def _type(value: str, text: str) -> int:
    kind = int(value) if value.isdecimal() else -1
    if kind not in FIELDS:
        known = ", ".join(f"{number} ({_NAMES[number]})" for number in FIELDS)
        raise ConfigError(f"--smbios {text}: type {value} cannot be set; there are {known}")
    return kind


def _uuid(value: str, text: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise ConfigError(
            f"--smbios {text}: {value!r} is no UUID, such as {uuid.UUID(int=0x17)}"
        ) from None
