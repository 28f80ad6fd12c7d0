"""What a device is: the contracts of this package, for type checkers and `isinstance`.

A device model is pure. It opens nothing, starts nothing and waits for nothing: the interrupt
line it raises, the sink its bytes go to, the memory it reaches and the clock it reads are all
given to it by whoever builds the machine (`devices.wiring`). A test hands it a list and a fake
clock.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

__all__ = ["Device", "DmaMemory", "GuestMemory", "Pausable", "Snapshottable", "State"]


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


class DmaMemory(GuestMemory, Protocol):
    """The guest's memory as a device sees it that moves much data: nothing is copied."""

    def dma(self, gpa: int, size: int, *, write: bool) -> memoryview:
        """Return `size` bytes at `gpa` as they are in memory, shared with the guest.

        The view is read unless `write` says that it may be written, and is not kept for long: it
        must be gone before the machine is.

        Raises:
            GuestAddressError: some of it is not memory, not in one piece, or is to be written and
                cannot be by a guest.
        """
        ...
