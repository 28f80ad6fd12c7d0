"""The states of devices as values that JSON has, and back.

A state is a `Record` with a kind and a version; its fields are ints, bools, strs, bytes, None and
tuples of them. Bytes become {"hex": "..."}. What comes from a file is checked before a device sees
it: the device says itself which class its state has.
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.wiring import StateError
from vmm.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from devices.protocols import Device

__all__ = ["load_state", "rich_state", "save_state"]


def save_state(device: Device) -> dict[str, Any]:
    """The state of a device, as JSON has it.

    Raises:
        SnapshotError: the device cannot be saved; the message says why.
    """
    why = getattr(device, "cannot_save", None)
    if why is not None:
        raise SnapshotError(f"{device.name} cannot be saved: {why}")
    save = getattr(device, "save", None)
    if save is None:
        raise SnapshotError(
            f"{device.name} cannot be saved: {type(device).__name__} has neither save() and load() "
            "nor cannot_save, which would say why"
        )
    state = save()
    return {
        "kind": state.kind,
        "version": state.version,
        "fields": {name: _plain(value) for name, value in _fields(state).items()},
    }


def load_state(device: Device, data: Mapping[str, Any]) -> None:
    """Give a device the state that was saved of its like.

    Raises:
        SnapshotError: it is none of this device.
    """
    if getattr(device, "save", None) is None or getattr(device, "load", None) is None:
        raise SnapshotError(f"{device.name} has a saved state, but no save() and load()")
    state = rich_state(device, data)
    try:
        device.load(state)  # type: ignore[attr-defined]
    except (StateError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotError(f"{device.name}: the saved state is damaged: {error}") from None


def rich_state(device: Device, data: Mapping[str, Any]) -> Any:
    """The state that was saved of a device's like, as the device takes it.

    Raises:
        SnapshotError: it is none of this device.
    """
    own = device.save()  # type: ignore[attr-defined]
    if data.get("kind") != own.kind:
        raise SnapshotError(
            f"{device.name}: the saved state is one of {data.get('kind')!r}, this is a {own.kind!r}"
        )
    if data.get("version") != own.version:
        raise SnapshotError(
            f"{device.name}: the saved state has version {data.get('version')}, "
            f"this one takes {own.version}"
        )
    try:
        return type(own)(**{name: _rich(value) for name, value in data["fields"].items()})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SnapshotError(f"{device.name}: the saved state is damaged: {error}") from None


def _fields(state: object) -> dict[str, Any]:
    names = getattr(type(state), "_fields", None)
    if names is None:  # a dataclass of a user's own
        names = type(state).__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(state, name) for name in names if name not in ("kind", "version")}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"hex": bytes(value).hex()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str | float):
        return value
    raise SnapshotError(
        f"a state holds a {type(value).__name__}: ints, strs, bytes and tuples only"
    )


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return value
