"""The ring that a vCPU's runner writes to while a real guest runs."""

from __future__ import annotations

import resource
import signal
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import vmm
from kvm_bindings.runner import runner_kind

pytestmark = pytest.mark.kvm

WRITES = 600
CODE = bytes.fromhex(
    "b9 58 02"  #     mov cx, 600
    "ba 10 00"  #     mov dx, 0x10
    "88 c8"  #  next: mov al, cl
    "ee"  #           out dx, al
    "e2 fb"  #        loop next
    "e5 11"  #        in ax, 0x11
    "bf 00 20"  #     mov di, 0x2000
    "b9 14 00"  #     mov cx, 20
    "ba 12 00"  #     mov dx, 0x12
    "fc f3 6c"  #     rep insb
    "f4"  #           hlt
)


@pytest.fixture(params=["compiled", "ctypes"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    elif runner_kind() != "compiled":
        pytest.skip("the compiled runner was not built")
    return str(request.param)


def run(**options: Any) -> tuple[vmm.Machine, vmm.RunResult]:
    m = vmm.Machine(memory="64K", **options)
    m.memory.write(0x1000, CODE)
    m.on_in(0x11)(lambda size: 0x1234)
    letters = iter(range(0x61, 0x7B))
    m.on_in(0x12)(lambda size: next(letters))
    m.start_at(0x1000)
    return m, m.run(timeout=60)


def test_every_exit_is_in_the_ring(runner: str) -> None:
    m, result = run()
    with m:
        last = m.vcpus[0].last_exits(10**6)
        assert len(last) == result.exits == m.vcpus[0].ring.exits
        writes = [e for e in last if e.write]
        assert [(e.address, e.value) for e in writes] == [
            (0x10, n & 0xFF) for n in range(WRITES, 0, -1)
        ]
        (read,) = [e for e in last if e.address == 0x11]
        assert (read.size, read.value, read.write) == (2, 0x1234, False)
        strings = [e for e in last if e.address == 0x12]
        assert b"".join(e.data for e in strings) == bytes(range(0x61, 0x75))
        assert last[-1].name == "HLT"
        times = [e.time_ns for e in last]
        assert times == sorted(times)
        assert all(e.guest_ns > 0 and e.handler_ns > 0 for e in last)
        spans = pairwise(last)
        assert all(a.time_ns + a.handler_ns + b.guest_ns <= b.time_ns for a, b in spans)


def test_a_file_gets_every_record(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.trace.trace.CAPACITY", 256)
    path = tmp_path / "t.vtrace"
    m, result = run(trace=str(path))
    m.close()
    data = path.read_bytes()
    (chunks_at, end) = struct.unpack_from("<QQ", data, 40)
    records, at = b"", chunks_at
    while at < end:
        _, kind, ring, size, first, _ = struct.unpack_from("<IHHQQQ", data, at)
        if kind == 2 and ring == 1:
            assert first == len(records) // 64
            records += data[at + 32 : at + 32 + size]
        at += 32 + size
    exits = [n for n in range(len(records) // 64) if records[64 * n + 58] == 1]
    assert len(exits) == result.exits
    values = [struct.unpack_from("<Q", records, 64 * n + 24)[0] for n in exits[:WRITES]]
    assert values == [n & 0xFF for n in range(WRITES, 0, -1)]


def test_nothing_is_noted_where_that_is_wanted(runner: str) -> None:
    m, result = run(trace=False)
    with m:
        assert m.trace is None
        assert result.exits > WRITES
        assert m.vcpus[0].last_exits() == []


def test_the_trace_is_asked_while_the_machine_is_there(runner: str) -> None:
    m, result = run()
    with m:
        assert m.trace is not None
        assert m.trace.where(port=0x12).values == bytes(range(0x61, 0x75))
        assert m.trace.where(port=0x10, write=True).values[-3:] == b"\3\2\1"
        assert m.trace.where(device="function at 0x11")[0].value == 0x1234
        assert len(m.trace.read()) == result.exits
    with pytest.raises(vmm.LifecycleError, match="exits are gone; give trace=FILE"):
        m.trace.where(port=0x12)


def test_a_file_says_what_machine_it_was_and_how_it_ended(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    m, result = run(trace=str(path), cpu="-xsave")
    m.close()
    trace = vmm.trace.load(path)
    assert (len(trace), trace.finished, trace.notes) == (result.exits, True, [])
    assert trace.end is not None
    assert (trace.end["reason"], trace.end["exits"]) == ("halt", result.exits)
    config = trace.meta["config"]
    assert (config["memory"], config["cpu"], config["start"]["entry"]) == (65536, "-xsave", 0x1000)
    assert trace.devices.name_at(2, 0xF4) == "debug-exit"
    assert m.trace is not None
    assert m.trace.where(port=0x12).values == bytes(range(0x61, 0x75))


def test_the_flight_recorder_is_kept_when_it_is_asked_for(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    m, result = run()
    with m:
        m.save_trace(str(path))
    trace = vmm.trace.load(path)
    assert len(trace) == result.exits
    assert [e.value for e in trace.where(port=0x10)] == [n & 0xFF for n in range(WRITES, 0, -1)]
    m, _ = run(trace=False)
    with m, pytest.raises(vmm.ConfigError, match="keeps no trace"):
        m.save_trace(str(path))


def test_a_pc_is_described_with_its_registers(tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    with vmm.boot("payload:hello64", trace=str(path)) as m:
        m.run(timeout=60)
    trace = vmm.trace.load(path)
    assert trace.where(device="com1", port=0x3F8, write=True).values.startswith(b"Hello from")
    first = trace.where(port=0x3FD)[0]
    assert "THRE" in trace.decoder.meaning(first)
    assert trace.meta["config"]["image"] == "payload:hello64"


def start(image: Path, *options: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vmm", "run", str(image), "--format", "flat16", *options]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    path = tmp_path / "endless.bin"
    path.write_bytes(bytes.fromhex("ba1000 ee fec0 ebfb"))  # out dx, al; inc al; again
    return path


@pytest.mark.command
def test_what_a_killed_monitor_leaves_is_whole(endless: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    process = start(endless, "--trace", str(path))
    try:
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < 6 << 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    trace = vmm.trace.load(path)
    assert len(trace) > 16384
    values = trace.where(port=0x10, write=True).exits["value"]
    assert values.tolist() == [(int(values[0]) + n) & 0xFF for n in range(len(trace))]
    assert trace.notes == ["the trace was not closed: the machine runs or was killed"]
    assert trace.meta["config"]["image"] == str(endless)


@pytest.mark.command
def test_a_full_disk_ends_the_trace_and_not_the_run(endless: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    room = 6 << 20  # the rings take 4 MiB

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    options = ("--trace", str(path), "--max-exits", "100000", "--memory", "1M")
    process = start(endless, *options, preexec_fn=limit)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 124
    assert "vmm: trace: File too large: recording stopped at exit 16,384; the guest ran on" in told
    trace = vmm.trace.load(path)
    assert trace.lost == 100000 - len(trace) > 0
    assert "its disk was full" in trace.notes[0]
    assert trace.exits["value"][:16384].tolist() == [n & 0xFF for n in range(16384)]
