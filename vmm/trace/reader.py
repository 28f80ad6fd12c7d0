"""Reading traces: of files, of this machine, and of a machine in another process."""

from __future__ import annotations

import mmap
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvm_bindings.exit_ring import HEADER_SIZE, RECORD_SIZE, UNFINISHED
from vmm.errors import TraceError
from vmm.trace.devicemap import DeviceMap
from vmm.trace.layout import EVENTS, HEADER
from vmm.trace.records import DTYPE, Records, exits_in, intact
from vmm.trace.source import NEAR, TraceSource, parse_header
from vmm.trace.view import Recording, View

if TYPE_CHECKING:
    from vmm.trace.decoder import Decoder

__all__ = ["LiveTrace", "News", "TraceFile", "load"]


class TraceFile(View):
    """A trace as it was when it was loaded: a view of all its exits, and what is said beside."""

    def __init__(self, source: TraceSource) -> None:
        rings: list[list[Records]] = [[] for _ in range(source.vcpus)]
        events: list[Records] = []
        for vcpu, records in source.batches(unfinished=True):
            (events if vcpu is None else rings[vcpu]).append(records)
        joined = [_join(parts) for parts in rings]
        handled, late = [], []
        for records in joined:
            exits = exits_in(records)
            open_ = exits["flags"] & UNFINISHED != 0
            handled.append(exits[~open_] if open_.any() else exits)
            late.append(exits[open_])
        super().__init__(
            Recording(joined, device_map(source), source.header.monotonic_ns), _by_time(handled)
        )
        self.name = source.name
        self.unfinished = _by_time(late)
        """Exits that were still being handled when the writing ended; what they read or wrote
        is not known."""
        self.events = _join(events)
        """The machine's events: records of the kinds in `vmm.trace.layout.KIND_NAMES`."""
        self.meta = source.meta
        """The machine's description."""
        self.end = source.end
        """How the run ended; None where the trace does not say."""
        self.finished = source.header.finished
        """Whether the trace was closed in good order."""
        self.notes = source.notes
        """What is missing or damaged, a sentence each."""
        self.lost = source.lost
        """How many records could not be kept."""
        self.vcpus = source.vcpus
        self.begun_ns = source.header.monotonic_ns
        """CLOCK_MONOTONIC when the trace was begun, as the records' times count."""
        self.wall_ns = source.header.wall_ns
        """CLOCK_REALTIME at that moment."""

    @cached_property
    def decoder(self) -> Decoder:
        """Tells accesses in the words of the devices' registers."""
        from vmm.trace.decoder import Decoder

        begins = [int(ring[0]["sequence"]) for ring in self._recording.rings if len(ring)]
        from_start = not any(begins) and not self.lost
        return Decoder(self.devices, self.exits, from_start=from_start)

    def ring(self, vcpu: int) -> Records:
        """One vCPU's records in order: exits, and behind them the bytes of their strings."""
        return self._recording.rings[vcpu]


def load(path: str | os.PathLike[str]) -> TraceFile:
    """Load a trace file: finished, cut off, left by a killed process, or still being written.

    Raises:
        TraceError: it cannot be read, or is no trace.
    """
    with TraceSource.open(path) as source:
        return TraceFile(source)


def device_map(source: TraceSource) -> DeviceMap:
    """The devices of a trace; none, with a note, where its description of them is damaged."""
    try:
        return DeviceMap.from_meta(source.meta)
    except ValueError:
        source.notes.append("the description of the devices is damaged and left out")
        return DeviceMap()


class News(NamedTuple):
    """What came since one looked last."""

    records: Records
    """Complete records, in order: exits, their strings' bytes (DATA), or events."""
    missed: int
    """Records that were overwritten before they were looked at."""


class LiveTrace:
    """The rings of a running machine, mapped: of a trace's memfd or file, from any process.

    Nothing is written and nobody is stopped for it. Whoever looks seldom misses records, which are
    counted.
    """

    def __init__(self, memory: mmap.mmap, name: str) -> None:
        self._map = memory
        self.header = parse_header(memory[: HEADER.size], name)
        if len(memory) < self.header.chunks_at:
            raise TraceError(f"{name}: the trace is cut off; there is nothing to be watched")
        self._bytes = memoryview(memory)
        self._words = self._bytes[: self.header.chunks_at & ~7].cast("Q")
        self._next: list[int | None] = [None] * self.header.rings

    @classmethod
    def from_fd(cls, fd: int, name: str = "trace") -> LiveTrace:
        """Map the trace behind a file descriptor, which can be closed afterwards.

        Raises:
            TraceError: it is not a trace.
        """
        try:
            memory = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise TraceError(f"{name}: cannot be mapped: {error}") from None
        try:
            return cls(memory, name)
        except BaseException:
            memory.close()
            raise

    @property
    def vcpus(self) -> int:
        """How many vCPUs the machine has; vCPU n has ring n + 1, the events have ring 0."""
        return self.header.rings - 1

    @property
    def finished(self) -> bool:
        """Whether the trace was closed in good order meanwhile."""
        return parse_header(self._map[: HEADER.size], "trace").finished

    def exits(self, vcpu: int) -> int:
        """How many exits a vCPU has had."""
        return self._word(vcpu + 1, 3)

    def being_handled(self, vcpu: int) -> Records:
        """The exit that a vCPU's thread handles at this moment; none while the guest runs."""
        head, done = self._word(vcpu + 1, 0), self._word(vcpu + 1, 1)
        records = self._copy(vcpu + 1, done, head)
        return records[intact(records, done, vcpu)]

    def poll(self, ring: int) -> News:
        """The records of a ring that came since the last call (at first: all it still holds)."""
        done = self._word(ring, 1)
        first = self._next[ring]
        start = max(first or 0, done - self.header.capacity)
        records = self._copy(ring, start, done)
        safe = self._word(ring, 0) - self.header.capacity + NEAR
        if safe > start:
            spoilt = min(safe - start, len(records))
            records, start = records[spoilt:], start + spoilt
        good = intact(records, start, None if ring == EVENTS else ring - 1)
        if not good.all():
            records = records[good]
        self._next[ring] = done
        # The first look is a beginning: what was before it is not missed.
        missed = 0 if first is None else max(done - first - len(records), 0)
        return News(records, missed)

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._bytes.release()
        self._map.close()

    def _word(self, ring: int, number: int) -> int:
        return self._words[self.header.ring_at(ring) // 8 + number]

    def _copy(self, ring: int, start: int, stop: int) -> Records:
        at = self.header.ring_at(ring) + HEADER_SIZE
        mask = self.header.capacity - 1
        low, count = start & mask, max(min(stop - start, self.header.capacity), 0)
        upper = min(count, self.header.capacity - low)
        data = self._map[at + low * RECORD_SIZE : at + (low + upper) * RECORD_SIZE]
        if upper < count:
            data += self._map[at : at + (count - upper) * RECORD_SIZE]
        return np.frombuffer(data, DTYPE)


def _join(parts: list[Records]) -> Records:
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, DTYPE)


def _by_time(rings: list[Records]) -> Records:
    """Put the exits of all vCPUs in the order in which they came."""
    exits = _join(rings)
    if sum(1 for ring in rings if len(ring)) < 2:
        return exits
    return exits[np.argsort(exits["time_ns"], kind="stable")]


def snapshot(fd: int, meta: dict[str, Any]) -> TraceFile:
    """What the trace of this process's machine holds now; `fd` stays open."""
    with TraceSource(os.dup(fd), "the machine's trace") as source:
        source.meta = meta
        return TraceFile(source)
