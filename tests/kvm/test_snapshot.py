"""Snapshots: a guest that is stopped, saved and put back goes on as if it never had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vmm
from devices.records import Record
from firmware.payloads import PAYLOADS
from vmm.lifecycle import Phase

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
GUESTS = sorted(name for name, guest in PAYLOADS.items() if guest.ends != "timeout")
GO_ON = """
import sys, json, vmm
with vmm.restore(sys.argv[1]) as machine:
    result = machine.run(timeout=60)
    found = [machine.console.output.hex(), result.exits, result.reason, result.status]
    json.dump(found, sys.stdout)
"""


def boot(name: str, **options) -> vmm.Machine:
    machine = vmm.boot(f"payload:{name}", cpus=PAYLOADS[name].cpus, **options)
    machine.console.send(PAYLOADS[name].input)
    return machine


def exits_of(machine: vmm.Machine) -> int:
    return sum(vcpu.exits for vcpu in machine.vcpus)


@pytest.fixture(scope="module")
def unbroken():
    """What a guest comes to that is never stopped: output, exits, reason, status."""
    known = {}

    def look_up(name: str) -> tuple[bytes, int, str, int]:
        if name not in known:
            with boot(name) as machine:
                result = machine.run(timeout=60)
                output = machine.console.output
                known[name] = (output, exits_of(machine), result.reason, result.status)
        return known[name]

    return look_up


@pytest.mark.parametrize("name", GUESTS)
@settings(
    max_examples=2 if os.environ.get("GLASSVM_LAB") else 6,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_guest_goes_on_from_any_exit_as_if_it_had_not_been_stopped(
    name, unbroken, tmp_path, data
):
    wanted = unbroken(name)
    moment = data.draw(st.integers(1, max(wanted[1] - 1, 1)), label="stopped at exit")
    path = tmp_path / "guest.snap"
    with boot(name) as machine:
        result = machine.run(timeout=60, max_exits=moment)
        if result.reason != "max_exits":
            assert wanted[1] <= moment
            return  # it had ended by then
        machine.snapshot(str(path)).close()
        before, exits = machine.console.output, exits_of(machine)
    with vmm.restore(path) as machine:
        result = machine.run(timeout=60)
        output = before + machine.console.output
        found = (output, exits + exits_of(machine), result.reason, result.status)
    assert found == wanted


@pytest.mark.command
@pytest.mark.parametrize("name", [n for n in GUESTS if PAYLOADS[n].console])
def test_another_process_goes_on_with_it(name, unbroken, tmp_path):
    wanted = unbroken(name)
    path = tmp_path / "guest.snap"
    with boot(name) as machine:
        if machine.run(timeout=60, max_exits=max(wanted[1] // 2, 1)).reason != "max_exits":
            return
        machine.snapshot(str(path)).close()
        before, exits = machine.console.output, exits_of(machine)
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    output, more, reason, status = json.loads(done.stdout)
    assert (before + bytes.fromhex(output), exits + more, reason, status) == wanted


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_seabios_goes_on_from_the_middle_of_its_boot(part, tmp_path):
    if not SEABIOS.exists():
        pytest.skip("SeaBIOS is not here: apt install seabios")
    path = str(tmp_path / "seabios.snap")

    def to_the_end(machine: vmm.Machine, before: bytes = b"") -> bytes:
        for _ in range(100):
            if b"No bootable device." in before + machine.console.output:
                break
            machine.run(timeout=2)
        return before + machine.console.output

    with vmm.boot(SEABIOS) as machine:
        wanted = to_the_end(machine)
    with vmm.boot(SEABIOS) as machine:
        # Not after so many exits: how often it looks at a clock is another number each time.
        while len(machine.console.output) < part * len(wanted):
            machine.run(timeout=60, max_exits=7)
        machine.snapshot(path).close()
        before = machine.console.output
    with vmm.restore(path) as machine:
        assert to_the_end(machine, before) == wanted
    assert b"No bootable device." in wanted


def test_one_snapshot_makes_many_machines_and_outlives_its_own():
    machine = boot("hello64")
    machine.run(max_exits=20)
    with machine.snapshot() as snapshot:
        machine.close()
        with vmm.restore(snapshot) as first, vmm.restore(snapshot) as second:
            first.memory.write(0x2000, b"first")
            second.memory.write(0x2000, b"other")
            assert first.run(timeout=60).reason == second.run(timeout=60).reason == "halt"
            assert first.console.output == second.console.output
            assert first.memory.read(0x2000, 5) == b"first"


def test_a_run_in_progress_is_held_for_it_and_goes_on(machine):
    # again: inc ax; out 0x10, al; jmp again
    m = machine("40 e610 ebfb")
    written = []
    m.on_out(0x10)(lambda value, size: written.append(value))
    thread = threading.Thread(target=m.run, kwargs={"timeout": 60})
    thread.start()
    try:
        while len(written) < 100:
            assert thread.is_alive()
        with m.snapshot() as snapshot:
            seen = len(written)
            while len(written) < seen + 100:
                assert thread.is_alive()
            assert m.phase is Phase.RUNNING
            with vmm.restore(snapshot) as copy:
                again = []
                copy.on_out(0x10)(lambda value, size: again.append(value))
                copy.run(max_exits=50)
                first = again[0] - 1  # the last write of the original before
                assert first % 256 in written[max(seen - 2, 0) : seen + 1]
                assert [(first + n + 1) % 256 for n in range(50)] == again
    finally:
        m.stop()
        thread.join()


class CounterState(Record):
    kind = "counter"
    version = 1
    count: int
    text: bytes


class Counter:
    name = "counter"

    def __init__(self) -> None:
        self.count = 0

    def read(self, offset: int, size: int) -> int:
        self.count += 1
        return self.count

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def reset(self) -> None:
        self.count = 0

    def save(self) -> CounterState:
        return CounterState(self.count, b"\x00\xff")

    def load(self, state: CounterState) -> None:
        assert state.text == b"\x00\xff"
        self.count = state.count


@pytest.fixture
def counted(machine, tmp_path):
    """The file of a machine with a device of a user's own, which was read twice."""
    m = machine("e410 e410 e410 f4")  # in al, 0x10, three times; hlt
    m.add_device(Counter(), pio=range(0x10, 0x11))
    m.run(max_exits=2)
    path = str(tmp_path / "counted.snap")
    m.snapshot(path).close()
    return path


