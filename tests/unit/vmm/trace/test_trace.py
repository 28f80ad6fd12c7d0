"""What a trace writes: the header, the rings, the chunks; read back byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from vmm.errors import ConfigError
from vmm.trace.trace import Trace

CAPACITY = 256
RINGS_AT = 4096
STRIDE = 4096 + CAPACITY * 64
CHUNKS_AT = RINGS_AT + 3 * STRIDE  # events, two vCPUs
META, RECORDS, END = 1, 2, 4
IRQ = 16


def header(data: bytes) -> dict[str, int | bytes]:
    names = ("magic", "version", "record", "rings", "capacity", "rings_at", "stride", "chunks_at",
             "chunks_end", "wall", "monotonic", "flags")  # fmt: skip
    return dict(zip(names, struct.unpack_from("<8s4I6QI", data), strict=True))


def chunks(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found, at = [], CHUNKS_AT
    while at < header(data)["chunks_end"]:
        magic, kind, ring, size, first, _ = struct.unpack_from("<IHHQQQ", data, at)
        assert magic == 0x4B4E4843
        found.append((kind, ring, first, data[at + 32 : at + 32 + size]))
        at += 32 + size
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.vtrace"


def fill(trace: Trace, count: int) -> None:
    for number in range(count):
        trace.event(20, value=number)


def test_the_header(path: Path) -> None:
    trace = Trace(2, str(path), CAPACITY)
    trace.close()
    found = header(path.read_bytes())
    assert found["magic"] == b"glassvmT"
    assert (found["version"], found["record"], found["rings"]) == (1, 64, 3)
    assert (found["capacity"], found["rings_at"], found["stride"]) == (CAPACITY, RINGS_AT, STRIDE)
    assert found["chunks_at"] == found["chunks_end"] == CHUNKS_AT
    assert found["flags"] == 1


def test_every_event_gets_into_the_file_once(path: Path) -> None:
    trace = Trace(2, str(path), CAPACITY)
    fill(trace, 1000)
    trace.close({"reason": "halt"})
    found = chunks(path.read_bytes())
    records = [chunk for chunk in found if chunk[0] == RECORDS]
    data = b"".join(chunk[3] for chunk in records)
    values = [struct.unpack_from("<Q", data, 64 * n + 24)[0] for n in range(len(data) // 64)]
    assert values == list(range(1000))
    assert [chunk[2] for chunk in records] == [*range(0, 1000, 128)]
    assert found[-1] == (END, 0, 0, b'{"reason":"halt"}')


def test_what_is_not_flushed_yet_is_in_the_ring(path: Path) -> None:
    trace = Trace(2, str(path), CAPACITY)
    fill(trace, 130)
    data = path.read_bytes()  # as it is found after a kill
    assert header(data)["flags"] == 0
    head, done, flushed = struct.unpack_from("<3Q", data, RINGS_AT)
    assert (head, done, flushed) == (130, 130, 128)
    value = struct.unpack_from("<Q", data, RINGS_AT + 4096 + 129 * 64 + 24)[0]
    assert value == 129
    trace.close()


def test_a_description_is_written_when_it_changes(path: Path) -> None:
    trace = Trace(2, str(path), CAPACITY)
    for meta in ({"a": 1}, {"a": 1}, {"a": 2}):
        trace.about = lambda meta=meta: meta
        trace.describe()
    trace.close()
    found = [json.loads(chunk[3]) for chunk in chunks(path.read_bytes()) if chunk[0] == META]
    assert found == [{"a": 1}, {"a": 2}]


def test_an_interrupt_is_an_event_and_told_by_the_first_vcpu(path: Path) -> None:
    trace = Trace(2, str(path), CAPACITY)
    trace.note_irq(4, True)
    trace.note_irq(4, False)
    record = trace.memory.events.record
    assert [(record(n)[10], record(n)[2], record(n)[3]) for n in (0, 1)] == [
        (IRQ, 4, 1),
        (IRQ, 4, 0),
    ]
    assert trace.ring(0).words[4] == 1
    trace.close()


def test_the_flight_recorder_is_saved(path: Path) -> None:
    trace = Trace(2, capacity=CAPACITY)
    fill(trace, 300)
    trace.about = lambda: {"a": 1}
    trace.save(str(path), {"reason": "shutdown"})
    trace.close()
    data = path.read_bytes()
    assert header(data)["flags"] == 1
    assert struct.unpack_from("<3Q", data, RINGS_AT) == (300, 300, 0)
    assert [chunk[0] for chunk in chunks(data)] == [META, END]
    newest = struct.unpack_from("<Q", data, RINGS_AT + 4096 + (299 % CAPACITY) * 64 + 24)[0]
    assert newest == 299


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trace cannot be written there: Is a directory"):
        Trace(1, str(tmp_path))
    trace = Trace(1, capacity=CAPACITY)
    with pytest.raises(ConfigError, match="No such file"):
        trace.save(str(tmp_path / "no" / "t"))
    trace.close()


def test_a_full_disk_ends_the_file_not_the_run() -> None:
    trace = Trace(1, None, CAPACITY)
    trace.path = "/dev/full"

    def full(kind: int, *parts: bytes, ring: int = 0, first: int = 0) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    trace.memory.append = full  # type: ignore[method-assign]
    fill(trace, 1000)
    assert trace.error is not None
    assert trace.error.strerror == "No space left on device"
    assert trace.memory.events.done == 1000
    assert trace.memory.memory[72] == 2
    trace.close({})


@pytest.mark.parametrize("vcpus", [1, 4, 32, 33, 255])
def test_the_rings_of_many_vcpus_are_smaller(vcpus: int) -> None:
    trace = Trace(vcpus)
    size = trace.memory.capacity * 64
    assert size == 2 << 20 if vcpus <= 32 else vcpus * size <= 64 << 20 < vcpus * size * 2
    trace.close()
