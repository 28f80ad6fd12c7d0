"""Exit records as NumPy arrays.

Spec: `kvm_bindings.exit_ring`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.exit_ring import DATA, EXIT, RECORD_SIZE
from vmm.exits import Exit, from_record

__all__ = ["DTYPE", "Records", "data_of", "exits_in", "intact", "numbers", "to_exits"]

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
_STEP = 1 << 14
_VALUE, _COUNT, _SIZE = 3, 6, 11


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


def to_exits(records: Records, data: Callable[[Any], bytes]) -> Iterator[Exit]:
    """Make exits of their records; `data` gives all bytes of one that was a string."""
    for start in range(0, len(records), _STEP):
        part = records[start : start + _STEP]
        # Tuples of Python's numbers come at a tenth of the price of fields, one by one.
        for index, fields in enumerate(part.tolist()):
            wanted = fields[_SIZE] * fields[_COUNT]
            if wanted <= 8:
                yield from_record(fields, fields[_VALUE].to_bytes(8, "little")[:wanted])
            else:
                yield from_record(fields, data(part[index]))
