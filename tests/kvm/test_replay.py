"""Recordings of real guests, replayed without a machine."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vmm
from devices.cmos_rtc import CmosRtc
from devices.fw_cfg import FwCfg
from devices.post import PostPort
from devices.uart16550 import Uart16550

pytestmark = pytest.mark.kvm


@pytest.fixture
def replayed(tmp_path: Path, replay_alone):
    """Replay a recording at `.path`."""
    path = tmp_path / "run.vtrace"

    def replay(**options) -> vmm.ReplayResult:
        return replay_alone(path, **options)

    replay.path = str(path)  # type: ignore[attr-defined]
    return replay


def flat16(tmp_path: Path, code: str) -> str:
    image = tmp_path / "code.bin"
    image.write_bytes(bytes.fromhex(code))
    return str(image)


def test_a_conversation_over_the_serial_port(boot, replayed) -> None:
    m = boot("payload:serial_echo", record=replayed.path)
    m.console.send("hello")
    m.console.send("q")
    result = m.run(timeout=60)
    assert result.reason == "debug_exit"
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.complete
    assert not found.skipped
    reads = found.accesses

    class SwapsCase(Uart16550):
        def read_RBR(self) -> int:
            return super().read_RBR() ^ 0x20

    difference = replayed(device_overrides={"com1": SwapsCase}).difference
    assert difference.what == "read of com1 RBR (port 0x3f8)"
    assert (difference.recorded, difference.replayed) == ("0x68", "0x48")
    assert 1 < difference.access < reads
    assert difference.vcpu == 0
    assert 1 <= difference.exit <= result.exits
    assert difference.seconds > 0


def test_the_clock_and_a_class_that_looks_once_more(boot, replayed, tmp_path) -> None:
    """Read the seconds until they change."""
    code = "30c0 e670 e471 88c3 e471 38c3 74fa f4"
    m = boot(flat16(tmp_path, code), format="flat16", record=replayed.path)
    result = m.run(timeout=60)
    assert result.reason == "halt"
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.accesses == result.exits - 1

    class LooksAgain(CmosRtc):
        def write(self, offset: int, size: int, value: int) -> None:
            super().write(offset, size, value)
            self._clock()

    difference = replayed(device_overrides={"rtc": LooksAgain}).difference
    assert (difference.access, difference.exit) == (1, 1)
    assert (difference.recorded, difference.replayed) == ("no such call", "clock()")


def test_timer_ticks_come_from_another_thread(boot, replayed, tmp_path) -> None:
    """The clock's interrupt each 1/64 s; status C is polled until it has come eight times."""
    code = (
        "b00a e670 b02a e671"  #    A: 32.768 kHz, 64 Hz
        "b00b e670 b042 e671"  #    B: periodic interrupt, 24 hours
        "b90800 b00c e670"  #       mov cx, 8; select C
        "e471 a840 74fa e2f8 f4"  # poll PF
    )
    m = boot(flat16(tmp_path, code), format="flat16", irqchip=True, record=replayed.path)
    with m:
        assert m.run(timeout=60).reason == "halt"
    found = replayed()
    assert found.identical, found
    made = 2  # the clock and the debug-exit port
    assert found.calls >= made + 8


def test_dma_of_fw_cfg(boot, replayed, tmp_path) -> None:
    """Read the signature by DMA into memory at 0x8000; the request lies at 0x9000."""
    request = "0000000a 00000004 0000000000008000"  # select item 0, read; all big-endian
    code = (
        "ba1405 66b800000000 66ef"  # mov dx, 0x514; mov eax, 0; out dx, eax
        "ba1805 66b800009000 66ef f4"  # 0x518, 0x9000 in big-endian
    )
    m = boot(flat16(tmp_path, code), format="flat16", record=replayed.path)
    m.memory.write(0x9000, bytes.fromhex(request))
    assert m.run(timeout=60).reason == "halt"
    assert m.memory.read(0x8000, 4) == b"QEMU"
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.accesses == 2

    class Backwards(FwCfg):
        def _item(self) -> bytes:
            return super()._item()[::-1]

    difference = replayed(device_overrides={"fw_cfg": Backwards}).difference
    assert difference.access == 2
    assert difference.recorded == "memory.write(0x8000, b'QEMU')"
    assert difference.replayed == "memory.write(0x8000, b'UMEQ')"


def test_string_io_and_coalesced_writes(machine, replayed) -> None:
    m = machine(
        "be0020 b90500 ba8000 f36e"  # outs: five bytes from 0x2000 to port 0x80
        "b90300 b0aa e681 e2fa e480 f4",  # three bytes to 0x81, read 0x80
        trace=replayed.path,
        journal=True,
    )
    m.memory.write(0x2000, b"abcde")
    m.add_device(m.make(PostPort), pio=range(0x80, 0x81))
    m.add_device(m.make(PostPort, "slow"), pio=range(0x81, 0x82), coalesced=True)
    assert m.run(timeout=60).reason == "halt"
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.accesses == 5 + 3 + 1

    class Stuck(PostPort):
        def write_POST(self, value: int) -> None:
            self.values["POST"] = 0x61

    difference = replayed(device_overrides={"post": Stuck}).difference
    assert (difference.what, difference.access) == ("read of post POST (port 0x80)", 9)
    assert (difference.recorded, difference.replayed) == ("0x65", "0x61")


