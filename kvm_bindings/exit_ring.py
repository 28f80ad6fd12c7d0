"""The ring of exit records: where a runner notes every exit of one vCPU.

The ring lies in memory that others may map as well (a file, a memfd), so that a screen in another
process, or whoever finds the file after a crash, sees what the vCPU saw. One thread writes to a
ring, the one that runs its vCPU; readers need no lock: they take records below `done`, and drop
those that `head` has come too near to meanwhile.

A ring is a page with its header, then `capacity` records (a power of two):

    header   u64 head      records begun; record n lies at n % capacity
             u64 done      records that will not change any more: head, or one less while the
                           exit is being handled
             u64 flushed   records that have been copied to the end of the file
             u64 exits     exits among the records
             u32 irqs      interrupt lines raised since the last exit; the runner takes them

    record   u64 time_ns      CLOCK_MONOTONIC when KVM_RUN returned
             u64 guest_ns     how long KVM_RUN took, in the guest and in the kernel
             u64 address      port, or guest-physical address
             u64 value        what was written or answered: the first 8 bytes of it
             u64 rip          where RIP was asked for (flag HAS_RIP)
             u32 handler_ns   from then to the next KVM_RUN; more than 4.29 s are cut to that
             u32 count        elements of `size` bytes
             u32 sequence     the low half of this record's number
             u32 reason       KVM_EXIT_*
             u16 vcpu
             u8  kind         EXIT, DATA, or an event's kind
             u8  size         bytes of an element; of a DATA record: how many bytes it carries
             u8  flags        WRITE, HAS_RIP, UNFINISHED
             u8  irqs         interrupt lines raised since the record before
             u16              0

The bytes of a string behind the eighth follow in DATA records, 48 to each, from its first byte on.
For exits that are neither port I/O nor MMIO, `value` and `address` are the first two 64-bit words
of the exit's part of kvm_run, or 0 where it has none (`WITHOUT_DETAILS`).

Spec: KVM API, "The kvm_run structure".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kvm_bindings import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "DATA",
    "DATA_BYTES",
    "EXIT",
    "HAS_RIP",
    "HEADER_SIZE",
    "RECORD",
    "RECORD_SIZE",
    "UNFINISHED",
    "WITHOUT_DETAILS",
    "WRITE",
    "ExitRing",
    "Fields",
    "ring_size",
]

RECORD = struct.Struct("<5Q4IH4BH")
RECORD_SIZE = 64
HEADER_SIZE = 4096

EXIT = 1
DATA = 2

WRITE = 1
HAS_RIP = 2
UNFINISHED = 4
"""The exit was still being handled when this was seen."""

DATA_BYTES = 48

WITHOUT_DETAILS = frozenset(
    {
        constants.KVM_EXIT_HLT,
        constants.KVM_EXIT_IRQ_WINDOW_OPEN,
        constants.KVM_EXIT_SHUTDOWN,
        constants.KVM_EXIT_INTR,
        constants.KVM_EXIT_SET_TPR,
        constants.KVM_EXIT_NMI,
    }
)
"""Reasons for which the kernel puts nothing into kvm_run; what is there is of an earlier exit."""

Fields: TypeAlias = tuple[int, ...]
"""A record, unpacked: the fields in the order of the table above."""

_HEAD, _DONE, _FLUSHED, _EXITS, _IRQS = range(5)


def ring_size(capacity: int) -> int:
    """How many bytes a ring of `capacity` records takes."""
    return HEADER_SIZE + capacity * RECORD_SIZE


class ExitRing:
    """One vCPU's ring, in `memory` (writable, `ring_size(capacity)` bytes).

    Raises:
        ValueError: the capacity is not a power of two, or the memory is of another size.
    """

    def __init__(self, memory: memoryview, capacity: int) -> None:
        if capacity < 256 or capacity & (capacity - 1):
            raise ValueError(f"a ring of {capacity} records: a power of two from 256 on is needed")
        if len(memory) != ring_size(capacity):
            raise ValueError(f"{len(memory)} bytes of memory for a ring of {capacity} records")
        self.capacity = capacity
        self.memory = memory
        self.words = memory[: 8 * (_IRQS + 1)].cast("Q")
        self.records = memory[HEADER_SIZE:]

    @property
    def head(self) -> int:
        """How many records were begun."""
        return self.words[_HEAD]

    @property
    def done(self) -> int:
        """How many records are complete."""
        return self.words[_DONE]

    @property
    def exits(self) -> int:
        """How many exits were noted."""
        return self.words[_EXITS]

    @property
    def flushed(self) -> int:
        """How many records have been copied elsewhere."""
        return self.words[_FLUSHED]

    @flushed.setter
    def flushed(self, count: int) -> None:
        self.words[_FLUSHED] = count

    def note_irq(self) -> None:
        """An interrupt line was raised: the next exit's record tells it."""
        self.words[_IRQS] += 1

    def add(
        self, time_ns: int, guest_ns: int, address: int, value: int, rip: int, handler_ns: int,
        count: int, reason: int, vcpu: int, kind: int, size: int, flags: int, irqs: int,
    ) -> None:  # fmt: skip
        """Append a complete record (everything but its sequence number), as an event ring's
        owner does."""
        number = self.words[_HEAD]
        RECORD.pack_into(
            self.records, (number & (self.capacity - 1)) * RECORD_SIZE,
            time_ns, guest_ns, address, value, rip, handler_ns, count, number & 0xFFFF_FFFF, reason,
            vcpu, kind, size, flags, irqs, 0,
        )  # fmt: skip
        self.words[_HEAD] = self.words[_DONE] = number + 1

    def record(self, number: int) -> Fields:
        """Record `number`, unpacked. It must be one of the last `capacity`."""
        return RECORD.unpack_from(self.records, (number & (self.capacity - 1)) * RECORD_SIZE)

    def parts(self, first: int, end: int) -> list[memoryview]:
        """The memory of the records `first`..`end - 1`, which must still be in the ring: in one
        piece, or in two where it wraps around."""
        low, high = (n & (self.capacity - 1) for n in (first, end))
        if first == end:
            return []
        if low < high:
            return [self.records[low * RECORD_SIZE : high * RECORD_SIZE]]
        pieces = [self.records[low * RECORD_SIZE :], self.records[: high * RECORD_SIZE]]
        return [piece for piece in pieces if piece]

    def newest_first(self) -> Iterator[tuple[Fields, bytes]]:
        """The exits in the ring from the newest on, each with all of its bytes.

        For the thread that writes to the ring, or while its vCPU stands still.
        """
        more: list[bytes] = []
        for number in range(self.head - 1, max(self.head - self.capacity, 0) - 1, -1):
            fields = self.record(number)
            kind, size = fields[10], fields[11]
            if kind == DATA:
                at = (number & (self.capacity - 1)) * RECORD_SIZE
                more.append(bytes(self.records[at : at + size]))
                continue
            if kind == EXIT:
                more.append(fields[3].to_bytes(8, "little"))
                data = b"".join(reversed(more))
                yield fields, data[: size * fields[6]]
            more.clear()

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self.records.release()
        self.memory.release()
