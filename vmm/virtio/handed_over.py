"""Devices whose queues others serve: the kernel (vhost), or another process (vhost-user).

The transport stays here: registers, features, status. When the driver is ready, memory, rings and
eventfds are handed over, and from then on notifications and interrupts pass between KVM and the
server without this process. A driver over MMIO asks in its interrupt handler what it was
interrupted for, so "used buffers" always reads as set.

What such a server writes to the guest's memory nobody notes (`GuestMemory.unseen_writers`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from devices.records import Record
from devices.states import require, require_unsigned
from devices.virtio.device import (
    EVENT_IDX,
    INDIRECT_DESC,
    VERSION_1,
    VirtioDevice,
    check_values,
)
from devices.wiring import StateError
from kvm_bindings import KvmError
from vmm.errors import ConfigError, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Protocol

    from devices.protocols import State
    from devices.virtio.queue import Queue
    from vmm.memory import GuestMemory

    class Server(Protocol):
        """Whoever serves the queues of one device. All of it raises KvmError or VmmError."""

        name: str
        features: int
        """What it can serve, of the device type's features and of those of the queues."""
        queue_sizes: tuple[int, ...]
        served: Sequence[int]
        """The queues that it takes; others are left to the device."""
        hangup_fd: int
        """Readable once it may be `gone`; -1: it stays."""

        def gone(self) -> bool:
            """Whether it serves no more."""

        def share(self, memory: GuestMemory) -> None:
            """Let it reach the guest's memory."""

        def set_features(self, bits: int) -> None:
            """Say which features were agreed upon."""

        def set_vring(self, index: int, *, size: int, desc: int, avail: int, used: int) -> None:
            """Say where a queue lies, by this process's addresses."""

        def set_vring_base(self, index: int, base: int) -> None:
            """Say which entry of the avail ring comes next."""

        def vring_base(self, index: int) -> int:
            """Tell which entry of the avail ring comes next, of a queue that stands still."""

        def set_kick(self, index: int, eventfd: int) -> None:
            """Take notifications from there."""

        def set_call(self, index: int, eventfd: int) -> None:
            """Interrupt there."""

        def start(self, queues: Sequence[int]) -> None:
            """Serve these queues from now on."""

        def stop(self, queues: Sequence[int]) -> None:
            """Serve them no more."""

        def close(self) -> None:
            """It is over."""


__all__ = ["HandedOver", "HandedOverState"]

_QUEUE_FEATURES = INDIRECT_DESC | EVENT_IDX


class HandedOverState(Record):
    """What was agreed upon, and what the configuration space holds."""

    kind: ClassVar[str] = "virtio-handed-over"
    version: ClassVar[int] = 1

    device_id: int
    features: int
    values: tuple[int, ...]


class HandedOver(VirtioDevice):
    """A device of a type that `server` serves.

    Args:
        server: who serves its queues.
        own: features that are offered and are none of the server's business.
        passed: features that are offered where the server has them.
    """

    def __init__(self, server: Server, *, own: int = 0, passed: int = 0) -> None:
        super().__init__()
        if not server.features & VERSION_1:
            raise ConfigError(f"{server.name}: serves no devices of virtio 1")
        self.server = server
        self.features = own | passed & server.features
        self.common = VERSION_1 | server.features & _QUEUE_FEATURES
        self.queue_sizes = server.queue_sizes
        self.handed_over = tuple(server.served)
        self._agreed = 0
        self._started: list[int] = []
        self._standing = self._closed = False

    def connect(self, memory: GuestMemory, kicks: Sequence[int], call: int) -> None:
        """Give it the guest's memory, the eventfds of its queues, and that of its interrupt.

        Raises:
            ConfigError: the memory cannot be shared.
            KvmError, VmmError: the server refuses.
        """
        self._memory, self._kicks, self._call = memory, kicks, call
        memory.unseen_writers.append(self.server.name)
        self.server.share(memory)

    def activate(self, features: int) -> None:
        """Hand the queues over."""
        self._agreed = features
        self._start()

    def reset(self) -> None:
        """Take the queues back."""
        self._stop()
        self._agreed = 0

    def pause(self) -> None:
        """Take the queues back for a while; what was under way is finished."""
        self._standing = True
        self._stop()

    def resume(self) -> None:
        """Hand them over again."""
        self._standing = False
        if self._agreed and self.transport is not None and self.transport.running:
            self._start()

    def save(self) -> HandedOverState:
        """Return what the driver sees of the device; its queues were taken back (`pause`)."""
        return HandedOverState(
            device_id=self.device_id, features=self._agreed, values=tuple(self.values.values())
        )

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from, once `resume` is called.

        Raises:
            StateError: it is of something else.
        """
        state = require(state, HandedOverState)
        require_unsigned(state, device_id=32, features=64)
        lacking = state.features & ~(self.features | self.common)
        if state.device_id != self.device_id or lacking:
            raise StateError(f"{self.name}: its server here lacks the features {lacking:#x}")
        self.values = check_values(self.config, state.values)
        self._agreed = state.features

    def close(self) -> None:
        """End the server. May be called twice."""
        if not self._closed:
            self._closed = True
            self._stop()
            self.server.close()

    def _start(self) -> None:
        transport = self.transport
        if transport is None or self._standing or self._started:
            return
        server = self.server
        chosen = [transport.queues[n] for n in server.served if transport.queues[n].ready]
        try:
            server.set_features(self._agreed & server.features)
            for queue in chosen:
                server.set_vring(
                    queue.index,
                    size=queue.size,
                    desc=self._address(queue.desc),
                    avail=self._address(queue.avail),
                    used=self._address(queue.used),
                )
                server.set_vring_base(queue.index, queue.next_avail)
                server.set_call(queue.index, self._call)
                server.set_kick(queue.index, self._kicks[queue.index])
            server.start([queue.index for queue in chosen])
            self._started = [queue.index for queue in chosen]
        except (KvmError, VmmError) as error:
            transport.break_down(f"{server.name}: {error}")

    def _stop(self) -> None:
        transport, started = self.transport, self._started
        if transport is None or not started:
            return
        self._started = []
        try:
            self.server.stop(started)
            for index in started:
                self._take_back(transport.queues[index])
        except (KvmError, VmmError) as error:
            transport.break_down(f"{self.server.name}: {error}")

    def _take_back(self, queue: Queue) -> None:
        """Bring a queue's indices up to date: the server knows one, the used ring has the other."""
        queue.next_avail = self.server.vring_base(queue.index) & 0xFFFF
        used = self._memory.read(queue.used + 2, 2)
        queue.next_used = queue.told = int.from_bytes(used, "little")

    def _address(self, gpa: int) -> int:
        """This process's address of a ring, which was found to be in memory when it was set up."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory.view(gpa, 1)))
