"""A running machine, reached over its control socket by real clients."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vmm
from kvm_bindings.exit_ring import RECORD_SIZE
from kvm_bindings.structs import kvm_regs, kvm_sregs
from vmm.control.client import Client
from vmm.control.protocol import ControlError, from_text, to_text
from vmm.control.registry import connect, names
from vmm.control.server import ControlServer
from vmm.lifecycle import Phase
from vmm.trace.layout import MARK

pytestmark = pytest.mark.kvm

PATIENCE_S = 20.0
COUNT_ON_PORT = bytes.fromhex("b300 88d8 e610 fec3 ebf8")  # bl to port 0x10, counting up
ENDLESS = bytes.fromhex("ebfe")


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


class Running:
    """A machine that runs on a thread, and a client."""

    def __init__(self, code: bytes, **options: Any) -> None:
        self.written: list[int] = []
        self.machine = vmm.Machine(memory="1M", **options)
        self.machine.memory.write(0x1000, code)
        self.machine.on_out(0x10)(lambda value, size: self.written.append(value))
        self.machine.start_at(0x1000)
        self.server = ControlServer(self.machine, "m", "image")
        self.thread = threading.Thread(target=self.machine.run, kwargs={"timeout": None})
        self.thread.start()
        until(lambda: self.machine.phase is Phase.RUNNING)
        self.client = Client.connect()

    def close(self) -> None:
        self.client.close()
        self.machine.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.machine.close()


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(code: bytes = COUNT_ON_PORT, **options: Any) -> Running:
        made.append(Running(code, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_machine_it_is(running: Callable[..., Running]) -> None:
    m = running()
    info = m.client.call("info")
    assert (info["name"], info["image"], info["pid"]) == ("m", "image", os.getpid())
    assert (info["phase"], info["vcpus"], info["memory"]) == ("running", 1, 1 << 20)
    device = {"name": "function at 0x10", "bus": "port", "start": 0x10, "end": 0x11, "base": 0x10}
    assert device in info["devices"]
    until(lambda: m.client.call("info")["exits"] > info["exits"])


def test_pause_step_and_resume(running: Callable[..., Running]) -> None:
    m = running()
    assert m.client.call("pause") == {"phase": "paused"}
    count = len(m.written)
    for n in range(1, 4):
        assert m.client.call("step_exit") == {"stepped": True}
        assert len(m.written) == count + n
    assert m.written == [n & 0xFF for n in range(count + 3)]
    assert m.client.call("resume") == {"phase": "running"}
    until(lambda: len(m.written) > count + 3)


def test_instruction_by_instruction(running: Callable[..., Running]) -> None:
    m = running()
    with pytest.raises(ControlError, match="no run that is paused"):
        m.client.call("step")
    m.client.call("pause")

    def step() -> int:
        assert m.client.call("step") == {"stepped": True}
        assert m.machine.phase is Phase.PAUSED
        regs = from_text(m.client.call("registers")["vcpus"][0]["regs"])
        return int(kvm_regs.from_buffer_copy(regs).rip)

    for _ in range(5):
        if step() == 0x1002:
            break
    count = len(m.written)
    assert [step() for _ in range(4)] == [0x1004, 0x1006, 0x1008, 0x1002]
    assert len(m.written) == count + 1
    m.client.call("resume")
    until(lambda: len(m.written) > count + 3)
    assert m.written == [n & 0xFF for n in range(len(m.written))]


def test_a_step_that_meets_no_exit(running: Callable[..., Running]) -> None:
    m = running(ENDLESS)
    m.client.call("pause")
    assert m.client.call("step_exit") == {"stepped": False}
    assert m.machine.phase is Phase.PAUSED


def test_registers_are_those_of_a_guest_that_stands_still(running: Callable[..., Running]) -> None:
    m = running()
    (vcpu,) = m.client.call("registers")["vcpus"]
    assert m.machine.phase is Phase.RUNNING  # it was held for the look alone
    regs = kvm_regs.from_buffer_copy(from_text(vcpu["regs"]))
    assert 0x1000 <= regs.rip < 0x100A
    m.client.call("pause")
    first, second = (m.client.call("registers")["vcpus"][0] for _ in range(2))
    assert first == second
    sregs = kvm_sregs.from_buffer_copy(from_text(first["sregs"]))
    assert sregs.cr0 & 1 == 0


def test_memory(running: Callable[..., Running]) -> None:
    m = running()
    assert from_text(m.client.call("memory", gpa=0x1000, size=10)["data"]) == COUNT_ON_PORT
    m.client.call("write_memory", gpa=0x8000, data=to_text(b"written"))
    assert m.machine.memory.read(0x8000, 7) == b"written"
    for gpa, size in ((1 << 20, 1), (-1, 4), (0, 1 << 30), (0xFFFFF, 2)):
        with pytest.raises(ControlError):
            m.client.call("memory", gpa=gpa, size=size)


def test_the_trace_is_mapped_by_another(running: Callable[..., Running]) -> None:
    m = running()
    m.client.call("pause")
    fd = m.client.trace_fd()
    try:
        assert m.machine.trace is not None
        memory = m.machine.trace.memory
        assert os.pread(fd, 8, 0) == b"glassvmT"
        at = 4096 + 4096 + memory.capacity * RECORD_SIZE  # behind the ring of events
        head = int.from_bytes(os.pread(fd, 8, at), "little")
        assert head == memory.of_vcpu(0).head > 0
    finally:
        os.close(fd)


def test_the_console(running: Callable[..., Running]) -> None:
    m = running()
    m.machine.console.write(b"hello, ")
    first = m.client.call("console")
    assert (from_text(first["data"]), first["end"]) == (b"hello, ", 7)
    m.machine.console.write(b"world")
    second = m.client.call("console", since=first["end"])
    assert (from_text(second["data"]), second["end"]) == (b"world", 12)
    assert m.client.call("console", since=99)["data"] == ""
    m.client.call("input", data=to_text(b"typed"))
    assert m.machine.console.waiting == 5


def test_the_screen(running: Callable[..., Running]) -> None:
    m = running()
    m.machine.memory.write(0xB8000, b"G\x1f")
    page = m.client.call("screen")
    assert (page["columns"], page["rows"]) == (80, 25)
    assert from_text(page["cells"])[:4] == b"G\x1f\0\0"


def test_the_interrupt_controllers(running: Callable[..., Running]) -> None:
    # PIC: mask 0xAA; PIT channel 0: mode 2, 0x1234; then for ever to port 0x10
    code = bytes.fromhex("b0aae621 b034e643 b034e640 b012e640 e610ebfc")
    m = running(code, irqchip=True)
    until(lambda: m.written)
    found = m.client.call("interrupts")
    (vcpu,) = found["vcpus"]
    assert vcpu["masked"] & 0xFF == 0xAA
    assert vcpu["pit_runs"] is True
    assert len(vcpu["redirections"]) == 24
    pit = found["pit"][0]
    assert (pit["count"], pit["mode"], pit["rw_mode"]) == (0x1234, 2, 3)
    assert m.machine.phase is Phase.RUNNING


def test_a_machine_without_interrupt_controllers(running: Callable[..., Running]) -> None:
    m = running()
    with pytest.raises(ControlError, match="no interrupt controllers"):
        m.client.call("interrupts")


def test_the_kernels_counters(running: Callable[..., Running]) -> None:
    m = running()
    stats = m.client.call("stats")
    if not stats:
        pytest.skip("this kernel has no KVM_CAP_BINARY_STATS_FD")
    before = stats["vcpu0"]["exits"]
    until(lambda: m.client.call("stats")["vcpu0"]["exits"] > before)
    assert "vm" in stats


def test_the_end_is_told(running: Callable[..., Running]) -> None:
    m = running()
    assert m.client.call("explanation") == {}
    m.client.call("stop")
    until(lambda: m.client.call("explanation"))
    assert m.client.call("explanation")["reason"] == "stopped"
    with pytest.raises(ControlError, match="the run has ended"):
        m.client.call("pause")


def test_the_flight_recorder_is_saved(running: Callable[..., Running], tmp_path: Path) -> None:
    m = running()
    path = tmp_path / "saved.vtrace"
    m.client.call("save", path=str(path))
    assert path.read_bytes()[:8] == b"glassvmT"
    with pytest.raises(ControlError, match="cannot be written"):
        m.client.call("save", path=str(tmp_path / "no/such"))


def test_marks_are_events_of_the_trace(running: Callable[..., Running]) -> None:
    m = running()
    assert [m.client.call("mark")["mark"] for _ in range(2)] == [1, 2]
    assert m.machine.trace is not None
    events = m.machine.trace.memory.events
    found = [events.record(number) for number in range(events.done)]
    assert [event[3] for event in found if event[10] == MARK] == [1, 2]


def test_what_cannot_be_done_is_said(running: Callable[..., Running]) -> None:
    m = running()
    for op, arguments, words in (
        ("explode", {}, "no operation 'explode'; there are attend, balloon, console"),
        ("memory", {"gpa": 0}, "do not fit: .* missing 1 required"),
        ("memory", {"gpa": "x", "size": 1}, "memory: these arguments do not fit"),
        ("step_exit", {"vcpu": 7}, "no vCPU 7"),
        ("step_exit", {}, "no run that is paused"),
        ("input", {"data": "%"}, "not base64"),
    ):
        with pytest.raises(ControlError, match=words):
            m.client.call(op, **arguments)
    assert m.client.call("info")["phase"] == "running"


def test_clients_cannot_hurt_the_guest(running: Callable[..., Running]) -> None:
    m = running()
    garbage = [b"\xff\n", b"[]\n", b"{" * 5000 + b"\n", b'{"op": 5}\n', b'{"id": {}, "op": []}\n']
    for data in garbage:
        with connect("m") as raw:
            raw.sendall(data)
            raw.settimeout(5)
            raw.recv(1 << 16)
    until(lambda: m.server.clients == 1)
    with connect("m") as greedy:  # asks for much and takes nothing
        greedy.settimeout(5)
        ask = json.dumps({"id": 1, "op": "memory", "gpa": 0, "size": 1 << 20}).encode() + b"\n"
        try:
            for _ in range(60):
                greedy.sendall(ask)
        except OSError:
            pass
        until(lambda: m.server.clients == 1)
    crowd = [connect("m") for _ in range(20)]
    assert m.server.clients <= 16
    for one in crowd:
        one.close()
    assert m.client.call("info")["phase"] == "running"
    count = len(m.written)
    until(lambda: len(m.written) > count)


def test_a_name_that_is_taken(running: Callable[..., Running]) -> None:
    running()
    with vmm.Machine() as other, pytest.raises(ControlError, match="name is running"):
        ControlServer(other, "m")
    assert names() == ["m"]


def test_nothing_is_left_behind() -> None:
    m = Running(COUNT_ON_PORT)
    m.close()
    assert names() == []
    m.server.linger(1)  # there is nobody to wait for
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"hello": 99}\n')
        with pytest.raises(ControlError, match="version 99 of the control protocol"):
            Client(ours, "m")


# -- the commands -----------------------------------------------------------------------------


def vmm_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.command
def test_ps_pause_resume_and_stop(tmp_path: Path) -> None:
    assert "no machine is running" in vmm_command("pause").stderr
    guest = subprocess.Popen(
        [sys.executable, "-m", "vmm", "run", "payload:spin", "--name", "spin"],
        stdin=subprocess.DEVNULL,
    )
    try:
        until(names)
        (row,) = json.loads(vmm_command("ps", "--json").stdout)
        assert (row["name"], row["pid"], row["phase"]) == ("spin", guest.pid, "running")
        assert vmm_command("pause").returncode == 0
        line = vmm_command("ps").stdout.splitlines()[1].split()
        assert line[:4] == ["spin", str(guest.pid), "paused", "payload:spin"]
        assert vmm_command("resume", "spin").returncode == 0
        taken = vmm_command("run", "payload:spin", "--name", "spin")
        assert taken.returncode == 2
        assert taken.stderr.startswith("vmm: spin: a machine of that name is running")
        assert vmm_command("stop", "spin").returncode == 0
        assert guest.wait(PATIENCE_S) == 130
        assert names() == []
    finally:
        guest.kill()
        guest.wait()


@pytest.mark.command
def test_pause_at_runs_until_a_condition_is_met(tmp_path: Path) -> None:
    loop = tmp_path / "loop.bin"
    loop.write_bytes(bytes.fromhex("40 e680 ebfb"))  # inc ax; out 0x80, al; jmp
    guest = subprocess.Popen(
        [sys.executable, "-m", "vmm", "run", str(loop), "--format", "flat16", "--name", "loop"],
        stdin=subprocess.DEVNULL,
    )
    try:
        until(names)
        for value in ("0x7", "0x6"):  # the second time it goes on from the first
            done = vmm_command("pause", "--at", f"port=0x80,value={value}")
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"port=0x80,value={value}: vCPU 0, IO out 0x80 1b ")
            with Client.connect() as client:
                assert client.call("info")["phase"] == "paused"
                assert client.call("stops") == {"stops": []}
        wrong = vmm_command("pause", "--at", "port=x")
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("vmm: condition port=x: port=x: 'x' is not a number")
        waits = subprocess.Popen(
            [sys.executable, "-m", "vmm", "pause", "--at", "port=0x99"], stderr=subprocess.PIPE
        )
        with Client.connect() as client:
            until(lambda: client.call("stops")["stops"])
        guest.terminate()
        _, said = waits.communicate(timeout=PATIENCE_S)
        assert waits.returncode == 2
        assert said.startswith(b"vmm: loop")
        assert len(said.splitlines()) == 1
    finally:
        guest.kill()
        guest.wait()


@pytest.mark.command
def test_a_machine_that_was_killed_is_not_listed(tmp_path: Path) -> None:
    guest = subprocess.Popen(
        [sys.executable, "-m", "vmm", "run", "payload:spin"], stdin=subprocess.DEVNULL
    )
    try:
        until(names)
        assert names() == [f"spin-{guest.pid}"]
    finally:
        guest.kill()
        guest.wait()
    assert vmm_command("ps").stdout.splitlines()[1:] == []
    assert list((tmp_path / "glassvm").iterdir()) == []


# -- stops --------------------------------------------------------------------------------------


def test_stops_are_set_listed_and_removed_while_it_runs(running: Callable[..., Running]) -> None:
    m = running()
    assert m.client.call("stops") == {"stops": []}
    (number,) = m.client.call("stop_at", condition="port=0x10,value=7").values()
    until(lambda: m.client.call("info")["phase"] == "paused")
    info = m.client.call("info")
    assert info["held_by"].startswith("port=0x10,value=7: vCPU 0, IO out 0x10 1b 0x7 function")
    assert m.written[-1] == 7
    stop = {"number": number, "condition": "port=0x10,value=7", "stopped": 1}
    assert m.client.call("stops") == {"stops": [stop]}
    before = len(m.written)
    m.client.call("resume")
    until(lambda: m.client.call("stops")["stops"][0]["stopped"] == 2)
    assert len(m.written) == before + 256
    assert m.client.call("remove_stop", number=number) == {"condition": "port=0x10,value=7"}
    assert m.client.call("stops") == {"stops": []}
    m.client.call("resume")
    until(lambda: len(m.written) > before + 1000)
    with pytest.raises(ControlError, match=f"^there is no stop {number}$"):
        m.client.call("remove_stop", number=number)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("prot=1", "condition prot=1: 'prot=1' is no term; there are port, "),
        ("device=com7", "condition device=com7: there is no device com7; there are "),
        ("rip=main", "condition rip=main: there is no symbol main; give --symbols FILE"),
    ],
)
def test_a_wrong_condition_is_a_line_and_the_guest_runs_on(
    running: Callable[..., Running], condition: str, words: str
) -> None:
    m = running()
    with pytest.raises(ControlError) as raised:
        m.client.call("stop_at", condition=condition)
    assert str(raised.value).startswith(words)
    assert len(str(raised.value).splitlines()) == 1
    assert m.client.call("stops") == {"stops": []}
    assert m.client.call("info")["phase"] == "running"


@pytest.mark.skipif(os.environ.get("GLASSVM_LAB") == "1", reason="no breakpoints there, see stops")
def test_a_breakpoint_at_a_name_from_a_file(
    running: Callable[..., Running], tmp_path: Path
) -> None:
    m = running()
    names = tmp_path / "names.map"
    names.write_text("1000 T start\n1006 T up\n")
    assert m.client.call("symbols", path=str(names)) == {"path": str(names), "bias": 0}
    assert m.client.call("symbols") == {"path": str(names), "bias": 0}
    m.client.call("stop_at", condition="rip=up")
    until(lambda: m.client.call("info")["phase"] == "paused")
    assert m.client.call("info")["held_by"] == "rip=up: vCPU 0, RIP 0x1006 (up)"
    with pytest.raises(ControlError, match=r"names\.none: No such file"):
        m.client.call("symbols", path=str(tmp_path / "names.none"))


def test_a_stop_pauses_while_somebody_sees_the_machine(running: Callable[..., Running]) -> None:
    m = running()
    m.client.call("attend")
    with Client.connect() as other:
        other.call("attend")
    m.client.call("pause")
    m.machine.trace.stop_at("port=0x10,value=9")
    m.client.call("resume")
    until(lambda: m.client.call("info")["held_by"].startswith("port=0x10,value=9: "))
    assert m.machine.last_result is None
    # Nobody sees it any more: it ends the run, as it would have before.
    m.client.close()
    until(lambda: not m.machine.onlookers)
    m.machine.resume()
    until(lambda: m.machine.last_result is not None)
    assert m.machine.last_result.detail.startswith("port=0x10,value=9: vCPU 0")