def test_a_device_of_ones_own_takes_its_state_when_it_is_added_again(counted):
    with vmm.restore(counted) as m:
        device = Counter()
        m.add_device(device, pio=range(0x10, 0x11))
        assert device.count == 2
        assert m.run(timeout=60).reason == "halt"
        assert m.regs.rax & 0xFF == device.count == 3


def test_a_device_with_a_state_that_nobody_added_is_named_when_it_runs(counted):
    with vmm.restore(counted) as m:
        with pytest.raises(vmm.ConfigError, match="state for counter, and no such device"):
            m.run()
        m.saved_states.clear()
        assert m.run(timeout=60).reason == "halt"
        assert m.regs.rax & 0xFF == 0xFF  # nobody answers at the port


def test_a_state_of_another_kind_or_version_is_refused(counted):
    class Other(Counter):
        def save(self) -> CounterState:
            state = CounterState(0, b"")
            state.__dict__["kind"] = "other"
            return state

    with vmm.restore(counted) as m, pytest.raises(vmm.SnapshotError, match="'counter', this is"):
        m.add_device(Other(), pio=range(0x10, 0x11))


def test_a_device_that_cannot_be_saved_is_named_with_its_reason(machine):
    class Silent:
        name = "silent"

        def read(self, offset: int, size: int) -> int:
            return 0

        def write(self, offset: int, size: int, value: int) -> None:
            pass

        def reset(self) -> None:
            pass

    class Sorry(Silent):
        name = "sorry"
        cannot_save = "it holds a connection"

    m = machine()
    m.add_device(Silent(), pio=range(0x10, 0x11))
    m.add_device(Sorry(), pio=range(0x11, 0x12))
    with pytest.raises(vmm.SnapshotError) as caught:
        m.snapshot()
    assert "silent cannot be saved: Silent has neither save() and load()" in str(caught.value)
    assert "sorry cannot be saved: it holds a connection" in str(caught.value)


