"""The memory that a trace is written to: a memfd for the flight recorder, a file when it is kept.

Spec: `vmm.trace.layout`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time

from kvm_bindings.exit_ring import HEADER_SIZE, RECORD_SIZE, ExitRing, ring_size
from vmm.errors import ConfigError
from vmm.trace.layout import (
    CAPACITY,
    CHUNK,
    CHUNK_MAGIC,
    CHUNKS_END_WORD,
    CUT,
    EVENTS,
    FINISHED,
    FLAGS_WORD,
    HEADER,
    MAGIC,
    VERSION,
)

__all__ = ["TraceMemory", "refused"]


class TraceMemory:
    """Header and rings of one trace, mapped; chunks are appended to its file.

    Args:
        vcpus: how many vCPUs.
        path: the file; None for memory that goes with the process (a memfd).
        capacity: records in a ring, a power of two.

    Raises:
        ConfigError: the file cannot be made.
    """

    def __init__(self, vcpus: int, path: str | None = None, capacity: int = CAPACITY) -> None:
        rings = vcpus + 1
        stride = ring_size(capacity)
        self.path = path
        self.capacity = capacity
        self._appending = threading.Lock()
        self._chunks_at = HEADER_SIZE + rings * stride
        self.fd = _open(path, self._chunks_at)
        self._map = mmap.mmap(self.fd, self._chunks_at)
        self.memory = memoryview(self._map)
        HEADER.pack_into(
            self.memory,
            0,
            *(MAGIC, VERSION, RECORD_SIZE, rings, capacity, HEADER_SIZE, stride),
            *(self._chunks_at, self._chunks_at, time.time_ns(), time.monotonic_ns(), 0, 0),
        )
        self._words = self.memory[: HEADER.size].cast("Q")
        self.rings = tuple(
            ExitRing(self.memory[start : start + stride], capacity)
            for start in range(HEADER_SIZE, self._chunks_at, stride)
        )

    @property
    def events(self) -> ExitRing:
        """The ring of the machine's events, written under the machine's lock."""
        return self.rings[EVENTS]

    def of_vcpu(self, index: int) -> ExitRing:
        """A vCPU's ring."""
        return self.rings[index + 1]

    @property
    def end(self) -> int:
        """Behind the last complete chunk."""
        return self._words[CHUNKS_END_WORD]

    def append(self, kind: int, *parts: bytes | memoryview, ring: int = 0, first: int = 0) -> None:
        """Append a chunk whose payload is `parts`. What another process sees of it is all or
        nothing.

        Raises:
            OSError: the file takes no more; the chunks before are unharmed.
        """
        size = sum(len(part) for part in parts)
        header = CHUNK.pack(CHUNK_MAGIC, kind, ring, size, first, 0)
        with self._appending:
            at = self.end
            for part in (header, *parts):
                rest = memoryview(part)
                while rest:
                    done = os.pwrite(self.fd, rest, at)
                    rest, at = rest[done:], at + done
            self._words[CHUNKS_END_WORD] = at

    def copy_to(self, other: TraceMemory) -> None:
        """Copy the rings, as they are now, into another trace of the same shape.

        It may be done while guests run: a reader tells by a record's number whether it was
        overwritten meanwhile.

        Raises:
            OSError: the file takes no more.
        """
        other.memory[:HEADER_SIZE] = self.memory[:HEADER_SIZE]
        other._words[CHUNKS_END_WORD] = other._chunks_at
        for ours, theirs in zip(self.rings, other.rings, strict=True):
            theirs.memory[:HEADER_SIZE] = ours.memory[:HEADER_SIZE]
            used = min(ours.head, self.capacity) * RECORD_SIZE
            theirs.records[:used] = ours.records[:used]
            theirs.flushed = 0

    def finish(self) -> None:
        """Say in the header that nothing is missing."""
        self._words[FLAGS_WORD] |= FINISHED

    def cut(self) -> None:
        """Say in the header that the file took no more."""
        self._words[FLAGS_WORD] |= CUT

    def close(self) -> None:
        """Let go of it. The file stays."""
        for ring in self.rings:
            ring.close()
        self._words.release()
        self.memory.release()
        # Someone holds a view of it: the mapping goes when they let go.
        with contextlib.suppress(BufferError):
            self._map.close()
        os.close(self.fd)


def _open(path: str | None, size: int) -> int:
    if path is None:
        fd = os.memfd_create("glassvm-trace")
        os.ftruncate(fd, size)
        return fd
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        raise refused(path, error) from None
    try:
        # A page of a mapped file that the disk has no room for kills with SIGBUS when it is
        # written to: claim them all now.
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.close(fd)
        raise refused(path, error) from None
    return fd


def refused(path: str, error: OSError | ValueError) -> ConfigError:
    """What to raise where a trace cannot be written."""
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"{path}: the trace cannot be written there: {why}")
