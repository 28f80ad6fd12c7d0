"""Checks on a saved state before a device takes it over."""

from __future__ import annotations

from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from devices.protocols import State

    S = TypeVar("S", bound=State)

__all__ = ["require", "require_bytes", "require_flags", "require_unsigned"]


def require(state: State, cls: type[S]) -> S:
    """Return `state`, known to be a `cls` of the version that this code writes.

    Raises:
        StateError: it is of another kind or version.
    """
    if not isinstance(state, cls):
        kind = getattr(state, "kind", type(state).__name__)
        raise StateError(f"a state of kind {kind!r} does not fit a device of kind {cls.kind!r}")
    if state.kind != cls.kind or state.version != cls.version:
        raise StateError(
            f"{state.kind!r} version {state.version} cannot be loaded, only version {cls.version}"
        )
    return state


def require_unsigned(state: State, **bits: int) -> None:
    """Check that each named field is an int that fits into its number of bits.

    Raises:
        StateError: one is not.
    """
    for name, width in bits.items():
        value = getattr(state, name)
        if type(value) is not int or not 0 <= value < 1 << width:
            raise StateError(f"{state.kind!r} field {name} = {value!r}: not a {width}-bit number")


def require_flags(state: State, *names: str) -> None:
    """Check that each named field is a bool.

    Raises:
        StateError: one is not.
    """
    for name in names:
        value = getattr(state, name)
        if type(value) is not bool:
            raise StateError(f"{state.kind!r} field {name} = {value!r}: not True or False")


def require_bytes(state: State, **limits: range) -> None:
    """Check that each named field is bytes, as many as its range holds.

    Raises:
        StateError: one is not.
    """
    for name, limit in limits.items():
        value = getattr(state, name)
        if type(value) is not bytes or len(value) not in limit:
            wanted = f"{limit[0]}" if len(limit) == 1 else f"{limit[0]} to {limit[-1]}"
            raise StateError(f"{state.kind!r} field {name}: not {wanted} bytes")
