"""What a device is, and what devices are handed: the contracts of this package.

A device model is pure. It opens nothing, starts nothing and waits for nothing: the interrupt
line it raises, the sink its bytes go to, the memory it reaches and the clock it reads are all
given to it by whoever builds the machine. A test hands it a list and a fake clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

__all__ = [
    "ByteSink",
    "Clock",
    "Device",
    "GuestAddressError",
    "GuestMemory",
    "IrqLine",
    "Pausable",
    "Signal",
    "Snapshottable",
    "State",
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


@runtime_checkable
class Device(Protocol):
    """Something that answers at a range of ports or of guest-physical addresses.

    `offset` counts bytes from the start of the range that the device was mapped at, `size` is
    1, 2, 4 or 8 bytes, and values are unsigned. Nothing that a guest does may raise: an access
    that the chip does not know reads as all ones and writes to nowhere.
    """

    @property
    def name(self) -> str:
        """Short and unique in its machine: "com1", "rtc"."""
        ...

    def read(self, offset: int, size: int) -> int:
        """Answer a read of `size` bytes at `offset`."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes at `offset`."""
        ...

    def reset(self) -> None:
        """Return to the state after power-on."""
        ...


class State(Protocol):
    """A device's saved state: a `Record` of ints, bools, strs, bytes and tuples of them."""

    kind: ClassVar[str]
    """What sort of device it belongs to: "uart16550"."""

    version: ClassVar[int]
    """Rises when a field changes meaning."""


@runtime_checkable
class Snapshottable(Protocol):
    """A device whose state can be kept and put back.

    A device that cannot be saved has an attribute `cannot_save` with the reason instead.
    """

    def save(self) -> State:
        """Return everything a fresh device needs to go on as this one would."""
        ...

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from.

        Raises:
            StateError: the state is of another kind or version, or a field is out of range.
                The device is then unchanged.
        """
        ...


@runtime_checkable
class Pausable(Protocol):
    """A device that owns workers which must stand still while its state is read."""

    def pause(self) -> None:
        """Stop the workers and return when they stand still."""
        ...

    def resume(self) -> None:
        """Let the workers go on."""
        ...


class GuestMemory(Protocol):
    """The guest's memory as a device that does DMA sees it."""

    def read(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes from guest-physical address `gpa`.

        Raises:
            GuestAddressError: some of it is not memory; nothing was read.
        """
        ...

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at guest-physical address `gpa`.

        Raises:
            GuestAddressError: some of it is not memory; nothing was written.
        """
        ...
