"""A recording at any moment of it: counts, console, log, and back again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices.uart16550 import Uart16550
from vmm.errors import VmmError
from vmm.trace.layout import MARK, META
from vmm.trace.reader import load
from vmm.trace.tables import table_to_data
from vmm.trace.trace import Trace
from vmm.tui.recording import RecordingSource

IO, HLT, MMIO = 2, 5, 6
EXIT = 1
MS = 1_000_000


class Maker:
    """Writes a trace exit by exit, a millisecond apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trace = Trace(1, str(path), 1 << 14)
        self.begun = int.from_bytes(self.trace.memory.memory[64:72], "little")
        self.now = 0

    def exit(self, reason: int, address: int = 0, value: int = 0, *, write: bool = True) -> None:
        self.now += MS
        size = 1 if reason in (IO, MMIO) else 0
        ring = self.trace.ring(0)
        ring.add(
            *(self.begun + self.now, 5_000, address, value, 0, 2_000, size),
            *(reason, 0, EXIT, size, int(write), 0),
        )
        ring.words[3] += 1

    def finish(self, end: dict[str, Any] | None = None) -> RecordingSource:
        com1 = {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8,
                "registers": table_to_data(Uart16550.registers)}  # fmt: skip
        debugcon = {"name": "debugcon", "bus": "port", "start": 0xE9, "end": 0xEA, "base": 0xE9}
        meta = {"backend": "kvm_amd", "devices": [com1, debugcon]}
        self.trace.memory.append(META, json.dumps(meta).encode())
        self.trace.close(end)
        return RecordingSource(load(self.path), self.path.name)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "t.vtrace")


def test_it_begins_with_everything(maker: Maker) -> None:
    for byte in b"hello":
        maker.exit(IO, 0xE9, byte)
    maker.exit(HLT)
    source = maker.finish({"text": "the guest halted after 6 exits"})
    assert [(row.name, row.count) for row in source.reasons] == [("IO", 5), ("HLT", 1)]
    (place,) = source.places
    assert (place.name, place.where, place.count) == ("debugcon", "out 0xe9", 5)
    assert (place.guest.max, place.handler.max) == (5_000, 2_000)
    assert source.console() == b"hello"
    assert len(source.records) == 6
    assert source.explanation == "the guest halted after 6 exits"
    assert (source.status.phase, source.status.exits) == ("recording", 6)
    assert source.status.backend == "kvm_amd"


def test_moving_back_and_forward_shows_what_was_then(maker: Maker) -> None:
    for byte in b"abcdef":
        maker.exit(IO, 0xE9, byte)
    source = maker.finish()
    assert source.console() == b"abcdef"
    source.seek(maker.begun + 3 * MS)
    assert source.restarted
    assert source.console() == b"abc"
    assert sum(row.count for row in source._tally.summary.rows()) == 3
    assert len(source.records) == 3
    source.seek(maker.begun + 4 * MS + 1)
    assert not source.restarted
    assert source.console() == b"d"
    source.seek(0)
    assert (source.console(), len(source.records)) == (b"", 0)
    assert source.status.rate == 0
    source.seek(maker.begun + 2 * MS)
    assert source.status.rate == 2  # in the second before
    assert source.console() == b"ab"
    source.seek((1 << 63) - 1)
    assert source.console() == b"cdef"


def test_moving_by_exits(maker: Maker) -> None:
    for value in range(5):
        maker.exit(IO, 0x80, value)
    source = maker.finish()
    source.seek_exit(-2)
    assert int(source.records[-1]["value"]) == 2
    assert source.span.now_ns == maker.begun + 3 * MS
    source.seek_exit(1)
    assert int(source.records[-1]["value"]) == 3
    source.seek_exit(-100)
    assert int(source.records[-1]["value"]) == 0
    source.seek_exit(100)
    assert int(source.records[-1]["value"]) == 4


def test_counts_are_the_same_whichever_way_one_came(maker: Maker, monkeypatch: Any) -> None:
    monkeypatch.setattr("vmm.tui.recording._LEAST_SPACING", 100)
    for number in range(1000):
        maker.exit(IO, 0x10 + number % 7, number & 0xFF)
    source = maker.finish()
    seen = {}
    for step in (*range(0, 1000, 83), *range(1000, 0, -97), 500, 250, 750):
        source.seek(maker.begun + step * MS)
        counts = sorted((row.key.address, row.count) for row in source._tally.summary.rows())
        assert sum(count for _, count in counts) == step
        assert seen.setdefault(step, counts) == counts
    assert len(source._checkpoints) >= 9


def test_a_divisor_is_no_output(maker: Maker) -> None:
    maker.exit(IO, 0x3FB, 0x83)
    maker.exit(IO, 0x3F8, ord("X"))
    maker.exit(IO, 0x3F9, ord("Y"))
    maker.exit(IO, 0x3FB, 0x03)
    for byte in b"ok":
        maker.exit(IO, 0x3FD, 0x60, write=False)
        maker.exit(IO, 0x3F8, byte)
    assert maker.finish().console() == b"ok"


def test_exits_are_told_in_the_devices_words(maker: Maker) -> None:
    maker.exit(IO, 0x3FD, 0x60, write=False)
    maker.exit(IO, 0x3F8, 0x41)
    maker.exit(MMIO, 0xFEDC_0000, 0x1)
    source = maker.finish()
    status, letter, nobody = (source.entry(record) for record in source.records)
    assert (status.kind, status.where, status.device) == ("IO in", "0x3fd", "com1")
    assert (status.value, status.meaning) == ("0x60", "LSR = THRE|TEMT")
    assert letter.value == "0x41 'A'"
    assert (nobody.kind, nobody.where, nobody.device) == ("MMIO write", "0xfedc0000", "nobody")
    exit_section, guest = source.detail(source.records[0]).result(1)
    told = "\n".join(exit_section.lines)
    assert "KVM_EXIT_IO (2)" in told
    assert "com1, at 0x3f8..0x3ff, offset 0x5" in told
    assert "LSR = THRE|TEMT" in told
    assert "RIP was not noted" in guest.lines[0]


def test_the_time_line(maker: Maker) -> None:
    for value in range(10):
        maker.exit(IO, 0x80, value)
    maker.trace.event(MARK, value=1)
    source = maker.finish()
    assert (source.span.begin_ns, source.span.end_ns) == (maker.begun, maker.begun + 10 * MS)
    assert sum(source.span.density) == 10
    assert len(source.span.marks) == 1


def test_an_empty_recording_is_one_too(maker: Maker) -> None:
    source = maker.finish()
    source.seek(maker.begun)
    source.seek_exit(1)
    source.seek_exit(-1)
    assert (source.console(), list(source.reasons), len(source.records)) == (b"", [], 0)


def test_nothing_of_it_can_be_changed(maker: Maker) -> None:
    source = maker.finish()
    with pytest.raises(VmmError, match="this is a recording"):
        source.do("pause").result(0)
    assert not source.live
