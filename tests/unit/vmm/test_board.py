"""A PC's board: what answers where, which line it drives, and what ends the machine."""

from __future__ import annotations

import random
import struct
import threading
from types import SimpleNamespace

import pytest

from devices.wiring import GuestAddressError
from vmm.board import add_pc
from vmm.bus import Bus
from vmm.host.console import Console
from vmm.layout import MemoryLayout
from vmm.lifecycle import Phase


class Machine:
    """The part of a machine that devices are wired to."""

    def __init__(self, size: int = 64 << 20, cpus: int = 1) -> None:
        self.pio, self.mmio = Bus("port", 0x1_0000), Bus("MMIO", 1 << 52)
        self.irqchip = False
        self.lock = threading.RLock()
        self.memory = SimpleNamespace(layout=MemoryLayout.for_size(size))
        self.vcpus = [None] * cpus
        self.phase = Phase.CREATED
        self.events = SimpleNamespace(call_later=lambda seconds, callback: None)
        self.levels: dict[int, bool] = {}
        self.endings: list[str] = []

    def make(self, cls, *args, **kwargs):
        return cls(*args, **kwargs)

    def irq(self, gsi: int):
        return lambda level: self.levels.__setitem__(gsi, level)

    def add_device(self, device, *, pio=None, mmio=None, base=None):
        bus, span = (self.pio, pio) if pio is not None else (self.mmio, mmio)
        return bus.map(span, device, base=base)

    def end(self, ending) -> None:
        self.endings.append(ending.reason)

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.pio.write(port, size, value)

    def inp(self, port: int, size: int = 1) -> int:
        return self.pio.read(port, size)


@pytest.fixture
def console():
    return Console()


@pytest.fixture
def pc(console):
    machine = Machine()
    add_pc(machine, console)
    return machine


def test_every_port_of_the_table_is_claimed(pc):
    ports = [0x60, 0x64, 0x61, 0x70, 0x71, 0x80, 0x92, 0xE9, 0x402, 0x3D4, 0x3DA]
    ports += [*range(0x3F8, 0x400), *range(0x510, 0x51C), 0x600, *range(0xCF8, 0xD00)]
    names = {port: pc.pio.name_at(port) for port in ports}
    assert "nobody" not in names.values(), names
    assert names[0x3F8] == "com1"
    assert pc.pio.name_at(0x2F8) == "nobody"


def test_serial_port_and_debug_console_write_to_the_console(pc, console):
    pc.out(0x3F8, ord("s"))
    pc.out(0xE9, ord("d"))
    pc.out(0x402, ord("e"))
    assert console.text == "sde"


def test_input_reaches_com1_and_raises_irq_4(pc, console):
    pc.out(0x3F9, 1)  # the guest asks for it
    pc.out(0x3FC, 8)  # OUT2
    console.send("k")
    assert pc.levels[4] is True
    assert pc.inp(0x3F8) == ord("k")
    assert pc.levels[4] is False


def test_memory_is_in_cmos_and_fw_cfg(console):
    machine = Machine(size=(4 << 30) + (1 << 30), cpus=3)
    add_pc(machine, console)

    def cmos(index: int) -> int:
        machine.out(0x70, index)
        return machine.inp(0x71)

    assert (cmos(0x35) << 8 | cmos(0x34)) == (0xC000_0000 - (16 << 20)) >> 16
    assert (cmos(0x5D) << 16 | cmos(0x5C) << 8 | cmos(0x5B)) == (2 << 30) >> 16
    assert cmos(0x5F) == 2  # processors, less one

    def fw_cfg(selector: int, size: int) -> bytes:
        machine.out(0x510, selector, 2)
        return bytes(machine.inp(0x511) for _ in range(size))

    assert fw_cfg(0x00, 4) == b"QEMU"
    assert fw_cfg(0x05, 2) == struct.pack("<H", 3)
    count, size, selector, _, name = struct.unpack(">IIHH56s", fw_cfg(0x19, 68))
    assert (count, size, name.rstrip(b"\0")) == (1, 40, b"etc/e820")
    ranges = struct.pack("<QQIQQI", 0, 0xC000_0000, 1, 1 << 32, 2 << 30, 1)
    assert fw_cfg(selector, size) == ranges


