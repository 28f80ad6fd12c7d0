"""Exit records as NumPy arrays.

Spec: `kvm_bindings.exit_ring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.exit_ring import DATA, EXIT, HAS_RIP, RECORD_SIZE, WRITE
from vmm.exits import Exit

__all__ = ["DTYPE", "Records", "data_of", "exits_in", "intact", "numbers", "to_exit"]

DTYPE = np.dtype(
    [
        ("time_ns", "<u8"),
        ("guest_ns", "<u8"),
        ("address", "<u8"),
        ("value", "<u8"),
        ("rip", "<u8"),
        ("handler_ns", "<u4"),
        ("count", "<u4"),
        ("sequence", "<u4"),
        ("reason", "<u4"),
        ("vcpu", "<u2"),
        ("kind", "u1"),
        ("size", "u1"),
        ("flags", "u1"),
        ("irqs", "u1"),
        ("zero", "<u2"),
    ]
)
"""One record of 64 bytes."""

Records: TypeAlias = NDArray[np.void]
"""An array of `DTYPE`."""

_MASK32 = 0xFFFF_FFFF


def numbers(first: int, count: int) -> NDArray[np.uint32]:
    """The sequence numbers of `count` records from record `first` on."""
    low = first & _MASK32
    return np.arange(low, low + count, dtype=np.uint64).astype(np.uint32)


def intact(
    records: Records, first: int, vcpu: int | None, *, gaps: bool = False
) -> NDArray[np.bool_]:
    """Say of each record whether it is the one that should be there.

    Args:
        records: read from the place of record `first` and those behind it.
        first: its number.
        vcpu: whose ring it is; None for the machine's events.
        gaps: records were left out between them; those that are there go up.
    """
    good: NDArray[np.bool_]
    if gaps:
        steps = np.diff(records["sequence"], prepend=np.uint32(first - 1 & _MASK32))
        good = steps.view(np.int32) > 0
    else:
        good = records["sequence"] == numbers(first, len(records))
    if vcpu is not None:
        good &= records["vcpu"] == vcpu
    return good


def exits_in(records: Records) -> Records:
    """The exits among records; the array itself where it holds nothing else."""
    found = records["kind"] == EXIT
    return records if found.all() else records[found]


def data_of(records: Records, position: int) -> bytes:
    """All bytes that went over the bus in the exit at `position` of its ring's records."""
    record = records[position]
    wanted = int(record["size"]) * int(record["count"])
    data = int(record["value"]).to_bytes(8, "little")
    if wanted > len(data):
        data += b"".join(_more(records, position + 1))
    return data[:wanted]


def _more(records: Records, position: int) -> Iterator[bytes]:
    while position < len(records) and records[position]["kind"] == DATA:
        size = int(records[position]["size"])
        yield records[position].tobytes()[: min(size, RECORD_SIZE)]
        position += 1


def to_exit(record: Any, data: bytes) -> Exit:
    """Make an exit of its record and the bytes that went over the bus.

    A count that promises more bytes than were kept is cut to those.
    """
    reason, size, count = int(record["reason"]), int(record["size"]), int(record["count"])
    flags = int(record["flags"])
    value = int(record["value"])
    if size:
        value = int.from_bytes(data, "little")
        count = min(count, len(data) // size)
    return Exit(
        reason=reason,
        vcpu=int(record["vcpu"]),
        address=int(record["address"]),
        size=size,
        count=count,
        write=bool(flags & WRITE),
        value=value,
        rip=int(record["rip"]) if flags & HAS_RIP else None,
        time_ns=int(record["time_ns"]),
        guest_ns=int(record["guest_ns"]),
        handler_ns=int(record["handler_ns"]),
        irqs=int(record["irqs"]),
    )
