"""Timers of device models: a device says when it wants to be looked at, the host events do so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from devices.wiring import Clock

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["DeviceTimer", "Ticking"]

_SHORTEST_S = 0.0005


class Ticking(Protocol):
    """A device that raises interrupts at times of its own."""

    def next_event_ns(self) -> int | None:
        """When, by the device's clock, it wants its next tick; None for never."""
        ...

    def tick(self) -> None:
        """Catch up with the clock."""
        ...


class DeviceTimer:
    """Ticks one device when it wants to be ticked.

    Made before the device, because the device is given `reschedule`; `connect` closes the ring.
    Nothing happens, and no thread is started, for a device that asks for nothing.
    """

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._device: Ticking | None = None
        self._due_ns: int | None = None

    def connect(self, device: Ticking) -> None:
        """Say whose timer this is."""
        self._device = device

    def reschedule(self) -> None:
        """The device's next event may have changed."""
        if self._device is None:
            return
        at = self._device.next_event_ns()
        if at is None or (self._due_ns is not None and self._due_ns <= at):
            return  # a tick that comes too early finds nothing to do, and asks again
        self._due_ns = at
        wait_s = max((at - self._clock()) / 1e9, _SHORTEST_S)
        self._machine.events.call_later(wait_s, self._expire)

    def _expire(self) -> None:
        with self._machine.lock:
            self._due_ns = None
            if self._device is not None:
                self._device.tick()
                self.reschedule()
