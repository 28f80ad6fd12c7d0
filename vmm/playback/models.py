"""Making a recording's devices: their classes by name, their surroundings out of the journal."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from vmm.trace.journal import Memory, Opaque, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device

__all__ = ["model_class", "surroundings"]

Outward = Callable[[int, tuple[Any, ...]], Any]

_PATH = re.compile(r"(devices(?:\.[a-z][a-z0-9_]*)+):([A-Z][A-Za-z0-9_]*)", re.ASCII)
_UNKNOWN = -1
"""The wire of something that the recorded device did not have."""


def model_class(path: str) -> Callable[..., Device] | None:
    """The device model "devices.post:PostPort"; None for what is none of ours.

    Nothing else is ever imported: a recording may come from anybody.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    try:
        module = importlib.import_module(match[1])
    except ImportError:
        return None
    found = getattr(module, match[2], None)
    if not isinstance(found, type) or found.__module__ != match[1]:
        return None
    methods = ("read", "write", "reset")
    return found if all(callable(getattr(found, name, None)) for name in methods) else None


def surroundings(
    cls: Callable[..., Device],
    device: str,
    arguments: dict[str, Any],
    outward: Outward,
    names: dict[int, str],
) -> dict[str, Any]:
    """The arguments to make a device with: functions and memory lead to `outward`.

    `names` gets what the wires are called. A function that the class has by itself (a clock that
    nobody gave) and the recording does not know leads there as well: as one that must not be
    called.
    """
    given = {name: _connected(value, name, outward, names) for name, value in arguments.items()}
    for name, parameter in inspect.signature(cls).parameters.items():
        if (
            name not in given
            and callable(parameter.default)
            and (parameter.default is not inspect.Parameter.empty)
        ):
            given[name] = _wire(_UNKNOWN, outward)
            names[_UNKNOWN] = f"a function that {device} was not given"
    return given


def _connected(value: Any, name: str, outward: Outward, names: dict[int, str]) -> Any:
    if isinstance(value, Wire):
        names[value.number] = name
        return _wire(value.number, outward)
    if isinstance(value, Memory):
        names[value.number] = f"{name}.read"
        names[value.number + 1] = f"{name}.write"
        return _Memory(_wire(value.number, outward), _wire(value.number + 1, outward))
    return None if isinstance(value, Opaque) else value


def _wire(number: int, outward: Outward) -> Callable[..., Any]:
    return lambda *args: outward(number, args)


class _Memory:
    def __init__(self, read: Callable[..., Any], write: Callable[..., Any]) -> None:
        self.read = read
        self.write = write
