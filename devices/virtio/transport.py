"""What every virtio transport does: status, features, queues, interrupts.

Registers (`devices.virtio.mmio`) are one way to reach it. The status is a state machine that only
goes forward until the driver writes 0: features are settled by FEATURES_OK, which is refused where
the driver took what was not offered or left out VIRTIO_F_VERSION_1; requests are served between
DRIVER_OK and the first thing that cannot be, which sets DEVICE_NEEDS_RESET and nothing else.

Queues may be served on other threads than the one that writes to registers. What both touch is
touched with `guard` held; what must not happen while a queue is served happens within `still`.

Spec: virtio 1.2, "Device Status Field", "Feature Bits", "Device Initialization", "Device Reset",
"Virtqueue Reset", "Notifications".
"""

from __future__ import annotations

from devices.records import Record
from devices.states import require, require_unsigned
from devices.virtio.device import (
    EVENT_IDX,
    INDIRECT_DESC,
    RING_RESET,
    VERSION_1,
    NoDevice,
    VirtioDevice,
)
from devices.virtio.queue import Queue, RingError, Unguarded
from devices.wiring import GuestAddressError, Signal, StateError, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import ClassVar

    from devices.protocols import DmaMemory, State

__all__ = [
    "ACKNOWLEDGE",
    "CONFIG_CHANGED",
    "DRIVER",
    "DRIVER_OK",
    "FAILED",
    "FEATURES_OK",
    "NEEDS_RESET",
    "USED_BUFFER",
    "NoMemory",
    "Transport",
    "TransportState",
]

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
"""Bits of the device status."""
_DRIVERS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED
USED_BUFFER, CONFIG_CHANGED = 1, 2
"""Bits of the interrupt status."""

_QUEUE_WIDTHS = (16, 64, 64, 64, 1, 16, 16, 16)
"""Bits of the numbers that the state has of a queue."""
_PASSES = 8
"""How often a queue is served in a row that is filled again meanwhile, where nobody else can."""


class NoMemory:
    """The memory of a device that is connected to none."""

    def read(self, gpa: int, size: int) -> bytes:
        """Refuse."""
        raise self._nothing(gpa)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Refuse."""
        raise self._nothing(gpa)

    def dma(self, gpa: int, size: int, *, write: bool) -> memoryview:
        """Refuse."""
        raise self._nothing(gpa)

    def _nothing(self, gpa: int) -> GuestAddressError:
        return GuestAddressError(f"nothing at {gpa:#x}")


class TransportState(Record):
    """All that driver and device have agreed upon, and how far the queues are."""

    kind: ClassVar[str] = "virtio"
    version: ClassVar[int] = 1

    status: int
    interrupt_status: int
    generation: int
    accepted: int
    """The features that the driver has chosen, settled or not."""
    queues: tuple[tuple[int, ...], ...]
    """Of each: size, addresses of the three rings, ready, and three running indices."""
    device: tuple[object, ...]
    """Kind and version of the device type's state, and its fields."""
    selectors: tuple[int, ...]
    """What the registers are set to that choose among others."""


