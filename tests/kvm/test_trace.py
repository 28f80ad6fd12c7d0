"""The ring that a vCPU's runner writes to while a real guest runs."""

from __future__ import annotations

import struct
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
