"""Tracepoints of the kernel, as one thread meets them, through perf events.

A `Tracepoint` is what tracefs says of one; a `TraceRing` has the kernel copy what each passing of
it holds into a ring in memory, which whoever watches reads. All that the thread pays is that copy,
and nothing once the ring is closed.

Reading a tracepoint's data needs CAP_PERFMON (or root, or perf_event_paranoid at -1), and tracefs
mounted and readable.

Spec: perf_event_open(2), "MMAP layout"; Linux, Documentation/trace/events.rst, "Event formats".
"""

import ctypes
import errno
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kvm_bindings.calls import Closable
from kvm_bindings.structs.base import Struct, u32, u64

__all__ = [
    "TRACEFS",
    "Field",
    "PerfError",
    "TraceCount",
    "TraceRing",
    "Tracepoint",
    "find_tracepoint",
]

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
"""Where tracefs is mounted; the second is where it was before it was a file system of its own."""

_PERF_EVENT_OPEN = 298
"""Its number on x86-64."""
_TYPE_TRACEPOINT = 2
_SAMPLE_RAW = 1 << 10
_FLAG_WATERMARK = 1 << 14
_FD_CLOEXEC = 1 << 3
_RECORD_SAMPLE = 9
_RECORD = struct.Struct("<I2xH")
"""perf_event_header without `misc`: type, size."""

# perf_event_mmap_page, in 64-bit words.
_DATA_HEAD, _DATA_TAIL = 128, 129

_FIELD = re.compile(r"field:(?P<text>[^;]+);\s*offset:(?P<at>\d+);\s*size:(?P<size>\d+);")


class PerfError(OSError):
    """A tracepoint cannot be watched; the text is the reason, in one phrase."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class perf_event_attr(Struct):
    """The part of the structure that the first kernel with it had (PERF_ATTR_SIZE_VER0)."""

    type: u32
    size: u32
    config: u64
    sample_period: u64
    sample_type: u64
    read_format: u64
    flags: u64
    wakeup_watermark: u32
    bp_type: u32
    config1: u64


class Field(NamedTuple):
    """Where a field lies in a tracepoint's data, in bytes."""

    offset: int
    size: int


class Tracepoint(NamedTuple):
    """One tracepoint: the number by which perf knows it, and the layout of its data."""

    name: str
    id: int
    fields: dict[str, Field]

    @classmethod
    def parse(cls, text: str) -> "Tracepoint":
        """Read a tracepoint's `format` file.

        Raises:
            PerfError: that is none.
        """
        name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
        number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
        if name is None or number is None:
            raise PerfError("its format file cannot be read")
        fields = {}
        for found in _FIELD.finditer(text):
            # "unsigned int exit_reason", "char comm[16]"
            field = found["text"].split()[-1].partition("[")[0]
            fields[field] = Field(int(found["at"]), int(found["size"]))
        return cls(name[1], int(number[1]), fields)


def find_tracepoint(system: str, name: str, roots: tuple[Path, ...] = TRACEFS) -> Tracepoint:
    """Look a tracepoint up in tracefs.

    Raises:
        PerfError: it is not there, or may not be seen.
    """
    for root in roots:
        try:
            return Tracepoint.parse((root / "events" / system / name / "format").read_text())
        except FileNotFoundError:
            continue
        except PermissionError:
            raise PerfError(f"{root} may not be read by this user") from None
        except OSError as error:
            raise PerfError(f"{root} cannot be read: {error.strerror}") from None
    if any((root / "events").is_dir() for root in roots):
        raise PerfError(f"this kernel has no tracepoint {system}:{name}")
    raise PerfError("tracefs is not mounted")


class TraceCount(Closable):
    """Counts how often one thread passes a tracepoint.

    Args:
        tracepoint: which.
        thread: the thread's number, as `threading.get_native_id()` gives it; of any process that
            this one may trace.

    Raises:
        PerfError: it cannot be watched.
    """

    def __init__(self, tracepoint: Tracepoint, thread: int) -> None:
        super().__init__(_open(_attributes(tracepoint), thread))

    @property
    def passed(self) -> int:
        """How many times the thread has passed it."""
        return int.from_bytes(os.read(self.fd, 8), "little")


