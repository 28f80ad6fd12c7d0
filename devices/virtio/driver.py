"""The other side: a driver for tests of devices, and for programs that use one without a guest.

`DriverQueue` has the driver's part of a split virtqueue, on any memory with `read` and `write`;
`Driver` brings a device up through its registers and gives it queues:

    memory = Ram(1 << 20)
    device = VirtioMmio(Rng(), memory=memory)
    driver = Driver(device, memory, base=0x1000)
    driver.start()
    assert len(driver.ask(0, room=16)) == 16

Nothing keeps a test from writing into rings and registers by itself: `memory` is there for that.

Spec: virtio 1.2, "Split Virtqueues", "Device Initialization", "Virtio Over MMIO".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from devices.virtio.device import EVENT_IDX, INDIRECT_DESC, VERSION_1
from devices.virtio.queue import DESCRIPTOR, INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE
from devices.virtio.transport import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK
from devices.wiring import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from devices.protocols import GuestMemory

    class Registers(Protocol):
        """What a driver reads and writes: a device, or a part of a machine's bus."""

        def read(self, offset: int, size: int) -> int:
            """Read `size` bytes at `offset`."""

        def write(self, offset: int, size: int, value: int) -> None:
            """Write `size` bytes at `offset`."""


__all__ = ["Driver", "DriverQueue", "Ram"]

_U16 = struct.Struct("<H")
_PAIR = struct.Struct("<II")


