"""Counting hardware exits: what is counted, and what is said where nothing can be."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvm_bindings.perf import Tracepoint, TraceRing
from vmm import hardware_exits
from vmm.errors import VmmError
from vmm.hardware_exits import HardwareExits, NoHardwareExits

EXIT = """\
name: kvm_exit
ID: 103
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;
\tfield:u32 isa;\toffset:24;\tsize:4;\tsigned:0;
"""
ENTRY = "name: kvm_entry\nID: 115\nformat:\n"
SIZE, DATA_AT = 4096, 4096
SVM = 2


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, ...]:
    for name, text in (("kvm_exit", EXIT), ("kvm_entry", ENTRY)):
        (tmp_path / "events/kvm" / name).mkdir(parents=True)
        (tmp_path / "events/kvm" / name / "format").write_text(text)
    return (tmp_path,)


class Ring(TraceRing):
    """A ring over memory that a test fills; its descriptor is one end of a pipe."""

    def __init__(self, memory: mmap.mmap, fd: int) -> None:
        self.fd = fd
        self.count = 0
        self._watch(memory, DATA_AT, SIZE)

    @property
    def passed(self) -> int:
        return self.count


class Kernel:
    """In place of perf_event_open: rings that a test fills, counts that it sets."""

    def __init__(self) -> None:
        self.memory: dict[int, mmap.mmap] = {}
        self.rings: dict[int, Ring] = {}
        self.pipes: dict[int, int] = {}

    def ring(self, tracepoint: Tracepoint, thread: int) -> TraceRing:
        assert tracepoint.id == 103
        self.memory[thread] = mmap.mmap(-1, DATA_AT + SIZE)
        fd, self.pipes[thread] = os.pipe()
        self.rings[thread] = Ring(self.memory[thread], fd)
        return self.rings[thread]

    def count(self, tracepoint: Tracepoint, thread: int) -> Any:
        assert tracepoint.id == 115
        return _Count()

    def exit(self, thread: int, reason: int, isa: int = SVM) -> None:
        raw = struct.pack("<8xI12xI8x", reason, isa)
        self.rings[thread].count += 1
        self._put(thread, struct.pack("<IHHI", 9, 0, 12 + len(raw), len(raw)) + raw)

    def lose(self, thread: int, count: int) -> None:
        self.rings[thread].count += count

    def end(self, thread: int) -> None:
        """The thread ends: its descriptor says so for ever."""
        os.close(self.pipes.pop(thread))

    def _put(self, thread: int, record: bytes) -> None:
        memory = self.memory[thread]
        head = int.from_bytes(memory[1024:1032], "little")
        assert head + len(record) <= SIZE
        memory[DATA_AT + head : DATA_AT + head + len(record)] = record
        memory[1024:1032] = (head + len(record)).to_bytes(8, "little")


class _Count:
    passed = 5

    def close(self) -> None:
        self.passed = -1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(hardware_exits, "TraceRing", made.ring)
    monkeypatch.setattr(hardware_exits, "TraceCount", made.count)
    yield made
    for fd in made.pipes.values():
        os.close(fd)


def test_exits_of_all_threads_are_counted_by_name(kernel: Kernel, roots: tuple[Path, ...]) -> None:
    with HardwareExits([10, 11], roots) as hardware:
        kernel.exit(10, 0x7B)
        kernel.exit(11, 0x7B)
        kernel.exit(11, 0x400)
        assert hardware.counts == {}
        hardware.poll()
        assert hardware.counts == {"IOIO": 2, "NPF": 1}
        kernel.exit(10, 0x78)
        kernel.exit(10, 48, isa=1)
        hardware.poll()
        assert hardware.counts == {"IOIO": 2, "NPF": 1, "HLT": 1, "EPT_VIOLATION": 1}
        assert hardware.entries == 10
    assert sum(hardware.counts.values()) == 5


def test_what_a_full_ring_lost(kernel: Kernel, roots: tuple[Path, ...]) -> None:
    with HardwareExits([10, 11], roots) as hardware:
        kernel.lose(10, 40)
        kernel.lose(11, 2)
        hardware.poll()
        assert (hardware.lost, hardware.total, hardware.counts) == (42, 42, {})
        kernel.exit(10, 0x78)
        hardware.poll()
        assert (hardware.lost, hardware.total, hardware.counts) == (42, 43, {"HLT": 1})


def test_a_thread_that_ended_is_not_waited_for(kernel: Kernel, roots: tuple[Path, ...]) -> None:
    with HardwareExits([10, 11], roots) as hardware:
        first, second = hardware.filenos
        kernel.exit(10, 0x78)
        kernel.end(10)
        hardware.poll()
        assert hardware.filenos == [second]
        hardware.poll()
        assert hardware.counts == {"HLT": 1}
        assert first != second


def test_closed_twice_and_polled_after(kernel: Kernel, roots: tuple[Path, ...]) -> None:
    hardware = HardwareExits([10], roots)
    fd = hardware.filenos[0]
    hardware.close()
    hardware.close()
    hardware.poll()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert kernel.memory[10].closed


def test_the_reason_is_one_phrase(tmp_path: Path) -> None:
    with pytest.raises(NoHardwareExits, match=r"^tracefs is not mounted$") as error:
        HardwareExits([1], (tmp_path / "none",))
    assert isinstance(error.value, VmmError)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("isa", "set", "has other fields"),
        ("size:4;", "size:2;", "has other fields"),
        ("offset:24;", "offset:4;", "in another order"),
    ],
)
def test_a_kernel_whose_tracepoint_is_another(
    roots: tuple[Path, ...], old: str, new: str, words: str
) -> None:
    path = roots[0] / "events/kvm/kvm_exit/format"
    path.write_text(EXIT.replace(old, new))
    with pytest.raises(NoHardwareExits, match=words):
        HardwareExits([1], roots)


def test_a_kernel_that_tells_64_bits(kernel: Kernel, roots: tuple[Path, ...]) -> None:
    path = roots[0] / "events/kvm/kvm_exit/format"
    path.write_text(
        EXIT.replace("exit_reason;\toffset:8;\tsize:4", "exit_reason;\toffset:8;\tsize:8")
    )
    with HardwareExits([10], roots) as hardware:
        kernel.exit(10, 0x78)
        hardware.poll()
        assert hardware.counts == {"HLT": 1}
