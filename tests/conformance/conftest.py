"""The catalogue of device models: every device of the package, and how to build one.

A device that is added to `devices/` is added here; `test_catalogue.py` fails until it is. The
tests of this directory take a `Model` and hold every device to the same contract.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from devices.virtio.blk import Blk
from devices.virtio.console import ConsolePort, VirtioConsole
from devices.virtio.pmem import Pmem
from devices.virtio.rng import Rng
from devices.wiring import GuestAddressError

NOW_NS = 1_790_000_000_000_000_000
"""The clock of every device in this suite stands still: 2026-09-21."""


FW_CFG_REQUEST = struct.pack(">IIQ", 0x21 << 16 | 0x18, 4, 0x200)
"""Select the second file and write 4 bytes from address 0x200 to it."""


class Surroundings:
    """What a device is connected to, writing down what it does."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.levels: dict[Any, bool] = {}
        self.memory = bytearray(0x1000)
        self.memory[0x100:0x110] = FW_CFG_REQUEST

    def event(self, name: str) -> Callable[..., None]:
        return lambda *args: self.events.append((name, *args))

    def line(self, level: bool) -> None:
        self.levels["irq"] = level

    def other_line(self, level: bool) -> None:
        self.levels["irq2"] = level

    def numbered_line(self, number: int, level: bool) -> None:
        self.levels[number] = level

    def clock(self) -> int:
        return NOW_NS

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.memory[gpa : gpa + size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self._check(gpa, len(data))
        self.memory[gpa : gpa + len(data)] = data

    def dma(self, gpa: int, size: int, *, write: bool) -> memoryview:
        self._check(gpa, size)
        return memoryview(self.memory)[gpa : gpa + size]

    def _check(self, gpa: int, size: int) -> None:
        if gpa < 0 or gpa + size > len(self.memory):
            raise GuestAddressError(f"{gpa:#x}")


@dataclass(frozen=True)
class Model:
    """One device class: how to build it, how far it reaches, how the outside feeds it."""

    path: str
    span: int
    connect: Callable[[Surroundings], dict[str, Any]] = lambda s: {}
    prepare: Callable[[Any], object] = lambda device: None
    writes: tuple[tuple[int, int, int], ...] = ()
    """What a driver would write (offset, size, value) to leave every field of the state changed."""
    feed: Callable[[Any, bytes], object] | None = None
    survives_reset: frozenset[str] = field(default_factory=frozenset)
    """Fields of the state behind a battery: power-on does not clear them."""
    not_saved: frozenset[str] = field(default_factory=frozenset)
    """Attributes that are statistics and no part of the guest's machine."""

    def cls(self) -> type:
        module, _, name = self.path.rpartition(".")
        found = getattr(importlib.import_module(f"devices.{module}"), name)
        assert isinstance(found, type)
        return found

    def build(self) -> Any:
        return self.connected()[0]

    def connected(self) -> tuple[Any, Surroundings]:
        surroundings = Surroundings()
        device = self.cls()(**self.connect(surroundings))
        self.prepare(device)
        return device, surroundings

    def used(self) -> tuple[Any, Surroundings]:
        """A device that has been at work."""
        device, surroundings = self.connected()
        if self.feed is not None:
            self.feed(device, b"x")
        for offset, size, value in self.writes:
            device.write(offset, size, value)
        return device, surroundings


VIRTIO_STEPS = (
    (0x070, 4, 0x3),
    (0x024, 4, 0x1),
    (0x020, 4, 0x1),  # VERSION_1
    (0x070, 4, 0xB),
    (0x038, 4, 0x4),
    (0x080, 4, 0x400),
    (0x090, 4, 0x500),
    (0x0A0, 4, 0x600),
    (0x044, 4, 0x1),
    (0x070, 4, 0xF),
    (0x0AC, 4, 0x3),
)
"""A driver brings a device with one queue up, in the memory of the surroundings."""


def virtio(
    device: Callable[[Surroundings], Any],
    span: int,
    feed: Callable[[Any, bytes], object] | None = None,
) -> Model:
    """A virtio device behind its registers."""
    counts = ("fault", "interrupts", "notifications", "device._requests", "device._bytes")
    counts += ("device._sent", "device._received", "device._flushes", "device._errors")
    return Model(
        "virtio.mmio.VirtioMmio",
        span,
        lambda s: {"device": device(s), "memory": s, "interrupt": s.event("interrupt")},
        writes=VIRTIO_STEPS,
        feed=feed,
        not_saved=frozenset(f".transport.{name}" for name in counts),
    )


CATALOGUE = (
    Model("debugcon.DebugCon", 1, lambda s: {"out": s.event("out")}),
    Model("debug_exit.DebugExit", 4, lambda s: {"on_exit": s.event("exit")}),
    Model(
        "pvpanic.PvPanic",
        1,
        lambda s: {"on_panicked": s.event("panicked"), "on_crash_loaded": s.event("crash")},
    ),
    Model("post.PostPort", 1, lambda s: {"sink": s.event("post")}, writes=((0, 1, 0x55),)),
    Model(
        "pci_host.PciHost",
        8,
        lambda s: {"on_reset": s.event("reset")},
        writes=((0, 4, 0x8000_0058), (4, 4, 0x3333_3010), (1, 1, 0x02)),
    ),
    Model(
        "fw_cfg.FwCfg",
        12,
        lambda s: {"memory": s, "cpus": 2, "ram_size": 1 << 21, "files": {"opt/a": b"contents"}},
        prepare=lambda device: device.add_file("opt/b", b"12345678", writable=True),
        writes=((8, 4, 0x0001_0000), (4, 4, 0x0100_0000)),
    ),
    Model(
        "pc_testdev.PcTestPorts",
        12,
        lambda s: {"flush": s.event("flush")},
        writes=((0, 4, 0x1234_5678),),
    ),
    Model(
        "pc_testdev.PcTestIrqLines",
        24,
        lambda s: {"irq": s.numbered_line},
        writes=((7, 1, 1),),
    ),
    Model("pc_testdev.PcTestMemory", 0x10000, writes=((0x123, 4, 0x1234_5678),)),
    Model(
        "acpi_pm.AcpiPm",
        12,
        lambda s: {"clock": s.clock, "irq": s.line, "on_poweroff": s.event("poweroff")},
        writes=((2, 2, 0x0101), (4, 2, 0x1C00)),
        feed=lambda device, data: device.press_power_button(),
    ),
    Model(
        "uart16550.Uart16550",
        8,
        lambda s: {"irq": s.line, "out": s.event("out"), "on_room": s.event("room")},
        writes=((2, 1, 0xC1), (1, 1, 0x03), (4, 1, 0x0B), (7, 1, 0x5A), (3, 1, 0x83), (0, 1, 1)),
        feed=lambda device, data: device.receive(data),
    ),
    Model(
        "i8042.I8042",
        5,
        lambda s: {
            "irq_keyboard": s.line,
            "irq_mouse": s.other_line,
            "on_reset": s.event("reset"),
            "on_a20": s.event("a20"),
        },
        writes=((4, 1, 0x60), (0, 1, 0x47), (4, 1, 0xD4), (0, 1, 0xF4), (4, 1, 0xDD)),
        feed=lambda device, data: device.queue_keys(data),
        not_saved=frozenset({".keyboard.dropped"}),
    ),
    Model(
        "cmos_rtc.CmosRtc",
        2,
        lambda s: {"clock": s.clock, "irq": s.line, "memory_below_4g": 1 << 26},
        writes=((0, 1, 0x0F), (1, 1, 0x05), (0, 1, 0x04), (1, 1, 0x12), (0, 1, 0x8B), (1, 1, 0x12)),
        survives_reset=frozenset({"status_a", "control", "cells", "offset_ns", "seen_ns"}),
    ),
    virtio(lambda s: Rng(source=bytes), 0x100),
    virtio(lambda s: Blk(queues=2), 0x139),
    virtio(lambda s: Pmem(1 << 32, 1 << 21, bool), 0x110),
    virtio(
        lambda s: VirtioConsole(
            [ConsolePort(s.event("out"), s.event("room")), ConsolePort(name="second")]
        ),
        0x10C,
        feed=lambda device, data: device.device.receive(data),
    ),
    Model("port61.Port61", 1, lambda s: {"clock": s.clock}, writes=((0, 1, 0x03),)),
    Model(
        "port92.Port92",
        1,
        lambda s: {"on_a20": s.event("a20"), "on_reset": s.event("reset")},
        writes=((0, 1, 0x80),),
    ),
    Model(
        "vga_text.VgaText",
        0x2B,
        lambda s: {"clock": s.clock},
        writes=(
            (0x24, 2, 0x120F),  # CRTC: cursor location
            (0x14, 2, 0x0102),
            (0x1E, 2, 0x5504),
            (0x10, 1, 0x30),  # attribute controller: an index, its value, an index
            (0x10, 1, 0x04),
            (0x10, 1, 0x31),
            (0x18, 1, 0x07),  # DAC: write entry 7, then read from entry 9
            (0x19, 1, 0x3F),
            (0x17, 1, 0x09),
            (0x12, 1, 0x66),
            (0x13, 1, 0x00),
            (0x16, 1, 0x0F),
            (0x2A, 1, 0x02),
        ),
    ),
)

NOT_ON_A_BUS = {
    "i440fx.HostBridge": "reached, saved and reset through PciHost",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", CATALOGUE, ids=lambda m: m.path.rpartition(".")[2])


@pytest.fixture
def catalogue() -> tuple[Model, ...]:
    return CATALOGUE


@pytest.fixture
def not_on_a_bus() -> dict[str, str]:
    return NOT_ON_A_BUS
