"""The kernel's counters of a VM or a vCPU, by name.

Which counters there are, and where, is read from the file itself: both differ between kernels
and backends.

Spec: KVM API, KVM_GET_STATS_FD.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kvm_bindings import structs
from kvm_bindings.calls import Closable
from kvm_bindings.constants import (
    KVM_STATS_BASE_MASK,
    KVM_STATS_BASE_POW2,
    KVM_STATS_TYPE_INSTANT,
    KVM_STATS_TYPE_LINEAR_HIST,
    KVM_STATS_TYPE_LOG_HIST,
    KVM_STATS_TYPE_MASK,
    KVM_STATS_TYPE_PEAK,
    KVM_STATS_UNIT_BOOLEAN,
    KVM_STATS_UNIT_BYTES,
    KVM_STATS_UNIT_CYCLES,
    KVM_STATS_UNIT_MASK,
    KVM_STATS_UNIT_SECONDS,
)

__all__ = ["Counter", "Stats"]

_KINDS = {
    KVM_STATS_TYPE_INSTANT: "instant",
    KVM_STATS_TYPE_PEAK: "peak",
    KVM_STATS_TYPE_LINEAR_HIST: "linear histogram",
    KVM_STATS_TYPE_LOG_HIST: "logarithmic histogram",
}

_UNITS = {
    KVM_STATS_UNIT_BYTES: "B",
    KVM_STATS_UNIT_SECONDS: "s",
    KVM_STATS_UNIT_CYCLES: "cycles",
    KVM_STATS_UNIT_BOOLEAN: "boolean",
}
_PREFIXES = {(10, 3 * n): "qryzafpnum kMGTPEZYRQ"[n + 10].strip() for n in range(-10, 11)}
_PREFIXES |= {(2, 10 * n): f"{' KMGTPEZY'[n].strip()}{'i' if n else ''}" for n in range(9)}


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter: `size` 64-bit values, `offset` bytes into the data."""

    name: str
    kind: str
    """ "cumulative", "instant", "peak", "linear histogram" or "logarithmic histogram"."""
    offset: int
    size: int
    bucket_size: int
    """Width of a bucket of a linear histogram."""
    unit: str = ""
    """What is counted: "B", "KiB", "ns", "cycles", "boolean"; "" for events. A histogram's buckets
    are of this unit, and what it counts are events."""


class Stats(Closable):
    """Reads a statistics file; takes over the descriptor that `stats_fd()` gave.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        header = structs.kvm_stats_header.from_buffer_copy(
            os.pread(fd, ctypes.sizeof(structs.kvm_stats_header), 0)
        )
        self.id = os.pread(fd, header.name_size, header.id_offset).split(b"\0")[0].decode()
        self.counters = tuple(self._describe(header))
        self._data_offset = header.data_offset
        self._data_size = max((c.offset + 8 * c.size for c in self.counters), default=0)

    def read(self) -> dict[str, int | tuple[int, ...]]:
        """Read every counter: a number, or a tuple where a counter has several (a histogram)."""
        data = os.pread(self.fd, self._data_size, self._data_offset)
        found: dict[str, int | tuple[int, ...]] = {}
        for counter in self.counters:
            values = struct.unpack_from(f"={counter.size}Q", data, counter.offset)
            found[counter.name] = values[0] if counter.size == 1 else values
        return found

    def _describe(self, header: structs.kvm_stats_header) -> Iterator[Counter]:
        fixed = ctypes.sizeof(structs.kvm_stats_desc)
        step = fixed + header.name_size
        block = os.pread(self.fd, step * header.num_desc, header.desc_offset)
        for start in range(0, len(block), step):
            desc = structs.kvm_stats_desc.from_buffer_copy(block, start)
            name = block[start + fixed : start + step].split(b"\0")[0].decode()
            kind = _KINDS.get(desc.flags & KVM_STATS_TYPE_MASK, "cumulative")
            unit = _unit(desc.flags, desc.exponent)
            yield Counter(name, kind, desc.offset, desc.size, desc.bucket_size, unit)


def _unit(flags: int, exponent: int) -> str:
    base = 2 if flags & KVM_STATS_BASE_MASK == KVM_STATS_BASE_POW2 else 10
    unit = _UNITS.get(flags & KVM_STATS_UNIT_MASK, "")
    prefix = _PREFIXES.get((base, exponent))
    if prefix is None or (prefix and not unit):
        return f"{base}^{exponent} {unit}".rstrip()
    return prefix + unit
