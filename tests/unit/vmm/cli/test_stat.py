"""`vmm stat` on recordings, and on a machine that a test plays."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vmm.cli.stat
from kvm_bindings.exit_ring import EXIT, WRITE
from vmm.cli import main
from vmm.control.client import Client
from vmm.control.protocol import ControlError
from vmm.hardware_exits import NoHardwareExits
from vmm.trace.trace import Trace

IO, HLT = 2, 5


class Machine:
    """A trace that exits are put into, and what its control socket would answer."""

    name = "m"

    def __init__(self, path: Path | None = None) -> None:
        self.trace = Trace(1, None if path is None else str(path), 256)
        self.halts = 0
        self.looks = 0
        self.ours, self.theirs = socket.socketpair()
        self.on_look: Callable[[], None] = lambda: None

    def exit(self, reason: int = IO, port: int = 0x3F8, handler_ns: int = 1000) -> None:
        ring = self.trace.ring(0)
        number = ring.head
        begun = int.from_bytes(self.trace.memory.memory[72:80], "little")
        ring.add(
            *(begun + 10_000 * number, 500, port if reason == IO else 0, 65, 0, handler_ns),
            *(int(reason == IO), reason, 0, EXIT, int(reason == IO), WRITE, 0),
        )
        ring.words[3] += 1

    def call(self, op: str) -> dict[str, Any]:
        if self.theirs.fileno() < 0:
            raise ControlError("m is gone")
        known = (self._info, self._description, self._stats, self._counters, self._virtio)
        return {method.__name__[1:]: method for method in known}[op]()

    def trace_fd(self) -> int:
        return os.dup(self.trace.memory.fd)

    def fileno(self) -> int:
        return self.ours.fileno()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def go_away(self) -> None:
        self.theirs.close()

    def close(self) -> None:
        self.trace.close()
        self.ours.close()
        self.theirs.close()

    def _info(self) -> dict[str, Any]:
        return {
            "name": "m", "pid": 1, "image": "x.img", "phase": "running", "backend": "kvm_none",
            "vcpus": 1, "threads": [77], "memory": 1 << 20, "uptime_s": 3.2,
            "exits": self.trace.ring(0).exits,
        }  # fmt: skip

    def _description(self) -> dict[str, Any]:
        thr = {"name": "THR", "offset": 0, "size": 1, "access": "w", "reset": 0}
        com1 = {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8}
        return {"devices": [{**com1, "registers": [thr]}], "registers": {"com1": [thr]}}

    def _stats(self) -> dict[str, Any]:
        self.looks += 1
        self.on_look()
        return {"vm": {}, "vcpu0": {"halt_exits": self.halts}}

    def _virtio(self) -> dict[str, Any]:
        return {"disk": {"reads": 5 + 5 * self.looks, "errors": 0}}

    def _counters(self) -> dict[str, Any]:
        return {"vm": {}, "vcpu0": {"halt_exits": {"kind": "cumulative", "unit": ""}}}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()

    def connect(name: str | None = None) -> Machine:
        assert name in (None, "m")
        return made

    def refuse(threads: list[int]) -> None:
        assert threads == [77]
        raise NoHardwareExits("not in a test")

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(vmm.hardware_exits, "HardwareExits", refuse)
    yield made
    made.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.vtrace"
    made = Machine(path)
    for _ in range(6):
        made.exit()
    made.exit(HLT)
    made.close()
    return path


def test_a_recording_as_text(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stat", str(recording)]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == [str(recording)]
    assert rows[1][:2] == ["7", "exits"]
    assert ["IO", "6"] in [row[:2] for row in rows]
    assert ["port", "0x3f8", "write", "6"] in [row[:4] for row in rows]
    assert err == ""


def test_what_virtio_devices_did(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stat"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["disk", "count", "/s"] in rows
    assert ["reads", "10"] in [row[:2] for row in rows]
    assert main(["stat", "-n", "0.05", "--count", "2", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["virtio"] for one in told] == [{"disk": {"reads": 5, "errors": 0}}] * 2


def test_a_recording_as_json(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stat", str(recording), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["recording"] == str(recording)
    assert (figures["exits"], figures["notes"]) == (7, [])
    assert [row["reason"] for row in figures["reasons"]] == ["IO", "HLT"]
    assert figures["reasons"][0]["handler_ns"]["max"] == 1000


def test_a_recording_that_was_cut_off(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(recording, os.stat(recording).st_size - 40)
    assert main(["stat", str(recording)]) == 0
    assert "note: the file is cut off" in capsys.readouterr().out


def test_what_the_flight_recorder_holds(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.halts = 12
    for _ in range(5):
        machine.exit()
    assert main(["stat"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("m: x.img, running, 1 vCPU, 1024K, up 3 s; since its start:\n5 exits in")
    rows = [line.split() for line in out.splitlines()]
    assert ["com1", "5"] in [row[:2] for row in rows]
    assert ["port", "0x3f8", "write", "com1", "THR", "5"] in [row[:6] for row in rows]
    assert ["halt_exits", "12"] in rows
    assert "hardware" not in out  # that takes time


def test_the_last_of_many_exits(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(1000):
        machine.exit()
    assert main(["stat", "m", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert "the last of 1,000 exits:" in figures["title"]
    assert 100 < figures["exits"] <= 256
    assert figures["machine"]["exits"] == 1000


def test_each_interval_has_what_came_in_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.exit()  # before
    machine.halts = 100

    def meanwhile() -> None:
        machine.halts += 1
        for _ in range(10 * machine.looks):
            machine.exit(HLT)

    machine.on_look = meanwhile
    assert main(["stat", "-n", "0.01", "--count", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["exits"], second["exits"]) == (10, 20)
    assert first["kvm"]["vcpu0"]["halt_exits"]["value"] == 1
    assert second["kvm"]["vcpu0"]["halt_exits"]["value"] == 1
    assert first["hardware"] == {"unavailable": "not in a test"}
    assert first["missed"] == second["missed"] == 0
    assert second["time"] >= first["time"]
    assert err == ""


def test_what_was_overwritten_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    def meanwhile() -> None:
        if machine.looks == 1:
            for _ in range(1000):
                machine.exit()

    machine.on_look = meanwhile
    assert main(["stat", "-n", "0.01", "--count", "1"]) == 0
    out = capsys.readouterr().out
    (missed,) = (line.split()[0] for line in out.splitlines() if "were overwritten" in line)
    (counted,) = (line.split()[0] for line in out.splitlines() if " exits in " in line)
    assert int(missed) + int(counted) == 1000


def test_a_machine_that_ends(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    def meanwhile() -> None:
        machine.exit(HLT)
        machine.go_away()

    machine.on_look = meanwhile
    assert main(["stat", "-n", "100"]) == 0
    out, err = capsys.readouterr()
    assert "\n1 exits in " in out
    assert err == "vmm: m has ended\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "3"], "give -n as well"),
        (["-n", "0"], "-n 0: give seconds above 0"),
        (["-n", "1", "--count", "0"], "give a whole number above 0"),
        (["./nowhere.vtrace"], "./nowhere.vtrace: no such file"),
        ([os.path.sep], f"{os.path.sep}: not a file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stat", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_recording_does_not_change(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stat", str(recording), "-n", "1"]) == 2
    assert "is a recording, whose figures do not change" in capsys.readouterr().err