def test_a_closed_machine_has_no_state(machine):
    m = machine()
    m.close()
    with pytest.raises(vmm.LifecycleError, match="stopped"):
        m.snapshot()


def test_features_that_the_host_lacks_are_named_before_anything_runs(machine, tmp_path):
    m = machine()
    with m.snapshot() as snapshot:
        supported = m.hardware.kvm.supported_cpuid()
        free = next(
            f for f in ("avx512f", "la57", "xop", "tbm", "fma4") if f not in _names(supported)
        )
        from vmm.cpu_features import find_feature

        feature = find_feature(free)
        state = snapshot.vcpus[0]
        entries = [e for e in state.cpuid if (e.function, e.index) != feature[1:3]]
        mine = next(e for e in state.cpuid if (e.function, e.index) == feature[1:3])
        value = getattr(mine, feature.register) | 1 << feature.bit
        entries.append(mine._replace(**{feature.register: value}))
        state.__dict__["cpuid"] = tuple(entries)
        with pytest.raises(vmm.SnapshotError, match=f"does not have here: {free};"):
            vmm.restore(snapshot)


def _names(entries):
    from vmm.cpuid import feature_names

    return feature_names(entries)


def test_a_boot_sector_keeps_its_disk_and_its_bios(tmp_path):
    # Prints "A", writes sector 1 of the disk, reads it again and prints its first byte.
    sector = bytearray(1024)
    code = bytes.fromhex(
        "31c0 8ed8 8ec0 bb007e"  # ds = es = 0, bx = 0x7e00
        "b8410e cd10"  # print "A"
        "c606007e58"  # mov byte [0x7e00], 'X'
        "b80103 b90200 ba8000 cd13"  # write one sector, 2, of drive 0x80
        "b80102 b90200 ba8000 bb0080 cd13"  # read it to 0x8000
        "a00080 b40e cd10 f4"  # print its first byte
    )
    sector[: len(code)] = code
    sector[510:512] = b"\x55\xaa"
    image = tmp_path / "disk.img"
    image.write_bytes(sector)
    path = str(tmp_path / "disk.snap")
    with vmm.boot(image) as m:
        m.run(max_exits=1)
        with m.snapshot(path):
            pass
        assert m.run(timeout=60).reason == "halt"
        assert m.console.output.endswith(b"X")
    assert image.read_bytes()[512:513] == b"X"
    image.write_bytes(sector)
    with vmm.restore(path) as m:
        m.run(max_exits=1)  # the write
        with m.snapshot() as later:
            assert m.run(timeout=60).reason == "halt"
            assert m.console.output.endswith(b"X")
            with vmm.restore(later) as other:  # what was written privately is in a snapshot
                assert other.run(timeout=60).reason == "halt"
                assert other.console.output.endswith(b"X")
        with pytest.raises(vmm.SnapshotError, match="the snapshot is closed"):
            vmm.restore(later)
    assert image.read_bytes() == sector
    with pytest.raises(vmm.SnapshotError, match=r"disk .*/disk\.img of this host"):
        vmm.restore(path, disks="shared")
    with vmm.restore(path, disks="shared", trust=True) as m:
        m.run(timeout=60)
    assert image.read_bytes()[512:513] == b"X"
    image.write_bytes(sector * 2)
    with pytest.raises(vmm.SnapshotError, match=r"disk\.img has 4 sectors and had 2"):
        vmm.restore(path)


PROOF = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
class Answer:
    name = "answer"
    cannot_save = None
    def read(self, offset, size): return 42
    def write(self, offset, size, value): pass
    def reset(self): pass
    def save(self): return State()
    def load(self, state): pass
class State:
    kind, version, _fields = "answer", 1, ()
