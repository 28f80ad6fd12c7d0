"""Traces are read back whole: finished, killed, saved while the guest ran, and damaged ones."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmm
from vmm.errors import TraceError
from vmm.exits import Exit
from vmm.trace.diff import compare
from vmm.trace.export import FORMATS
from vmm.trace.reader import LiveTrace, load
from vmm.trace.records import DTYPE

CAPACITY = 256
HLT, MMIO = 5, 6
RINGS_AT = 4096
STRIDE = 4096 + CAPACITY * 64
UNFINISHED = 4


def test_the_layout_is_that_of_the_rings():
    names = [(name, DTYPE.fields[name][1]) for name in DTYPE.names]
    assert names == [
        ("time_ns", 0), ("guest_ns", 8), ("address", 16), ("value", 24), ("rip", 32),
        ("handler_ns", 40), ("count", 44), ("sequence", 48), ("reason", 52), ("vcpu", 56),
        ("kind", 58), ("size", 59), ("flags", 60), ("irqs", 61), ("zero", 62),
    ]  # fmt: skip
    assert DTYPE.itemsize == 64


def test_what_the_guest_wrote_is_bytes(path, writer):
    writer.text(b"Hi")
    writer.exit(address=0x3FD, value=0x60, write=False)
    writer.exit(HLT)
    writer.close({"reason": "halt"})
    trace = vmm.trace.load(path)
    assert trace.where(port=0x3F8, write=True).values == b"Hi"
    assert trace.where(port=0x3FD, write=False).values == b"\x60"
    assert len(trace) == 4
    assert trace.end == {"reason": "halt"}
    assert (trace.finished, trace.notes, trace.lost) == (True, [], 0)
    assert [e.name for e in trace] == ["IO", "IO", "IO", "HLT"]
    assert trace[0] == Exit(2, address=0x3F8, size=1, count=1, write=True, value=ord("H"))


@pytest.mark.parametrize("exits", [0, 1, 127, 128, 129, 256, 1000])
def test_every_exit_is_there_once_and_in_order(path, writer, exits):
    for number in range(exits):
        writer.exit(value=number, size=4)
    killed = path.read_bytes()
    writer.close()
    trace = load(path)
    assert trace.exits["value"].tolist() == list(range(exits))
    path.write_bytes(killed)
    trace = load(path)
    assert trace.exits["value"].tolist() == list(range(exits))
    assert not trace.finished
    assert "was not closed" in trace.notes[0]


def test_a_chunk_that_was_written_before_the_ring_knew(path, writer):
    for number in range(128):
        writer.exit(value=number)
    writer.ring().flushed = 0  # killed between the two
    assert load(path).exits["value"].tolist() == list(range(128))
    writer.close()


def test_an_end_inside_of_a_chunks_header(path, writer):
    """Only a damaged file has it."""
    writer.exit(value=7)
    writer.close({"reason": "halt"})
    data = bytearray(path.read_bytes())
    data[48:56] = (data.rindex(b"CHNK") + 20).to_bytes(8, "little")
    path.write_bytes(data)
    trace = load(path)
    assert trace.exits["value"].tolist() == [7]
    assert trace.end is None


def test_the_vcpus_exits_are_merged_by_time(path, new_writer):
    writer = new_writer(path, vcpus=3)
    for number in range(300):
        writer.exit(value=number, size=2, vcpu=(number * 7) % 3)
    writer.close()
    trace = load(path)
    assert trace.exits["value"].tolist() == list(range(300))
    assert trace.where(vcpu=1).exits["vcpu"].tolist() == [1] * 100
    assert trace.vcpus == 3


def test_strings_keep_all_their_bytes(path, writer):
    long, short = bytes(range(256)) * 16, b"0123456789"
    writer.exit(data=short)
    writer.exit(data=long)
    writer.exit(data=b"\1\2\3\4\5\6\7\x08\x09\x0a", size=2, address=0x10)
    writer.close()
    trace = load(path)
    assert [trace.data_of(record) for record in trace.exits[:2]] == [short, long]
    assert trace.where(port=0x3F8).values == short + long
    assert trace.where(port=0x10).values.tolist() == [0x201, 0x403, 0x605, 0x807, 0xA09]
    assert trace[1].data == long
    assert trace[1].count == 4096
    assert list(trace) == [trace[index] for index in range(len(trace))]
    assert trace[-1] == trace[2]
    with pytest.raises(IndexError):
        trace[3]


def test_an_exit_that_was_being_handled_is_apart(path, writer):
    writer.text(b"ab")
    writer.exit(flags=UNFINISHED)
    ring = writer.ring()
    ring.words[1] -= 1
    trace = load(path)
    assert trace.values == b"ab"
    assert trace.unfinished["address"].tolist() == [0x3F8]
    ring.words[1] += 1
    writer.close()


def test_a_flight_recorder_has_the_last_exits(path, new_writer):
    writer = new_writer(None)
    for number in range(1000):
        writer.exit(value=number, size=4)
    writer.trace.about = lambda: {"vmm": "1"}
    writer.trace.save(str(path), {"reason": "shutdown"})
    writer.close()
    trace = load(path)
    assert trace.exits["value"].tolist() == list(range(1000 - CAPACITY, 1000))
    assert trace.meta == {"vmm": "1"}
    assert (trace.end, trace.lost, trace.notes) == ({"reason": "shutdown"}, 0, [])


def test_a_recorder_that_was_overwritten_while_it_was_saved(path, new_writer):
    writer = new_writer(None)
    for number in range(1000):
        writer.exit(value=number, size=4)
    writer.trace.save(str(path))
    head = bytes(writer.ring().memory[:4096])
    for number in range(1000, 1010):
        writer.exit(value=number, size=4)
    body = bytes(writer.ring().memory[4096:])
    writer.close()
    with open(path, "r+b") as file:
        file.seek(RINGS_AT + STRIDE)
        file.write(head + body)
    # Ten are new, and the one behind them may be torn.
    assert load(path).exits["value"].tolist() == list(range(1000 - CAPACITY + 11, 1000))


def test_what_could_not_be_written_is_counted(path, writer):
    for number in range(200):
        writer.exit(value=number, size=4)
    writer.trace.error = OSError()  # the disk is full from here on
    writer.trace.memory.cut()
    for number in range(200, 1000):
        writer.exit(value=number, size=4)
    trace = load(path)
    assert trace.lost == 1000 - 128 - (CAPACITY - 128)
    assert trace.notes[-1] == f"{trace.lost:,} records are missing"
    assert "disk was full" in trace.notes[0]
    assert trace.exits["value"].tolist() == [
        *range(128), *range(1000 - CAPACITY + 128, 1000)
    ]  # fmt: skip
    writer.close()


def test_events_are_apart(path, writer):
    writer.trace.note_irq(4, True)
    writer.text(b"x")
    writer.trace.event(18, count=3)
    writer.close()
    trace = load(path)
    assert trace.events["kind"].tolist() == [16, 18]
    assert len(trace) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"glassvm", "not a trace; 'vmm run IMAGE --trace FILE' makes one"),
        (b"\x7fELF" + bytes(200), "not a trace"),
        (b"glassvmT" + struct.pack("<I", 2) + bytes(200), "format 2, and this vmm reads format 1"),
        (b"glassvmT" + struct.pack("<I", 1) + bytes(200), "header is damaged"),
    ],
)
def test_what_is_no_trace_is_refused_in_a_line(path, content, message):
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TraceError, match="no such file; 'vmm run IMAGE --trace"):
        load(tmp_path / "no")
    with pytest.raises(TraceError, match="not a file"):
        load(tmp_path)
    with pytest.raises(TraceError, match="null byte"):
        load("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="not a file"):
        load(tmp_path / "pipe")


def example(writer) -> None:
    com1 = {"name": "com1", "bus": "port", "start": 1016, "end": 1024, "base": 1016}
    writer.trace.about = lambda: {"devices": [com1]}
    writer.trace.describe()
    for number in range(400):
        writer.exit(value=number, vcpu=number % 2)
        if not number % 50:
            writer.exit(data=bytes(range(100)))
            writer.trace.note_irq(4, True)
    writer.close({"reason": "halt"})


def look(path: Path) -> None:
    """Everything that can be asked of a trace."""
    try:
        trace = load(path)
    except TraceError:
        return
    assert len(list(trace)) == len(trace) <= path.stat().st_size // 64
    assert len(trace.where(reason="IO", write=True, since=0)) <= len(trace)
    assert len(trace.values) >= 0
    [str(event) for event in trace]
    for record in trace.exits:
        trace.devices.name_at(int(record["reason"]), int(record["address"]))
    vmm.trace.Summary().add(trace.exits)
    assert compare(trace, trace).same
    for format in ("csv", "chrome"):
        written = io.StringIO()
        FORMATS[format](trace, trace, written, lambda done: None)
        assert format == "csv" or json.loads(written.getvalue())["traceEvents"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, new_writer) -> Path:
    path = tmp_path_factory.mktemp("damaged") / "t.vtrace"
    example(new_writer(path, vcpus=2))
    return path


# The header, the rings' headers and the chunks, where a flipped byte says something else.
PLACES = st.one_of(
    st.integers(0, 100),
    *(st.integers(RINGS_AT + n * STRIDE, RINGS_AT + n * STRIDE + 40) for n in range(3)),
    st.integers(RINGS_AT + 3 * STRIDE, RINGS_AT + 3 * STRIDE + 400),
    st.integers(0, 1 << 16),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(0, 1 << 16)),
)
def test_a_damaged_file_is_read_or_refused(whole, flips, cut):
    damaged = bytearray(whole.read_bytes())
    for at, byte in flips:
        damaged[at % len(damaged)] = byte
    path = whole.with_suffix(".damaged")
    path.write_bytes(damaged[:cut])
    look(path)


@pytest.mark.parametrize("ring", [1, 2])
@pytest.mark.parametrize("word", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_counters_that_lie(whole, ring, word, value):
    damaged = bytearray(whole.read_bytes())
    struct.pack_into("<Q", damaged, RINGS_AT + ring * STRIDE + 8 * word, value)
    path = whole.with_suffix(".damaged")
    path.write_bytes(damaged)
    look(path)


def test_a_count_that_promises_more_bytes_than_there_are(path, writer):
    writer.exit(data=b"0123456789")
    writer.close()
    content = bytearray(path.read_bytes())
    at = content.rindex(struct.pack("<I", 10), 0, len(content))
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    (event,) = load(path)
    assert event.data == b"0123456789"


class TestLive:
    @pytest.fixture
    def live(self, new_writer):
        writer = new_writer(None)
        live = LiveTrace.from_fd(writer.trace.memory.fd)
        yield writer, live
        live.close()
        writer.close()

    def test_only_what_is_new_is_told(self, live):
        writer, trace = live
        assert len(trace.poll(1).records) == 0
        writer.text(b"abc")
        news = trace.poll(1)
        assert bytes(news.records["value"].astype(np.uint8)) == b"abc"
        assert news.missed == 0
        assert len(trace.poll(1).records) == 0
        writer.text(b"de")
        assert bytes(trace.poll(1).records["value"].astype(np.uint8)) == b"de"
        assert trace.exits(0) == 5

    def test_what_was_overwritten_is_counted(self, live):
        writer, trace = live
        trace.poll(1)
        for number in range(1000):
            writer.exit(value=number, size=4)
        news = trace.poll(1)
        # It keeps away from the records that may be overwritten at any moment.
        assert news.records["value"].tolist() == list(range(1000 - CAPACITY + 128, 1000))
        assert news.missed == 1000 - len(news.records)

    def test_the_first_look_misses_nothing(self, live):
        writer, trace = live
        for number in range(1000):
            writer.exit(value=number, size=4)
        assert trace.poll(1).missed == 0

    def test_the_exit_that_is_being_handled(self, live):
        writer, trace = live
        writer.text(b"a")
        assert len(trace.being_handled(0)) == 0
        writer.exit(MMIO, 0xFEE0_0000, flags=UNFINISHED)
        writer.ring().words[1] -= 1
        assert trace.being_handled(0)["address"].tolist() == [0xFEE0_0000]
        assert len(trace.poll(1).records) == 1

    def test_a_torn_record_is_left_out(self, live):
        writer, trace = live
        writer.text(b"abc")
        writer.ring().records[64 + 48] ^= 1
        news = trace.poll(1)
        assert bytes(news.records["value"].astype(np.uint8)) == b"ac"

    def test_what_cannot_be_watched(self, tmp_path):
        fd = os.memfd_create("none")
        try:
            with pytest.raises(TraceError, match="cannot be mapped"):
                LiveTrace.from_fd(fd)
            os.write(fd, b"x" * 5000)
            with pytest.raises(TraceError, match="trace: not a trace"):
                LiveTrace.from_fd(fd)
        finally:
            os.close(fd)
