"""Tracepoints: format files and rings made by hand, as the kernel's documentation lays them out."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_bindings import perf
from kvm_bindings.perf import Field, PerfError, Tracepoint, TraceRing, find_tracepoint

FORMAT = """\
name: kvm_exit
ID: 103
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;
\tfield:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;
\tfield:char comm[16];\toffset:24;\tsize:16;\tsigned:0;

print fmt: "vcpu %u", REC->vcpu_id
"""

SIZE = 4096
DATA_AT = 4096
HEAD, TAIL = 1024, 1032
SAMPLE, LOST, THROTTLE = 9, 2, 5


class Made(TraceRing):
    """A ring over memory that a test fills."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.fd = -1
        self.count = 0
        self._watch(memory, DATA_AT, SIZE)

    @property
    def passed(self) -> int:
        return self.count


class Ring:
    """A ring as the kernel fills it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, DATA_AT + SIZE)
        self.reader = Made(self.memory)
        self.head = 0

    def put(self, record: bytes) -> None:
        for byte in record:
            self.memory[DATA_AT + self.head % SIZE] = byte
            self.head += 1
        self.memory[HEAD : HEAD + 8] = self.head.to_bytes(8, "little")

    def sample(self, raw: bytes) -> None:
        self.reader.count += 1
        self.put(struct.pack("<IHHI", SAMPLE, 2, 12 + len(raw), len(raw)) + raw)

    def read(self, size: int) -> list[bytes]:
        found: list[bytes] = []
        self.reader.drain(lambda data, start: found.append(data[start : start + size]))
        return found

    @property
    def tail(self) -> int:
        return int.from_bytes(self.memory[TAIL : TAIL + 8], "little")


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    made.reader.close()


def test_a_format_file() -> None:
    found = Tracepoint.parse(FORMAT)
    assert (found.name, found.id) == ("kvm_exit", 103)
    assert found.fields["exit_reason"] == Field(8, 4)
    assert found.fields["guest_rip"] == Field(16, 8)
    assert found.fields["comm"] == Field(24, 16)


@pytest.mark.parametrize("text", ["", "ID: 5\n", "name: x\n", "name: x\nID: many\n"])
def test_what_is_no_format_file(text: str) -> None:
    with pytest.raises(PerfError, match="format file cannot be read"):
        Tracepoint.parse(text)


def test_a_tracepoint_is_looked_up_where_tracefs_is(tmp_path: Path) -> None:
    nowhere, here = tmp_path / "a", tmp_path / "b"
    (here / "events/kvm/kvm_exit").mkdir(parents=True)
    (here / "events/kvm/kvm_exit/format").write_text(FORMAT)
    assert find_tracepoint("kvm", "kvm_exit", (nowhere, here)).id == 103
    with pytest.raises(PerfError, match="this kernel has no tracepoint kvm:kvm_entry"):
        find_tracepoint("kvm", "kvm_entry", (nowhere, here))
    with pytest.raises(PerfError, match="tracefs is not mounted"):
        find_tracepoint("kvm", "kvm_exit", (nowhere,))


def test_tracefs_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PerfError, match="may not be read by this user"):
        find_tracepoint("kvm", "kvm_exit", (tmp_path,))


def test_samples_come_in_order_and_once(ring: Ring) -> None:
    ring.sample(b"one.")
    ring.sample(b"two.")
    assert ring.read(4) == [b"one.", b"two."]
    assert ring.tail == ring.head
    assert ring.read(4) == []
    ring.sample(b"last")
    assert ring.read(4) == [b"last"]


def test_a_record_around_the_end_of_the_ring(ring: Ring) -> None:
    for number in range(1000):
        ring.sample(b"%012d" % number)
        assert ring.read(12) == [b"%012d" % number]
    assert ring.head > 5 * SIZE


def test_what_was_lost_is_counted(ring: Ring) -> None:
    """Also where the kernel has not said so yet: its own records of it come late, and count not."""
    ring.sample(b"kept")
    ring.reader.count += 40
    assert ring.read(4) == [b"kept"]
    assert ring.reader.lost == 40
    ring.put(struct.pack("<IHHQQ", LOST, 0, 24, 7, 40))
    ring.put(struct.pack("<IHHQQQ", THROTTLE, 0, 32, 1, 2, 3))
    ring.sample(b"more")
    assert ring.read(4) == [b"more"]
    assert ring.reader.lost == 40


def test_a_passing_whose_record_is_not_there_yet(ring: Ring) -> None:
    ring.reader.count += 1
    assert ring.read(4) == []
    assert ring.reader.lost == 1
    ring.reader.count -= 1
    ring.sample(b"late")
    assert ring.read(4) == [b"late"]
    assert ring.reader.lost == 0


def test_a_record_of_no_size_ends_the_reading(ring: Ring) -> None:
    ring.sample(b"kept")
    ring.put(bytes(16))
    assert ring.read(4) == [b"kept"]
    assert ring.tail == ring.head


def test_a_ring_is_closed_twice(ring: Ring) -> None:
    ring.reader.close()
    ring.reader.close()
    assert ring.memory.closed


def test_the_structure_is_the_first_published_one() -> None:
    # PERF_ATTR_SIZE_VER0
    assert ctypes.sizeof(perf.perf_event_attr) == 64


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "CAP_PERFMON"),
        (errno.EPERM, "perf_event_paranoid=-1"),
        (errno.ESRCH, "there is no thread 77"),
        (errno.ENOSYS, "no perf events"),
        (errno.EMFILE, "too many files"),
        (errno.EINVAL, "perf_event_open: Invalid argument"),
    ],
)
def test_refusals_are_told_in_one_phrase(number: int, words: str) -> None:
    assert words in perf._why_not_opened(number, 77)


def test_a_thread_that_is_not_there() -> None:
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()
    assert worker.native_id is not None
    with pytest.raises(PerfError) as error:
        TraceRing(Tracepoint.parse(FORMAT), worker.native_id)
    # Where perf events are forbidden altogether, that is said.
    assert "\n" not in str(error.value)
