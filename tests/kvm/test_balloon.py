"""`vmm balloon`, on a running machine whose guest's driver is played by the test."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmm
from devices.virtio.driver import Driver
from vmm.cli.main import main
from vmm.control.server import ControlServer
from vmm.virtio.others import add_balloon

pytestmark = pytest.mark.kvm

MIB = 1 << 20
STATS = 2
ENDLESS = bytes.fromhex("ebfe")


class Registers:
    """The balloon's registers, as a guest reaches them over the bus."""

    def __init__(self, machine: vmm.Machine, base: int) -> None:
        self.bus, self.base = machine.mmio, base

    def read(self, offset: int, size: int) -> int:
        return self.bus.read(self.base + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.bus.write(self.base + offset, size, value)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[vmm.Machine]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with vmm.Machine(memory="64M", irqchip=True) as made:
        made.memory.write(0x1000, ENDLESS)
        made.start_at(0x1000)
        add_balloon(made)
        server = ControlServer(made, "m", "image")
        thread = threading.Thread(target=made.run, kwargs={"timeout": 60})
        thread.start()
        yield made
        made.stop()
        thread.join()
        server.close()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["balloon", "m", *words]) == 0
    return capsys.readouterr().out


def test_a_balloon_without_a_driver(
    machine: vmm.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys) == ("the guest has given back 0M; it has no driver for the balloon (yet)\n")


def test_a_guest_gives_memory_back(
    machine: vmm.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (place,) = machine.virtio
    driver = Driver(Registers(machine, place.gpa), machine.memory, 0x10_0000)
    assert driver.start(1 << 1 | 1 << 5, queue_size=16)
    machine.memory.write(0x20_0000, struct.pack("<HQHQHQ", 4, 40 * MIB, 5, 60 * MIB, 6, 50 * MIB))

    def guest() -> None:
        for _ in range(600):
            if driver.registers.read(0x100, 4) == 8 * MIB // 4096:
                break
            threading.Event().wait(0.01)
        driver.queues[STATS].add([(0x20_0000, 30)])
        driver.registers.write(0x050, 4, STATS)
        driver.registers.write(0x104, 4, 8 * MIB // 4096)

    playing = threading.Thread(target=guest)
    playing.start()
    first = told(capsys, "8M")
    playing.join()
    assert first.startswith("the guest has given back 8M")
    for _ in range(100):
        facts = json.loads(told(capsys, "--json"))
        if facts["statistics"]:
            break
    assert facts == {
        "target": 8 * MIB,
        "actual": 8 * MIB,
        "reported": 0,
        "ready": True,
        "statistics": {"free": 40 * MIB, "total": 60 * MIB, "available": 50 * MIB},
    }
    assert "of its 60M it has 40M free, 50M available" in told(capsys)


def test_what_cannot_be(machine: vmm.Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["balloon", "m", "65M"]) == 2
    assert "a balloon of 68157440 bytes in a machine of 67108864" in capsys.readouterr().err
    assert main(["balloon", "m", "much"]) == 2
    assert "balloon 'much': not a size" in capsys.readouterr().err


def test_a_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with vmm.Machine(memory="1M", irqchip=True) as made:
        server = ControlServer(made, "m", "image")
        assert main(["balloon", "m"]) == 2
        assert "run it with --balloon" in capsys.readouterr().err
        server.close()