class TraceRing(TraceCount):
    """Gets a tracepoint's data each time that one thread passes it.

    `fd` is readable for `select` when a quarter of the ring is full.

    Args:
        tracepoint: which.
        thread: the thread's number, as for a `TraceCount`.
        pages: the ring's size in pages of memory, a power of two.

    Raises:
        PerfError: it cannot be watched.
    """

    def __init__(self, tracepoint: Tracepoint, thread: int, pages: int = 128) -> None:
        size = pages * mmap.PAGESIZE
        attributes = _attributes(tracepoint)
        attributes.sample_period = 1
        attributes.sample_type = _SAMPLE_RAW
        attributes.flags = _FLAG_WATERMARK
        attributes.wakeup_watermark = size // 4
        Closable.__init__(self, _open(attributes, thread))
        try:
            memory = mmap.mmap(self.fd, mmap.PAGESIZE + size)
        except OSError as error:
            self.close()
            raise PerfError(_why_not_mapped(error)) from None
        self._watch(memory, mmap.PAGESIZE, size)

    def _watch(self, memory: mmap.mmap, data_at: int, size: int) -> None:
        self._memory = memory
        self._data_at = data_at
        self._size = size
        self._words = memoryview(memory)[:data_at].cast("Q")
        self._taken = 0
        self.lost = 0
        """How many times the ring was full, up to the last `drain`: those were not read."""

    def drain(self, take: Callable[[bytes, int], object]) -> None:
        """Call `take(data, start)` for each passing since the last call: the tracepoint's fields
        lie in `data` from `start` on."""
        # Read before the ring's head: what had passed by then is in the ring, or was lost. The
        # kernel's own records of losses come only when there is room again.
        passed = self.passed
        head, tail = self._words[_DATA_HEAD], self._words[_DATA_TAIL]
        data = self._copy(tail, head)
        self._words[_DATA_TAIL] = head  # the kernel may write there again
        at, end = 0, len(data) - _RECORD.size
        while at <= end:
            kind, size = _RECORD.unpack_from(data, at)
            if size < _RECORD.size:
                break  # no kernel writes that
            if kind == _RECORD_SAMPLE:
                self._taken += 1
                take(data, at + 12)  # behind the header and the size of the raw data
            at += size
        self.lost = max(passed - self._taken, 0)

    def close(self) -> None:
        """Watch no more. Calling it again does nothing."""
        if hasattr(self, "_words"):
            self._words.release()
            self._memory.close()
            del self._words
        super().close()

    def _copy(self, tail: int, head: int) -> bytes:
        low, count = tail % self._size, head - tail
        upper = min(count, self._size - low)
        start = self._data_at + low
        return (
            self._memory[start : start + upper]
            + self._memory[self._data_at : self._data_at + count - upper]
        )


def _attributes(tracepoint: Tracepoint) -> perf_event_attr:
    size = ctypes.sizeof(perf_event_attr)
    return perf_event_attr(type=_TYPE_TRACEPOINT, size=size, config=tracepoint.id)


def _open(attributes: perf_event_attr, thread: int) -> int:
    syscall: Any = ctypes.CDLL(None, use_errno=True).syscall
    fd: int = syscall(
        *(ctypes.c_long(_PERF_EVENT_OPEN), ctypes.byref(attributes), ctypes.c_long(thread)),
        *(ctypes.c_long(-1), ctypes.c_long(-1), ctypes.c_long(_FD_CLOEXEC)),
    )
    if fd < 0:
        raise PerfError(_why_not_opened(ctypes.get_errno(), thread))
    return fd


def _why_not_opened(number: int, thread: int) -> str:
    if number in (errno.EACCES, errno.EPERM):
        return "perf events are not permitted: that takes CAP_PERFMON, or perf_event_paranoid=-1"
    if number == errno.ESRCH:
        return f"there is no thread {thread}"
    if number == errno.ENOSYS:
        return "this kernel has no perf events"
    if number == errno.EMFILE:
        return "too many files are open"
    return f"perf_event_open: {os.strerror(number)}"


def _why_not_mapped(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "perf events may not lock so much memory: see perf_event_mlock_kb"
    return f"the ring cannot be mapped: {error.strerror}"