@pytest.mark.parametrize(
    ("name", "writes", "reason"),
    [
        ("keyboard controller", [(0x64, 0xFE, 1)], "reset"),
        ("port 92", [(0x92, 0x01, 1)], "reset"),
        ("PCI reset control", [(0xCF9, 0x06, 1)], "reset"),
        ("ACPI S5", [(0x604, 0x2000, 2)], "poweroff"),
    ],
)
def test_what_ends_the_machine(pc, name, writes, reason):
    for port, value, size in writes:
        pc.out(port, value, size)
    assert pc.endings == [reason], name


def test_the_testdev_takes_the_place_of_port_e9(console):
    machine = Machine()
    add_pc(machine, console, testdev=True)
    machine.out(0xE9, ord("x"))
    machine.out(0x402, ord("y"))
    assert console.text == "y"
    machine.out(0xE0, 0x1234_5678, 4)
    assert machine.inp(0xE0, 4) == 0x1234_5678
    assert machine.mmio.name_at(0xFF00_0000) != "nobody"
    machine.out(0x2005, 1)
    assert machine.levels[5] is True


def test_with_interrupt_controllers_the_kernel_has_the_speaker_port(console):
    machine = Machine()
    machine.irqchip = True
    machine.vm = SimpleNamespace()
    add_pc(machine, console)
    assert machine.pio.name_at(0x61) == "nobody"


def test_input_finds_a_keyboard_that_nobody_has_touched(console):
    machine = Machine()
    add_pc(machine, console, input="keyboard")
    console.send("a")
    for _ in range(16):  # who looks so often waits for a key
        machine.inp(0x64)
    assert machine.inp(0x60) == 0x1E


def test_input_for_the_serial_port_is_there_before_the_guest_looks(console):
    machine = Machine()
    add_pc(machine, console, input="serial")
    console.send("a")
    assert not console.waiting
    assert machine.inp(0x3FD) & 1
    assert machine.inp(0x3F8) == ord("a")


def test_clocks_count_from_power_on(console, monkeypatch):
    now = 5_000_000_000_000
    monkeypatch.setattr("time.monotonic_ns", lambda: now)
    monkeypatch.setattr("time.time_ns", lambda: now)
    machine = Machine()
    add_pc(machine, console)
    now += 2_000_000_000
    assert machine.inp(0x608, 4) == 2 * 3_579_545  # made by this look, two seconds late
    machine.out(0x70, 0x0C)
    assert machine.inp(0x71) & 0x10  # a second has passed since the power came on


def test_a_pc_that_nobody_touches_has_only_places(console, pc):
    made = [m.name for m in pc.pio if m._place._made is not None]
    assert made == []
    pc.out(0x80, 1)
    assert {m.name for m in pc.pio if m._place._made is not None} == {"post"}


def no_memory(gpa: int, *rest: object) -> bytes:
    raise GuestAddressError(f"no memory at {gpa:#x}")


def test_a_recording_of_all_devices_is_replayed(console, tape):
    machine = Machine()
    machine.make = tape.journal.make
    machine.memory.read = machine.memory.write = no_memory
    add_pc(machine, console, input="serial")
    console.send("typed")
    chance = random.Random(1)
    claimed = [port for mapping in machine.pio for port in range(mapping.start, mapping.end)]
    for _ in range(5000):
        port, size = chance.choice(claimed), chance.choice((1, 1, 1, 2, 4))
        if chance.random() < 0.5:
            machine.inp(port, size)
        else:
            machine.out(port, chance.getrandbits(8 * size), size)
    result = tape.play()
    assert result.identical, result
    assert not result.skipped
    assert result.accesses >= 5000
    assert result.calls > 10
