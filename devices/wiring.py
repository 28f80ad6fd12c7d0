"""What devices are connected with: lines, sinks and clocks, and the errors of the two contracts.

Apart from `devices.protocols`, which costs a start the import of `typing`.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "ByteSink",
    "Clock",
    "GuestAddressError",
    "IrqLine",
    "Signal",
    "StateError",
    "discard",
    "no_irq",
    "no_signal",
    "open_bus",
]

IrqLine = Callable[[bool], None]
"""Drives one interrupt line: True asserts it, False releases it. Calling it again with the
same level is allowed and changes nothing."""

ByteSink = Callable[[bytes], None]
"""Takes the bytes that a device sends to the outside. Never blocks and never raises."""

Signal = Callable[[], None]
"""Tells the machine that something happened (a reset was asked for). Returns at once."""

Clock = Callable[[], int]
"""Nanoseconds. Which epoch is the taker's to say: `time.monotonic_ns` or `time.time_ns`."""


def no_irq(level: bool) -> None:
    """Drive an interrupt line that is not connected."""


def discard(data: bytes) -> None:
    """Take bytes that nobody wants: the `ByteSink` of a device that is not connected."""


def no_signal() -> None:
    """Take a signal that nobody waits for."""


def open_bus(size: int) -> int:
    """Return what `size` bytes (1 to 8) read as where nothing answers: all ones."""
    return (1 << (8 * size)) - 1


class GuestAddressError(LookupError):
    """A guest-physical address (or a length behind it) is not in guest memory."""


class StateError(ValueError):
    """A saved state does not fit the device it is loaded into."""