def test_functions_and_devices_of_ones_own(machine, replayed) -> None:
    class Adder:
        name = "adder"

        def __init__(self) -> None:
            self.sum = 0

        def read(self, offset: int, size: int) -> int:
            return self.sum

        def write(self, offset: int, size: int, value: int) -> None:
            self.sum += value

        def reset(self) -> None:
            self.sum = 0

    m = machine("e610 e411 b005 e620 e620 e420 f4", trace=replayed.path, journal=True)
    m.on_out(0x10)(lambda value, size: None)
    m.on_in(0x11)(lambda size: 1)
    m.add_device(Adder(), pio=range(0x20, 0x21))
    assert m.run(timeout=60).reason == "halt"
    assert m.regs.rax & 0xFF == 10
    m.close()
    found = replayed()
    assert found.identical
    assert found.accesses == 0
    assert found.skipped == {"function at 0x10": 1, "function at 0x11": 1, "adder": 3}
    assert replayed(device_overrides={"adder": Adder}).accesses == 3


def test_a_device_that_fails_is_recorded_to_its_failure(machine, replayed) -> None:
    class Dies(PostPort):
        def write_POST(self, value: int) -> None:
            raise ZeroDivisionError("by accident")

    m = machine("e680 f4", trace=replayed.path, journal=True)
    m.add_device(m.make(Dies), pio=range(0x80, 0x81))
    with pytest.raises(vmm.DeviceFault):
        m.run(timeout=60)
    m.close()
    assert replayed(device_overrides={"post": Dies}).identical
    difference = replayed(device_overrides={"post": PostPort}).difference
    assert difference.recorded == "an error (ZeroDivisionError: by accident)"


def test_a_boot_sector_on_the_bios_in_python(boot, replayed) -> None:
    m = boot("payload:bootsector", record=replayed.path)
    m.run(timeout=60)
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.calls > 20  # the BIOS moves the cursor
    assert found.skipped.keys() == {"bios"}


def test_several_processors(boot, replayed) -> None:
    m = boot("payload:smp", record=replayed.path)
    result = m.run(timeout=60)
    assert result.reason == "debug_exit"
    m.close()
    found = replayed()
    assert found.identical, found
    assert found.accesses > 40


def test_a_journal_needs_a_file() -> None:
    with pytest.raises(vmm.ConfigError, match="give trace=FILE"):
        vmm.Machine(journal=True)


@pytest.mark.command
def test_what_is_left_of_a_recording_after_a_kill(replayed, tmp_path) -> None:
    """A guest that asks the clock for ever is killed: the second before may be lost, no more."""
    code = flat16(tmp_path, "30c0 e670 e471 ebf8")
    command = [sys.executable, "-m", "vmm", "run", code, "--format", "flat16"]
    run = subprocess.Popen([*command, "--record", replayed.path], stdin=subprocess.DEVNULL)
    try:
        path = Path(replayed.path)
        end = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < 6 << 20:
            assert run.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        run.kill()
        run.wait()
    found = replayed()
    assert found.identical, found
    assert not found.complete
    assert found.accesses > 1000


@pytest.mark.command
def test_a_recording_that_finds_no_room(replayed, tmp_path) -> None:
    """The run goes on, the user is told, and what was written can be replayed."""
    room = 5 << 20  # the rings take 4 MiB

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    code = flat16(tmp_path, "30c0 e670 e471 ebf8")
    command = [sys.executable, "-m", "vmm", "run", code, "--format", "flat16", "--memory", "1M"]
    run = subprocess.run(
        [*command, "--max-exits", "50000", "--record", replayed.path],
        preexec_fn=limit,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 124
    assert "vmm: trace: File too large: recording stopped at exit " in run.stderr
    found = replayed()
    assert found.identical, found
    assert not found.complete
    assert found.accesses > 1000


@pytest.mark.command
def test_the_command(replayed, tmp_path) -> None:
    def command(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vmm", *arguments],
            input=input,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    run = command("run", "payload:serial_echo", "--record", replayed.path, input="abcq")
    assert (run.returncode, run.stderr) == (1, "")
    replay = command("replay", replayed.path)
    assert (replay.returncode, replay.stderr) == (0, "")
    assert replay.stdout.endswith(" calls of the devices compared: identical\n")
    nowhere = command("run", "payload:hello16", "--record", str(tmp_path / "no" / "x"))
    assert nowhere.returncode == 2
    assert nowhere.stderr.count("\n") == 1
