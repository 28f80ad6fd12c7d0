"""A trace file, or the memory of a running machine's trace, taken apart and checked.

What is read here may be cut off, damaged or made up: every size is compared with what is there
before anything is read, a record counts only if it carries its own number, and what is missing
is said (`TraceSource.notes`). Files are read, not mapped, since one that is cut off while it is
mapped kills its reader.

Spec: `vmm.trace.layout`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kvm_bindings.exit_ring import HEADER_SIZE, RECORD_SIZE, ring_size
from vmm.errors import TraceError
from vmm.trace.layout import (
    CHUNK,
    CHUNK_MAGIC,
    CUT,
    END,
    EVENTS,
    FINISHED,
    HEADER,
    MAGIC,
    META,
    RECORDS,
    VERSION,
)
from vmm.trace.records import DTYPE, Records, intact, numbers

__all__ = ["NEAR", "Batch", "Header", "TraceSource", "parse_header"]

NEAR = 128
"""A reader keeps that many records away from the head of a ring that is written to: a string of
4096 bytes takes 86 records, which are overwritten before the head says so."""

_MOST_CAPACITY = 1 << 20
_MOST_RINGS = 4096
_MOST_JSON = 64 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a trace."""

    rings: int
    capacity: int
    rings_at: int
    ring_stride: int
    chunks_at: int
    chunks_end: int
    wall_ns: int
    monotonic_ns: int
    finished: bool
    cut: bool

    def ring_at(self, ring: int) -> int:
        """Where a ring starts."""
        return self.rings_at + ring * self.ring_stride


class Batch(NamedTuple):
    """Records of one ring that follow one another: `vcpu` is None for the machine's events."""

    vcpu: int | None
    records: Records


class _Chunk(NamedTuple):
    kind: int
    ring: int
    size: int
    first: int
    at: int
    """Where the payload is."""


def parse_header(data: bytes, name: str) -> Header:
    """Read the header of a trace called `name`.

    Raises:
        TraceError: it is none, or one that this version cannot read.
    """
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        what = "an empty file" if not data else "not a trace"
        raise TraceError(f"{name}: {what}; 'vmm run IMAGE --trace FILE' makes one")
    (_, version, record, rings, capacity, rings_at, stride, chunks_at, chunks_end, wall, begun,
     flags, _) = HEADER.unpack_from(data)  # fmt: skip
    if version != VERSION:
        raise TraceError(
            f"{name}: a trace of format {version}, and this vmm reads format {VERSION}: "
            "use the vmm that wrote it, or a newer one"
        )
    usual = (
        record == RECORD_SIZE
        and 1 < rings <= _MOST_RINGS
        and 256 <= capacity <= _MOST_CAPACITY
        and capacity & (capacity - 1) == 0
        and HEADER.size <= rings_at <= HEADER_SIZE
        and (rings_at | stride | chunks_at) % 8 == 0
        and ring_size(capacity) <= stride <= 2 * ring_size(capacity)
        and rings_at + rings * stride <= chunks_at <= chunks_end < 1 << 62
    )
    if not usual:
        raise TraceError(f"{name}: a trace whose header is damaged; nothing can be read of it")
    return Header(
        *(rings, capacity, rings_at, stride, chunks_at, chunks_end, wall, begun),
        finished=bool(flags & FINISHED),
        cut=bool(flags & CUT),
    )


