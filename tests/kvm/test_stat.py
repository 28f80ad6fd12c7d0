"""`vmm stat` on machines that run, and on what they recorded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmm
from vmm.cli import main
from vmm.control.server import ControlServer
from vmm.kvm import backend

pytestmark = pytest.mark.kvm

PATIENCE_S = 30.0
COUNT_ON_PORT = bytes.fromhex("b300 88d8 e610 fec3 ebf8")  # bl to port 0x10, counting up
TEN_OUTS = bytes.fromhex("b90a00 e610 e2fc f4")  # mov cx, 10; out 0x10, al; loop; hlt


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def counting() -> Iterator[vmm.Machine]:
    """A machine called m, which counts on a port for ever."""
    first = threading.Event()
    with vmm.Machine(memory="1M") as machine:
        machine.memory.write(0x1000, COUNT_ON_PORT)
        machine.on_out(0x10)(lambda value, size: first.set())
        machine.start_at(0x1000)
        ControlServer(machine, "m", "image")
        thread = threading.Thread(target=machine.run, kwargs={"timeout": None})
        thread.start()
        assert first.wait(PATIENCE_S)
        yield machine
        machine.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_what_a_machine_remembers(
    counting: vmm.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    counting.pause()
    exits = counting.vcpus[0].exits
    assert main(["stat", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["machine"]["phase"] == "paused"
    # What is next to be overwritten is not read.
    assert min(exits, 32_000) <= figures["exits"] <= exits
    assert [row["reason"] for row in figures["reasons"]] == ["IO"]
    assert [row["device"] for row in figures["devices"]] == ["function at 0x10"]
    counting.resume()


def test_what_came_in_an_interval(
    counting: vmm.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stat", "m", "-n", "1", "--count", "2", "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        figures = json.loads(line)
        assert figures["exits"] > 0
        assert figures["addresses"][0]["address"] == 0x10
        if counting.kvm_stats():
            assert figures["kvm"]["vcpu0"]["exits"]["value"] > 0
            assert figures["kvm"]["vcpu0"]["exits"]["kind"] == "cumulative"
        hardware = figures["hardware"]
        if "unavailable" in hardware:
            with pytest.raises(vmm.NoHardwareExits) as error:
                vmm.HardwareExits.of(counting)
            assert str(error.value) == hardware["unavailable"]
        elif backend() in ("kvm_amd", "kvm_intel"):
            port_io = "IOIO" if backend() == "kvm_amd" else "IO_INSTRUCTION"
            assert hardware["reasons"].get(port_io, 0) + hardware["lost"] > 0
            assert hardware["total"] > 0


def test_the_kernels_counters_have_units(counting: vmm.Machine) -> None:
    values, counters = counting.kvm_stats(), counting.kvm_counters()
    if not values:
        pytest.skip("this kernel has no KVM_CAP_BINARY_STATS_FD")
    assert list(values) == list(counters) == ["vm", "vcpu0"]
    for owner, named in values.items():
        assert list(named) == [counter.name for counter in counters[owner]]
    units = {counter.name: counter.unit for counter in counters["vcpu0"]}
    assert units["halt_wait_ns"] == "ns"
    assert units["exits"] == ""


def test_a_recording_has_every_exit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, recording = tmp_path / "ten.bin", tmp_path / "run.vtrace"
    image.write_bytes(TEN_OUTS)
    with vmm.boot(image, format="flat16", record=str(recording)) as machine:
        exits = machine.run(timeout=60).exits
    assert main(["stat", str(recording), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["exits"] == exits == 11
    assert [(row["reason"], row["count"]) for row in figures["reasons"]] == [("IO", 10), ("HLT", 1)]
    assert figures["notes"] == []


@pytest.mark.command
def test_ctrl_c_leaves_quietly(counting: vmm.Machine) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vmm", "stat", "m", "-n", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert " m: image, running" in command.stdout.readline()
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, errors) == (130, "")
    assert counting.phase.value == "running"