class Transport:
    """One device behind its transport.

    Args:
        device: the device type.
        memory: the guest's.
        interrupt: called for each interrupt; the line is edge-triggered, or a message.
        guard: held while what several threads touch is touched; entering it is a full barrier.
        still: no queue is being served while it is held.
        kick: has a queue served, at once or by another thread; unless given it is done here.
    """

    def __init__(
        self,
        device: VirtioDevice | None = None,
        *,
        memory: DmaMemory | None = None,
        interrupt: Signal = no_signal,
        guard: AbstractContextManager[object] | None = None,
        still: AbstractContextManager[object] | None = None,
        kick: Callable[[int], None] | None = None,
    ) -> None:
        self.device = device or NoDevice()
        self.memory: DmaMemory = memory or NoMemory()
        self._interrupt = interrupt
        self._guard = guard or Unguarded()
        self._still = still or Unguarded()
        self._kick = kick or self._serve_here
        self.offered = self.device.features | self.device.common
        """The features that the device offers."""
        self.queues = [Queue(n, size) for n, size in enumerate(self.device.queue_sizes)]
        self.status = 0
        """The device status field."""
        self.interrupt_status = 0
        self.generation = 0
        """Changes whenever the device changes the configuration space."""
        self.accepted = 0
        """The features that the driver has chosen; settled once FEATURES_OK is set."""
        self.fault = ""
        """Why the device needs a reset, where it does."""
        self.interrupts = self.notifications = 0
        """How many interrupts there were, and how often a queue was looked into for a driver."""
        self.device.transport = self

    # -- what the driver does ---------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether queues may be served: the driver is ready and nothing went wrong."""
        return self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK

    def accept(self, word: int, bits: int) -> None:
        """Take bits `32 * word` and up of the features that the driver chooses."""
        if not self.status & FEATURES_OK and word < 2:
            shift = 32 * word
            self.accepted = self.accepted & ~(0xFFFF_FFFF << shift) | bits << shift

    def set_status(self, value: int) -> None:
        """Take what the driver writes to the device status field.

        Writing 0 resets the device; other bits can only be added.
        """
        if not value:
            self.reset()
            return
        with self._guard:
            old = self.status
            new = old | value & _DRIVERS
            if new & ~old & FEATURES_OK and not self._acceptable():
                new &= ~FEATURES_OK
            if not new & FEATURES_OK:
                new &= ~DRIVER_OK
            self.status = new
        if new & ~old & DRIVER_OK:
            self.device.activate(self.accepted)
            self.kick_all()

    def set_ready(self, index: int, ready: bool) -> None:
        """Let a queue be used, or no more; the driver has said where it lies."""
        if not 0 <= index < len(self.queues) or not self.status & FEATURES_OK:
            return
        queue = self.queues[index]
        if not ready:
            with self._still:
                queue.ready = False
                queue.detach()
        elif not queue.ready:
            queue.next_avail = queue.next_used = queue.told = 0
            try:
                self._attach(queue)
                queue.ready = True
            except RingError as error:
                self.break_down(f"queue {index}: {error}")

    def reset_queue(self, index: int) -> None:
        """Reset one queue, where VIRTIO_F_RING_RESET was agreed upon."""
        settled = self.status & FEATURES_OK and self.accepted & RING_RESET
        if settled and 0 <= index < len(self.queues):
            with self._still:
                self.queues[index].reset()

    def notify(self, index: int) -> None:
        """The driver has made something available in a queue."""
        if 0 <= index < len(self.queues) and self.serves(index):
            self._kick(index)

    def acknowledge(self, bits: int) -> None:
        """The driver has handled these interrupts."""
        with self._guard:
            self.interrupt_status &= ~bits

    def reset(self) -> None:
        """Return to the state after power-on, with no request left under way."""
        with self._still:
            with self._guard:
                self.status = self.interrupt_status = self.accepted = 0
                self.fault = ""
            for queue in self.queues:
                queue.reset()
            self.device.reset()

    # -- what the host does -----------------------------------------------------------------

    def serves(self, index: int) -> bool:
        """Say whether a queue can be served."""
        return self.running and self.queues[index].ready

    def serve(self, index: int) -> bool:
        """Carry out what waits in a queue now, and tell the driver; say whether more has come."""
        queue = self.queues[index]
        if not self.serves(index):
            return False
        more = False
        self.notifications += 1
        try:
            if not queue.attached:
                self._attach(queue)
            queue.hush()
            queue.refresh()
            self.device.serve(queue)
            more = queue.listen()
        except RingError as error:
            self.break_down(f"queue {index}: {error}")
        self.used(queue)
        return more and self.running

    def kick(self, index: int) -> None:
        """Have a queue served, if it can be: the host has something for it."""
        if self.serves(index):
            self._kick(index)

    def kick_all(self) -> None:
        """Have every queue served that is ready: something may wait in it."""
        if self.running:
            for queue in self.queues:
                if queue.ready:
                    self._kick(queue.index)

    def interrupt_again(self) -> None:
        """Interrupt again for what the driver has not acknowledged: the first may be lost."""
        if self.interrupt_status:
            self._interrupt()

    def detach(self) -> None:
        """Let go of guest memory, which is about to go."""
        with self._still:
            for queue in self.queues:
                queue.detach()

    # -- what the device does ---------------------------------------------------------------

    def used(self, queue: Queue) -> None:
        """Interrupt the driver if it wants to hear of what was pushed into a queue."""
        if queue.attached and queue.wants_interrupt():
            self._raise(USED_BUFFER)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space has changed."""
        self.generation = self.generation + 1 & 0xFFFF_FFFF
        if self.status & DRIVER_OK:
            self._raise(CONFIG_CHANGED)

    def break_down(self, why: str) -> None:
        """Serve nothing any more until the driver resets the device."""
        with self._guard:
            self.fault = self.fault or why
            self.status |= NEEDS_RESET
            ready = self.status & DRIVER_OK
        if ready:
            self._raise(CONFIG_CHANGED)

    # -- snapshots --------------------------------------------------------------------------

    def save(self, selectors: tuple[int, ...] = ()) -> TransportState:
        """Return all that driver and device have agreed upon. No request is under way."""
        own = self.device.save()
        names = getattr(type(own), "_fields", ())
        return TransportState(
            status=self.status,
            interrupt_status=self.interrupt_status,
            generation=self.generation,
            accepted=self.accepted,
            queues=tuple(
                (q.size, q.desc, q.avail, q.used, int(q.ready), q.next_avail, q.next_used, q.told)
                for q in self.queues
            ),
            device=(own.kind, own.version, *(getattr(own, name) for name in names)),
            selectors=selectors,
        )

    def load(self, state: State) -> None:
        """Become what `state` was saved from. Rings are looked for when they are first served.

        Raises:
            StateError: it is of something else; nothing has changed.
        """
        state = require(state, TransportState)
        require_unsigned(state, status=8, interrupt_status=2, generation=32, accepted=64)
        if state.status & ~(_DRIVERS | NEEDS_RESET):
            raise StateError("'virtio' field status: a reserved bit is set")
        if type(state.queues) is not tuple or len(state.queues) != len(self.queues):
            raise StateError(f"'virtio' field queues: the device has {len(self.queues)}")
        for saved in state.queues:
            _require_numbers("queues", saved, _QUEUE_WIDTHS)
        if type(state.selectors) is not tuple:
            raise StateError("'virtio' field selectors: no tuple")
        _require_numbers("selectors", state.selectors, (32,) * len(state.selectors))
        self._load_device(state.device)
        self.status, self.interrupt_status = state.status, state.interrupt_status
        self.generation, self.accepted = state.generation, state.accepted
        self.fault = ""
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.size, queue.desc, queue.avail, queue.used, ready = saved[:5]
            queue.next_avail, queue.next_used, queue.told = saved[5:]
            queue.ready = bool(ready)
            queue.detach()

    def _load_device(self, saved: tuple[object, ...]) -> None:
        own = self.device.save()
        kind = type(own)
        if type(saved) is not tuple or saved[:2] != (own.kind, own.version):
            raise StateError(f"'virtio' field device: not the state of a {own.kind!r}")
        try:
            rich = kind(*saved[2:])
        except TypeError as error:
            raise StateError(f"'virtio' field device: {error}") from None
        self.device.load(rich)

    # -- inside -----------------------------------------------------------------------------

    def _acceptable(self) -> bool:
        chosen = self.accepted
        return (
            not chosen & ~self.offered and bool(chosen & VERSION_1) and self.device.accepts(chosen)
        )

    def _attach(self, queue: Queue) -> None:
        chosen = self.accepted
        queue.attach(
            self.memory,
            indirect=bool(chosen & INDIRECT_DESC),
            event_idx=bool(chosen & EVENT_IDX),
            guard=self._guard,
        )

    def _serve_here(self, index: int) -> None:
        for _ in range(_PASSES):
            if not self.serve(index):
                break

    def _raise(self, bit: int) -> None:
        with self._guard:
            self.interrupt_status |= bit
            self.interrupts += 1
        self._interrupt()


def _require_numbers(field: str, values: object, widths: tuple[int, ...]) -> None:
    """Check that a field, or a part of it, is a tuple of numbers of so many bits each.

    Raises:
        StateError: it is not.
    """
    if type(values) is not tuple or len(values) != len(widths):
        raise StateError(f"'virtio' field {field}: not {len(widths)} numbers")
    for value, width in zip(values, widths, strict=True):
        if type(value) is not int or not 0 <= value < 1 << width:
            raise StateError(f"'virtio' field {field}: {value!r} is no {width}-bit number")