class TraceSource:
    """An open trace: a context manager that gives the records in batches.

    Args:
        fd: of the file or memfd; it is closed with the source.
        name: how messages call it.

    Raises:
        TraceError: it is not a trace, or of another version.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.notes: list[str] = []
        """What is missing or damaged, a sentence each."""
        self.lost = 0
        """Records of vCPUs that were overwritten before they could be kept."""
        self.meta: dict[str, Any] = {}
        """The machine's description; empty where there is none."""
        self.end: dict[str, Any] | None = None
        """How the run ended; None where the file does not say."""
        self._size = os.fstat(fd).st_size
        self.header = parse_header(self._read(0, HEADER.size), name)
        self._chunks = self._find_chunks()
        for chunk in self._chunks:
            if chunk.kind == META:
                self.meta = self._json(chunk) or {}
            elif chunk.kind == END:
                self.end = self._json(chunk)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TraceSource:
        """Open a file.

        Raises:
            TraceError: it cannot be read, or is not a trace.
        """
        name = os.fspath(path)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise TraceError(
                f"{name}: no such file; 'vmm run IMAGE --trace {name}' makes it"
            ) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise TraceError(f"{name}: cannot be read: {why}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise TraceError(f"{name}: not a file; give the one that --trace wrote")
            source = cls(fd, name)
            if source.header.cut:
                source.notes.append("its disk was full: exits are missing before the last ones")
            elif not source.header.finished:
                source.notes.append("the trace was not closed: the machine runs or was killed")
            return source
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> TraceSource:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    @property
    def filtered(self) -> bool:
        """Whether only exits that met a condition were kept, `meta["only"]`."""
        return "only" in self.meta

    @property
    def vcpus(self) -> int:
        """How many vCPUs the machine had."""
        return self.header.rings - 1

    def payloads(self, kind: int) -> Iterator[bytes]:
        """The payloads of all chunks of a kind, in order."""
        for chunk in self._chunks:
            if chunk.kind == kind:
                yield self._read(chunk.at, chunk.size)

    def batches(self, *, unfinished: bool = False) -> Iterator[Batch]:
        """All complete records, each once; those of one ring come in order.

        Args:
            unfinished: with the exits that were still being handled when the writing ended.
        """
        following = [0] * self.header.rings
        self.lost = damaged = 0
        for chunk in self._chunks:
            if chunk.kind != RECORDS:
                continue
            count = chunk.size // RECORD_SIZE
            if chunk.ring >= self.header.rings or count > self.header.capacity:
                damaged += count
                continue
            if self.filtered and chunk.ring != EVENTS:
                batch = self._checked(chunk.ring, self._records(chunk.at, count), chunk.first)
                damaged += count - len(batch.records)
                yield batch
                continue
            skipped = max(following[chunk.ring] - chunk.first, 0)  # are there already
            if skipped >= count:
                continue
            first = chunk.first + skipped
            self._count_lost(chunk.ring, first - following[chunk.ring])
            following[chunk.ring] = chunk.first + count
            records = self._records(chunk.at + skipped * RECORD_SIZE, count - skipped)
            batch = self._checked(chunk.ring, records, first)
            damaged += count - skipped - len(batch.records)
            yield batch
        for ring, first in enumerate(following):
            if self.filtered and ring != EVENTS:
                first = self._flushed(ring)
            batch, start = self._tail(ring, first, unfinished)
            # Without chunks before it, a flight recorder: what is older was not to be kept.
            if (first or self.header.cut) and len(batch.records):
                self._count_lost(ring, start - first)
            yield batch
        if damaged:
            self._note(f"{damaged:,} records are damaged and left out")
        if self.lost:
            self._note(f"{self.lost:,} records are missing")

    # -- inside ---------------------------------------------------------------------------

    def _count_lost(self, ring: int, count: int) -> None:
        if ring != EVENTS:
            self.lost += count

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _read(self, at: int, size: int) -> bytes:
        return os.pread(self._fd, min(size, max(self._size - at, 0)), at)

    def _records(self, at: int, count: int) -> Records:
        count = min(count, max(self._size - at, 0) // RECORD_SIZE)
        records = np.empty(count, DTYPE)
        if count == 0:
            return records
        into = records.view(np.uint8).data
        done = 0
        while done < len(into):
            got = os.preadv(self._fd, [into[done:]], at + done)
            if got == 0:  # cut off meanwhile
                return records[: done // RECORD_SIZE]
            done += got
        return records

    def _find_chunks(self) -> list[_Chunk]:
        found = []
        at, end = self.header.chunks_at, min(self.header.chunks_end, self._size)
        if self._size < self.header.chunks_end:
            self._note("the file is cut off: its end is missing")
        while at < end:
            data = self._read(at, CHUNK.size)
            if len(data) < CHUNK.size or at + CHUNK.size > end:
                break
            magic, kind, ring, size, first, _ = CHUNK.unpack(data)
            if magic != CHUNK_MAGIC or first >= 1 << 62:
                self._note(f"the file is damaged at byte {at:,}: what follows there is left out")
                break
            at += CHUNK.size
            found.append(_Chunk(kind, ring, min(size, end - at), first, at))
            at += size
        return found

    def _json(self, chunk: _Chunk) -> dict[str, Any] | None:
        try:
            if chunk.size > _MOST_JSON:
                raise ValueError("too large")
            value = json.loads(self._read(chunk.at, chunk.size), parse_constant=_refuse)
            if isinstance(value, dict):
                return value
            raise ValueError("not an object")
        except (ValueError, RecursionError):
            what = "the machine" if chunk.kind == META else "the run's end"
            self._note(f"the description of {what} is damaged and left out")
            return None

    def _tail(self, ring: int, first: int, unfinished: bool) -> tuple[Batch, int]:
        """What a ring holds from record `first` on, and where that begins."""
        header = self.header
        at = header.ring_at(ring)
        head, done = self._counts(at)
        if not done <= head <= done + NEAR or head >= 1 << 62:
            self._note(f"ring {ring} is damaged and left out")
            return Batch(_owner(ring), np.empty(0, DTYPE)), first
        stop = head if unfinished else done
        start = max(first, head - header.capacity, 0)
        if start >= stop:
            return Batch(_owner(ring), np.empty(0, DTYPE)), first
        records = self._ring(at + HEADER_SIZE, start, stop)
        now, _ = self._counts(at)
        if not header.finished:
            # What was overwritten while it was copied, or may be at this moment.
            spoilt = min(max(now - header.capacity + NEAR - start, 0), len(records))
            records, start = records[spoilt:], start + spoilt
        ages = records["sequence"] - numbers(start, len(records))
        newer = np.flatnonzero(ages == header.capacity)
        if len(newer):
            # A recorder that was saved while its guest ran: the oldest records were overwritten
            # meanwhile, and the next one may have been copied half-written.
            old = min(int(newer[-1]) + 2, len(records))
            records, start = records[old:], start + old
        return self._checked(ring, records, start), start

    def _counts(self, at: int) -> tuple[int, int]:
        """A ring's head, and how many of its records are complete."""
        data = self._read(at, 16)
        if len(data) < 16:
            return 0, 0
        return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")

    def _ring(self, at: int, start: int, stop: int) -> Records:
        capacity = self.header.capacity
        low, count = start & (capacity - 1), stop - start
        upper = self._records(at + low * RECORD_SIZE, min(count, capacity - low))
        if low + count <= capacity:
            return upper
        return np.concatenate([upper, self._records(at, low + count - capacity)])

    def _flushed(self, ring: int) -> int:
        """Up to which record a ring was copied, or found to be of no interest."""
        data = self._read(self.header.ring_at(ring) + 16, 8)
        return min(int.from_bytes(data, "little"), 1 << 62)

    def _checked(self, ring: int, records: Records, first: int) -> Batch:
        good = intact(records, first, _owner(ring), gaps=self.filtered and ring != EVENTS)
        return Batch(_owner(ring), records if good.all() else records[good])


def _refuse(constant: str) -> None:
    """NaN and infinities are no JSON, and nobody could read them where they are passed on."""
    raise ValueError(constant)


def _owner(ring: int) -> int | None:
    return None if ring == EVENTS else ring - 1