class Ram:
    """Memory for tests: `size` bytes from `base`, of which `readonly` (a range of addresses) cannot
    be written by a device."""

    def __init__(self, size: int, base: int = 0, readonly: range = range(0)) -> None:
        self.base = base
        self.data = bytearray(size)
        self.readonly = readonly
        self._view = memoryview(self.data)

    def read(self, gpa: int, size: int) -> bytes:
        """Return a copy of `size` bytes."""
        return bytes(self.dma(gpa, size, write=False))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, also to what is read-only for devices."""
        self.dma(gpa, len(data), write=False)[:] = data

    def dma(self, gpa: int, size: int, *, write: bool) -> memoryview:
        """Return the bytes themselves."""
        at = gpa - self.base
        if at < 0 or size < 0 or at + size > len(self.data):
            raise GuestAddressError(f"{size} bytes at {gpa:#x} are not in memory")
        if write and gpa < self.readonly.stop and self.readonly.start < gpa + size:
            raise GuestAddressError(f"{size} bytes at {gpa:#x} are read-only")
        return self._view[at : at + size]


class DriverQueue:
    """The driver's side of one queue.

    Args:
        memory: the guest's.
        base: where its rings are to lie: `bytes_of(size)` bytes from a multiple of 16.
        size: how many descriptors it has, a power of two.
        event_idx: VIRTIO_F_EVENT_IDX was agreed upon.
    """

    def __init__(
        self, memory: GuestMemory, base: int, size: int, *, event_idx: bool = False
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.desc = base
        self.avail = base + 16 * size
        self.used = -(-(self.avail + 6 + 2 * size) // 4) * 4
        self.avail_index = self.used_index = 0
        self._added = 0
        """The available index when the device was last told of it."""
        self.free = list(range(size - 1, -1, -1))
        """The descriptors that are in no chain."""
        self._chains: dict[int, list[int]] = {}
        memory.write(base, bytes(self.bytes_of(size)))

    @staticmethod
    def bytes_of(size: int) -> int:
        """How much room the rings of a queue of that size take."""
        return 16 * size + 6 + 2 * size + 3 + 6 + 8 * size

    def add(
        self,
        readable: Iterable[tuple[int, int]] = (),
        writable: Iterable[tuple[int, int]] = (),
        *,
        table: int | None = None,
    ) -> int:
        """Make a chain of buffers (address, size) available; return its head.

        With `table`, an address, the buffers are described by an indirect table there.

        Raises:
            IndexError: the queue has too few free descriptors.
        """
        parts = [(a, n, 0) for a, n in readable] + [(a, n, WRITE) for a, n in writable]
        last = len(parts) - 1
        if table is None:
            used = [self.free.pop() for _ in parts]
            for number, (address, size, flags) in enumerate(parts):
                after = used[number + 1] if number < last else 0
                more = NEXT if number < last else 0
                self.describe(used[number], address, size, flags | more, after)
        else:
            used = [self.free.pop()]
            for number, (address, size, flags) in enumerate(parts):
                more = NEXT if number < last else 0
                entry = DESCRIPTOR.pack(address, size, flags | more, number + 1 if more else 0)
                self.memory.write(table + 16 * number, entry)
            self.describe(used[0], table, 16 * len(parts), INDIRECT, 0)
        self._chains[used[0]] = used
        self.make_available(used[0])
        return used[0]

    def describe(self, index: int, address: int, size: int, flags: int, after: int = 0) -> None:
        """Write one descriptor of the table."""
        entry = DESCRIPTOR.pack(address, size, flags, after)
        self.memory.write(self.desc + 16 * index, entry)

    def make_available(self, head: int) -> None:
        """Put a head into the available ring, whatever it is."""
        slot = self.avail + 4 + 2 * (self.avail_index % self.size)
        self.memory.write(slot, _U16.pack(head))
        self.avail_index = self.avail_index + 1 & 0xFFFF
        self.memory.write(self.avail + 2, _U16.pack(self.avail_index))

    def should_notify(self) -> bool:
        """Whether the device wants to be told of what was added since this was last asked."""
        new, old, self._added = self.avail_index, self._added, self.avail_index
        if not self.event_idx:
            return not self._word(self.used) & NO_NOTIFY
        event = self._word(self.used + 4 + 8 * self.size)
        return (new - event - 1 & 0xFFFF) < (new - old & 0xFFFF)

    def finished(self) -> list[tuple[int, int]]:
        """Take what the device has put into the used ring: heads, and how much was written."""
        found = []
        while self.used_index != self._word(self.used + 2):
            at = self.used + 4 + 8 * (self.used_index % self.size)
            head, written = _PAIR.unpack(self.memory.read(at, 8))
            self.used_index = self.used_index + 1 & 0xFFFF
            self.free += self._chains.pop(head, ())
            found.append((head, written))
        return found

    def want_interrupts(self, wanted: bool = True) -> None:
        """Ask for an interrupt when the next buffer is used, or for none."""
        if self.event_idx:
            event = self.used_index if wanted else self.used_index - 1
            self.memory.write(self.avail + 4 + 2 * self.size, _U16.pack(event & 0xFFFF))
        else:
            self.memory.write(self.avail, _U16.pack(0 if wanted else NO_INTERRUPT))

    def _word(self, gpa: int) -> int:
        value: int = _U16.unpack(self.memory.read(gpa, 2))[0]
        return value


class Driver:
    """Brings one device up through its registers.

    Args:
        registers: the device, or anything that leads to its registers.
        memory: the guest's.
        base: where in memory rings and buffers may lie, from a multiple of 16 on.
        room: how many bytes from there.
    """

    def __init__(
        self, registers: Registers, memory: GuestMemory, base: int, room: int = 1 << 18
    ) -> None:
        self.registers = registers
        self.memory = memory
        self.base = base
        self.end = base + room
        self.queues: list[DriverQueue] = []
        self.features = 0

    def read(self, offset: int) -> int:
        """Read a control register."""
        return self.registers.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        """Write a control register."""
        self.registers.write(offset, 4, value)

    def offered(self) -> int:
        """Read the features that the device offers."""
        words = []
        for word in (0, 1):
            self.write(0x014, word)
            words.append(self.read(0x010))
        return words[0] | words[1] << 32

    def start(
        self,
        wanted: int = INDIRECT_DESC | EVENT_IDX,
        *,
        queue_size: int = 64,
        queues: int | None = None,
    ) -> bool:
        """Reset the device, agree upon features, set its queues up, and say that we are ready.

        Args:
            wanted: the features to take, of those that are offered; VERSION_1 always is.
            queue_size: how many descriptors a queue is to have, where it can have that many.
            queues: how many queues to set up; None: all there are.

        Returns:
            Whether the device has agreed.
        """
        self.write(0x070, 0)
        self.write(0x070, ACKNOWLEDGE)
        self.write(0x070, ACKNOWLEDGE | DRIVER)
        self.features = self.offered() & (wanted | VERSION_1)
        if not self.negotiate(self.features):
            return False
        self.queues, at = [], self.base
        while queues is None or len(self.queues) < queues:
            number = len(self.queues)
            self.write(0x030, number)
            most = self.read(0x034)
            if not most:
                break
            queue = self.set_up(number, at, min(most, queue_size))
            self.queues.append(queue)
            at += -(-DriverQueue.bytes_of(queue.size) // 64) * 64
        self.buffers = at
        self.write(0x070, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return bool(self.read(0x070) & DRIVER_OK)

    def negotiate(self, features: int) -> bool:
        """Choose features; return whether the device agrees."""
        for word in (0, 1):
            self.write(0x024, word)
            self.write(0x020, features >> 32 * word & 0xFFFF_FFFF)
        self.write(0x070, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return bool(self.read(0x070) & FEATURES_OK)

    def set_up(self, number: int, base: int, size: int) -> DriverQueue:
        """Give the device one queue, with its rings from `base` on."""
        queue = DriverQueue(self.memory, base, size, event_idx=bool(self.features & EVENT_IDX))
        self.write(0x030, number)
        self.write(0x038, size)
        for low, gpa in ((0x080, queue.desc), (0x090, queue.avail), (0x0A0, queue.used)):
            self.write(low, gpa & 0xFFFF_FFFF)
            self.write(low + 4, gpa >> 32)
        self.write(0x044, 1)
        return queue

    def notify(self, number: int) -> None:
        """Tell the device of what was added to a queue, if it wants to hear of it."""
        if self.queues[number].should_notify():
            self.write(0x050, number)

    def ask(
        self, number: int, data: bytes = b"", room: int = 0, *, indirect: bool = False
    ) -> bytes:
        """Make one request, and return what the device wrote.

        Args:
            number: which queue.
            data: what it may read.
            room: how many bytes it may write.
            indirect: describe the buffers by an indirect table.

        Raises:
            RuntimeError: it has not been carried out when the notification returns.
        """
        queue = self.queues[number]
        table, at = self.buffers, self.buffers + 64
        self.memory.write(at, data)
        readable = [(at, len(data))] if data else []
        writable = [(at + len(data), room)] if room else []
        queue.add(readable, writable, table=table if indirect else None)
        self.notify(number)
        finished = queue.finished()
        if not finished:
            raise RuntimeError(f"queue {number}: the device has not carried the request out")
        return self.memory.read(at + len(data), finished[-1][1])

    def interrupts(self) -> int:
        """Read what the device has interrupted for, and acknowledge it."""
        events = self.read(0x060)
        if events:
            self.write(0x064, events)
        return events
