"""A split virtqueue, seen from the device.

The driver puts heads of descriptor chains into the available ring; the device takes them (`pop`),
does what they ask for, and puts them into the used ring (`push`). Nothing in the rings is trusted:
an index, an address or a length that cannot be is a `RingError`, every loop is bounded by the size
of the queue, and what was read from the guest's memory is read once.

The rings are views of guest memory, read and written by whole 16 and 32-bit words, so that a driver
on another processor never sees half of an index. Words are in the host's byte order, which
is the guest's: both are x86.

Spec: virtio 1.2, "Split Virtqueues".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from devices.wiring import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from devices.protocols import DmaMemory

__all__ = ["MOST_ENTRIES", "Chain", "Queue", "RingError", "Unguarded"]

MOST_ENTRIES = 32768
"""The largest queue that there can be."""

DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
NEXT, WRITE, INDIRECT = 1, 2, 4
"""Flags of a descriptor."""
NO_INTERRUPT = NO_NOTIFY = 1
"""Flags of the available and of the used ring."""
_MOST_BYTES = (1 << 32) - 1
"""What a chain may describe: the used ring has 32 bits for what was written. (The specification
allows one byte more.)"""


class RingError(Exception):
    """A queue holds what no driver may put there; its device needs a reset."""


class Unguarded:
    """The guard of a device that only one thread ever touches."""

    def __enter__(self) -> None:
        """Enter at once."""

    def __exit__(self, *exception: object) -> None:
        """Leave."""


class Chain:
    """One request: buffers that the driver gives, and those that it wants filled."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self.readable = readable
        """What the device may read, in order: views of guest memory, none of them empty."""
        self.writable = writable
        """What the device may write, likewise."""

    @property
    def readable_bytes(self) -> int:
        """How much there is to read."""
        return sum(map(len, self.readable))

    @property
    def writable_bytes(self) -> int:
        """How much there is room for."""
        return sum(map(len, self.writable))

    def read(self, most: int = 1 << 16) -> bytes:
        """Return a copy of the first bytes that there are to read, `most` at most."""
        found: list[bytes] = []
        for view in self.readable:
            if most <= 0:
                break
            found.append(bytes(view[:most]))
            most -= len(view)
        return b"".join(found)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write `data` into the room there is, from its start; return how many bytes fitted."""
        source, done = memoryview(data).cast("B"), 0
        for view in self.writable:
            if done == len(source):
                break
            part = source[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done


class Queue:
    """One virtqueue.

    Args:
        index: its number in its device.
        max_size: how many descriptors it has at most, a power of two.
    """

    def __init__(self, index: int, max_size: int) -> None:
        if not 0 < max_size <= MOST_ENTRIES or max_size & (max_size - 1):
            raise ValueError(f"queue {index}: a size of {max_size} is no power of two")
        self.index = index
        self.max_size = max_size
        self._guard: AbstractContextManager[object] = Unguarded()
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on: not ready, nowhere."""
        self.size = self.max_size
        self.desc = self.avail = self.used = 0
        """Guest-physical addresses of descriptor table, available ring and used ring."""
        self.ready = False
        self.next_avail = self.next_used = self.told = 0
        """Running indices (16 bits): the entry of the available ring to be taken next, that of the
        used ring to be filled next, and up to where the driver was told of the latter."""
        self.detach()

    # -- what the transport does -----------------------------------------------------------

    def attach(
        self,
        memory: DmaMemory,
        *,
        indirect: bool,
        event_idx: bool,
        guard: AbstractContextManager[object],
    ) -> None:
        """Find the rings in guest memory.

        Args:
            memory: the guest's.
            indirect: VIRTIO_F_INDIRECT_DESC was agreed upon.
            event_idx: VIRTIO_F_EVENT_IDX was.
            guard: entering it is a full memory barrier, where another processor looks on.

        Raises:
            RingError: size, alignment or address cannot be.
        """
        size = self.size
        if not 0 < size <= self.max_size or size & (size - 1):
            raise RingError(f"a size of {size}, which is no power of two up to {self.max_size}")
        if self.desc % 16 or self.avail % 2 or self.used % 4:
            raise RingError("a ring that is not aligned")
        try:
            desc = memory.dma(self.desc, 16 * size, write=False)
            avail = memory.dma(self.avail, 6 + 2 * size, write=False)
            used = memory.dma(self.used, 6 + 8 * size, write=True)
        except GuestAddressError as error:
            raise RingError(f"a ring that is not in memory: {error}") from None
        self._desc, self._avail = desc, avail.cast("H")
        self._used, self._pairs = used.cast("H"), used[4 : 4 + 8 * size].cast("I")
        self._dma, self._mask, self._seen = memory.dma, size - 1, self.next_avail
        self._indirect, self._event_idx, self._guard = indirect, event_idx, guard
        self._used_event, self._avail_event = 2 + size, 2 + 4 * size
        self.attached = True

    def detach(self) -> None:
        """Let go of guest memory; `attach` finds it again."""
        self.attached = False
        self._desc = self._avail = self._used = self._pairs = memoryview(b"")

    # -- what a device does ----------------------------------------------------------------

    def refresh(self) -> int:
        """Look at what the driver has made available, for `pop`; return how many chains wait.

        Raises:
            RingError: it is more than the queue can hold.
        """
        seen = self._avail[1]
        waiting = seen - self.next_avail & 0xFFFF
        if waiting > self.size:
            raise RingError(f"{waiting} chains available in a queue of {self.size}")
        self._seen = seen
        return waiting

    def pop(self) -> Chain | None:
        """Take the next chain; None if none is left of those that `refresh` saw.

        Raises:
            RingError: it is none.
        """
        at = self.next_avail
        if at == self._seen:
            return None
        self.next_avail = at + 1 & 0xFFFF
        head = self._avail[2 + (at & self._mask)]
        if head > self._mask:
            raise RingError(f"descriptor {head} in a queue of {self.size}")
        try:
            return self._chain(head)
        except GuestAddressError as error:
            raise RingError(f"a buffer that is not in memory: {error}") from None

    def unpop(self) -> None:
        """Give back the chain that was taken last: it comes next again."""
        self.next_avail = self.next_avail - 1 & 0xFFFF

    def __iter__(self) -> Iterator[Chain]:
        """Take all chains that `refresh` saw.

        Raises:
            RingError: one of them is none.
        """
        while (chain := self.pop()) is not None:
            yield chain

    def push(self, chain: Chain, written: int) -> None:
        """Put a chain into the used ring: its request is done, and `written` bytes of its writable
        buffers were filled."""
        used = self.next_used
        pairs, slot = self._pairs, (used & self._mask) << 1
        pairs[slot] = chain.head
        pairs[slot + 1] = written
        self.next_used = used = used + 1 & 0xFFFF
        self._used[1] = used  # x86 keeps the order of writes

    def push_all(self, chains: Sequence[tuple[Chain, int]]) -> None:
        """Put several chains into the used ring, each with how many bytes were written; the driver
        sees all of them at once."""
        used, pairs = self.next_used, self._pairs
        for chain, written in chains:
            slot = (used & self._mask) << 1
            pairs[slot] = chain.head
            pairs[slot + 1] = written
            used = used + 1 & 0xFFFF
        self.next_used = self._used[1] = used

    # -- notifications ---------------------------------------------------------------------

    def hush(self) -> None:
        """Tell the driver that it need not notify: the queue is being served."""
        if not self._event_idx:  # with it, the old index is in the way of any notification
            self._used[0] = NO_NOTIFY

    def listen(self) -> bool:
        """Ask for a notification when more is made available; say whether more is already."""
        if self._event_idx:
            self._used[self._avail_event] = self._seen
        else:
            self._used[0] = 0
        with self._guard:  # the driver writes its index, then looks here; we do the reverse
            return self._avail[1] != self._seen

    def wants_interrupt(self) -> bool:
        """Say whether the driver wants to be told of what was pushed since this was last asked."""
        new, told = self.next_used, self.told
        if new == told:
            return False
        self.told = new
        with self._guard:  # the driver writes what it wants, then looks at the used index
            if not self._event_idx:
                return not self._avail[0] & NO_INTERRUPT
            event = self._avail[self._used_event]
        return (new - event - 1 & 0xFFFF) < (new - told & 0xFFFF)

    # -- inside ----------------------------------------------------------------------------

    def _chain(self, head: int) -> Chain:
        """Follow a chain from its head."""
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        table, entries, index = self._desc, self.size, head
        dma, unpack = self._dma, DESCRIPTOR.unpack_from
        left, total, nested = self.max_size, 0, False
        while True:
            address, length, flags, after = unpack(table, index << 4)
            if flags & INDIRECT:
                if nested or flags & NEXT or not self._indirect:
                    raise RingError("an indirect table where none may be")
                if length & 15 or not length:
                    raise RingError(f"an indirect table of {length} bytes")
                table, entries, index, nested = (
                    dma(address, length, write=False),
                    length >> 4,
                    0,
                    True,
                )
                continue
            if length:
                if flags & WRITE:
                    writable.append(dma(address, length, write=True))
                elif writable:
                    raise RingError("a buffer to be read behind one to be written")
                else:
                    readable.append(dma(address, length, write=False))
                total += length
            if not flags & NEXT:
                break
            left -= 1
            if not left:
                raise RingError(f"a chain of more than {self.max_size} descriptors")
            if after >= entries:
                raise RingError(f"descriptor {after} in a table of {entries}")
            index = after
        if total > _MOST_BYTES:
            raise RingError(f"a chain of {total} bytes")
        return Chain(head, readable, writable)