"""


def test_a_file_of_unknown_origin_runs_nothing_of_this_host(tmp_path, capsys):
    from vmm.cli import main

    code = tmp_path / "answer.py"
    code.write_text(PROOF)
    path = str(tmp_path / "with.snap")
    device = f"{code}:Answer@pio:0x10"
    with vmm.boot("payload:hello64", devices=[device]) as m:
        m.devices["answer"].read(0, 1)
        ours = m.snapshot(path)
    (tmp_path / "ran").unlink()
    for restore in (vmm.restore, vmm.Pool):
        with pytest.raises(vmm.SnapshotError) as refusal:
            restore(path)
        assert str(refusal.value) == (
            f"{path}: the machine has device {device} of this host; if you know where the "
            "snapshot is from, use --trust (in Python: trust=True)"
        )
    assert main(["restore", path]) == 2
    assert f"device {device} of this host" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    with vmm.restore(path, trust=True) as m:
        assert m.devices["answer"].read(0, 1) == 42
    assert (tmp_path / "ran").exists()
    assert main(["restore", path, "--trust"]) == 0
    with ours, vmm.restore(ours) as m:  # taken by this program: it knows
        assert m.run(timeout=60).reason == "halt"


def test_what_was_typed_waits_as_it_did(machine):
    m = machine("f4")
    m.console.send("ab")
    with m.snapshot() as snapshot:
        m.reset_to(snapshot)
        m.console.send("c")
        m.reset_to(snapshot)
        assert m.console.unsent == b"ab"
        with vmm.restore(snapshot) as copy:
            assert copy.console.unsent == b"ab"
    other = machine("f4")
    with other.snapshot() as empty:
        other.console.send("typed since")
        other.reset_to(empty)
        assert other.console.unsent == b""


# -- returns --------------------------------------------------------------------------------


# again: inc byte [0x5000]; mov al, [0x5000]; out 0x10, al; mov [0x8000], al; jmp again
COUNTER = "fe060050 a00050 e610 a20080 ebf2"


@pytest.mark.parametrize("times", [3, 50])
def test_a_machine_comes_back_to_where_it_was(machine, times):
    m = machine(COUNTER)
    seen = []
    m.on_out(0x10)(lambda value, size: seen.append(value))
    m.run(max_exits=5)
    with m.snapshot() as snapshot:
        m.run(max_exits=3)
        assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
        for turn in range(times):
            seen.clear()
            m.reset_to(snapshot)
            assert m.memory.read(0x9000, 4) == bytes(4)
            m.run(max_exits=2 + turn % 3)
            assert seen == [6, 7, 8, 9][: 2 + turn % 3]
            m.memory.write(0x9000, b"host")  # what the host wrote goes as well
            m.memory.fill(0x8000, 16, 0xEE)
            m.memory.view(0xA000, 4)[:] = b"view"
        m.reset_to(snapshot)
        assert m.memory.read(0xA000, 4) == bytes(4)
        with m.snapshot() as again:
            m.reset_to(again)
            m.run(max_exits=1)
            m.reset_to(snapshot)
            seen.clear()
            m.run(max_exits=1)
            assert seen == [6]


def test_devices_and_interrupts_come_back_too(unbroken):
    wanted = unbroken("serial_echo")
    with boot("serial_echo") as machine:
        machine.run(timeout=60, max_exits=wanted[1] // 2)
        before = machine.console.output
        with machine.snapshot() as snapshot:
            for _ in range(3):
                start = machine.console.written
                result = machine.run(timeout=60)
                output, _ = machine.console.since(start, 1 << 20)
                assert (before + output, result.reason) == (wanted[0], wanted[2])
                machine.reset_to(snapshot)


def test_a_machine_of_another_kind_is_refused(machine):
    snapshot = machine(memory="1M").snapshot()
    with snapshot, pytest.raises(vmm.SnapshotError, match="memory is 1048576 there and 2097152"):
        machine().reset_to(snapshot)
    with pytest.raises(vmm.SnapshotError, match="closed"):
        machine(memory="1M").reset_to(snapshot)


def test_coalesced_writes_are_carried_out_before_and_come_only_once(machine):
    # mov al, 1; out 0x10, al; mov al, 2; out 0x10, al; out 0x80, al; out 0x10, al; hlt
    m = machine("b001 e610 b002 e610 e680 e610 f4")
    seen = []
    m.on_out(0x10, coalesced=True)(lambda value, size: seen.append(value))
    m.on_out(0x80)(lambda value, size: None)
    m.run(max_exits=1) if m.hardware.kvm.coalesced_mmio_page else m.run(max_exits=3)
    with m.snapshot() as snapshot:
        assert seen == [1, 2]
        for _ in range(3):
            seen.clear()
            m.reset_to(snapshot)
            assert m.run(timeout=60).reason == "halt"
            assert seen == [2]
