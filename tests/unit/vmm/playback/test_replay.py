"""`vmm.replay` on files: whole ones, damaged ones, and ones that are none."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmm
from devices.cmos_rtc import CmosRtc
from devices.debugcon import DebugCon
from devices.fw_cfg import FwCfg
from devices.i8042 import I8042
from devices.post import PostPort
from devices.uart16550 import Uart16550
from vmm.cli import main
from vmm.trace.journal import NO_VCPU
from vmm.trace.recorder import Journal
from vmm.trace.trace import Trace


def record(path: Path, *, close: bool = True) -> int:
    """Record some devices; returns where the chunks begin."""
    trace = Trace(1, str(path), 256)
    journal = Journal(trace.add_journal, lambda: (3, 0))
    uart = journal.make(Uart16550, irq=lambda level: None)
    journal.map("com1", "port", 0x3F8, 0x400, 0x3F8)
    rtc = journal.make(CmosRtc, clock=lambda: 1_700_000_000_000_000_000)
    keyboard = journal.make(I8042)
    fw_cfg = journal.make(FwCfg, files={"etc/x": b"abc"})
    mine = journal.noted(PostPort("mine"))
    for offset in range(8):
        uart.write(offset, 1, 0x1B)
        uart.read(offset, 1)
    uart.receive(b"hello")
    for cell in range(14):
        rtc.write(0, 1, cell)
        rtc.read(1, 1)
    journal.flush()
    keyboard.queue_keys(b"\x1e\x9e")
    keyboard.read(0, 1)
    fw_cfg.write(0, 2, 0x19)
    fw_cfg.read(1, 1)
    fw_cfg.write(4, 8, 0x1000)
    mine.read(0, 1)
    journal.flush()
    at = trace.memory._chunks_at
    if close:
        trace.close({"reason": "halt"})
    else:
        trace.memory.close()
    return at


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    path = tmp_path_factory.mktemp("replay") / "a.vtrace"
    at = record(path)
    return path.read_bytes(), at


def test_a_recording_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.vtrace"
    record(path)
    result = vmm.replay(path)
    assert result.identical, result
    assert (result.accesses, result.skipped, result.complete) == (48, {"mine": 1}, True)
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == f"{result}\nnot replayed: mine, 1 accesses\n"
    assert main(["replay", str(path), "--device", "com1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["identical"], told["accesses"], told["difference"]) == (True, 16, None)
    assert told["skipped"] == {"rtc": 28, "i8042": 1, "fw_cfg": 3, "mine": 1}


def test_a_recording_that_was_not_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.vtrace"
    record(path, close=False)
    result = vmm.replay(str(path))
    assert result.identical
    assert not result.complete
    main(["replay", str(path)])
    assert "was not closed: its last moments are missing" in capsys.readouterr().out


def test_a_change_in_a_model_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.vtrace"
    record(path)
    monkeypatch.setattr(Uart16550, "read_SCR", lambda self: 0x1A, raising=False)
    difference = vmm.replay(path).difference
    assert difference is not None
    assert (difference.access, difference.device) == (16, "com1")
    assert difference.what == "read of com1 SCR (port 0x3ff)"
    assert (difference.recorded, difference.replayed) == ("0x1b", "0x1a")
    assert (difference.exit, difference.vcpu) == (3, 0)
    assert main(["replay", str(path)]) == 1
    assert capsys.readouterr().out == f"{difference}\n"
    main(["replay", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["identical"] is False
    assert told["difference"]["access"] == 16


def test_a_call_from_another_thread_has_no_exit(tape) -> None:
    tape.exit = (0, NO_VCPU)
    uart = tape.journal.make(Uart16550)
    uart.receive(b"a")

    class Deaf(Uart16550):
        def receive(self, data: bytes) -> int:
            return 0

    difference = tape.play(com1=Deaf).difference
    assert (difference.exit, difference.vcpu) == (None, None)
    assert str(difference).startswith("access 0 (between exits, at ")


def test_no_kvm_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    record(path)
    code = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    assert event not in ('fcntl.ioctl', 'mmap.__new__'), event\n"
        "    assert event != 'open' or not str(args[0]).startswith('/dev/'), args\n"
        "import vmm\n"
        "sys.addaudithook(refuse)\n"
        "print(vmm.replay(sys.argv[1]).identical)\n"
        "print([name for name in ('vmm.machine', 'vmm.hardware') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n[]\n", "")


@pytest.mark.parametrize("content", [None, b"", b"glassvmT", b"#!/bin/sh\n" * 50])
def test_files_that_are_no_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    for name in (path, tmp_path):
        assert main(["replay", str(name)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"vmm: {name}: ")
        assert said.err.count("\n") == 1


def test_a_trace_without_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.vtrace"
    Trace(1, str(path), 256).close()
    assert main(["replay", str(path)]) == 2
    assert "no journal is in it" in capsys.readouterr().err


def test_a_journal_of_another_version(
    tmp_path: Path, recording: tuple[bytes, int], capsys: pytest.CaptureFixture[str]
) -> None:
    data, at = recording
    path = tmp_path / "a.vtrace"
    start = data.index(struct.pack("<BBHI", 1, 0, 1, 0), at)
    path.write_bytes(data[: start + 2] + b"\x63" + data[start + 3 :])
    assert main(["replay", str(path)]) == 2
    assert "does not begin as one of version 1" in capsys.readouterr().err


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_recordings_are_one_line(
    recording: tuple[bytes, int], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole, at = recording
    damaged = bytearray(whole)
    if data.draw(st.booleans(), label="cut"):
        del damaged[data.draw(st.integers(0, len(whole) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.integers(0, 127) | st.integers(at, len(whole) - 1))
        if where < len(damaged):
            damaged[where] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged.vtrace"
    path.write_bytes(damaged)
    try:
        said = str(vmm.replay(path))
    except vmm.VmmError as error:
        said = str(error)
    assert said
    assert "\n" not in said


def test_a_debug_console_is_compared_by_what_it_sends(tape) -> None:
    console = tape.journal.make(DebugCon, out=lambda data: None)
    console.write(0, 4, 0x64636261)

    class Reversed(DebugCon):
        def write(self, offset: int, size: int, value: int) -> None:
            self._out(value.to_bytes(size, "big"))

    difference = tape.play(debugcon=Reversed).difference
    assert (difference.recorded, difference.replayed) == ("out(b'abcd')", "out(b'dcba')")
