"""Traces as a machine writes them, without a machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices.uart16550 import Uart16550
from kvm_bindings.exit_ring import ExitRing
from vmm.bus import Bus
from vmm.trace.trace import Trace
from vmm.vcpu import Vcpu

CAPACITY = 256
IO, HLT, MMIO = 2, 5, 6
EXIT, DATA = 1, 2
WRITE = 1


class Writer:
    """A trace that exits are put into by hand, as the runner does."""

    def __init__(self, path: Path | None, vcpus: int = 1) -> None:
        self.trace = Trace(vcpus, None if path is None else str(path), CAPACITY)
        self.begun_ns = int.from_bytes(self.trace.memory.memory[64:72], "little")
        self.now = 0

    def ring(self, vcpu: int = 0) -> ExitRing:
        return self.trace.ring(vcpu)

    def exit(
        self, reason: int = IO, address: int = 0x3F8, value: int = 0, *, write: bool = True,
        size: int = 1, data: bytes = b"", vcpu: int = 0, at_ns: int | None = None,
        guest_ns: int = 100, handler_ns: int = 10, flags: int = 0, irqs: int = 0,
    ) -> None:  # fmt: skip
        if reason not in (IO, MMIO):
            size = 0
        self.now = self.now + 1000 if at_ns is None else at_ns
        count = len(data) // size if data else int(size > 0)
        if data:
            value = int.from_bytes(data[:8], "little")
        ring = self.ring(vcpu)
        ring.add(
            *(self.begun_ns + self.now, guest_ns, address, value, 0, handler_ns, count),
            *(reason, vcpu, EXIT, size, (WRITE if write else 0) | flags, irqs),
        )
        for at in range(8, len(data), 48):
            part = data[at : at + 48]
            number = ring.head
            ring.add(0, 0, 0, 0, 0, 0, 0, 0, vcpu, DATA, len(part), 0, 0)
            place = (number & (CAPACITY - 1)) * 64
            ring.records[place : place + len(part)] = part
        ring.words[3] += 1
        if self.trace.path is not None and ring.done - ring.flushed >= CAPACITY // 2:
            self.trace._flush(vcpu + 1)

    def text(self, text: bytes, **options: Any) -> None:
        for byte in text:
            self.exit(value=byte, **options)

    def close(self, end: dict[str, Any] | None = None) -> None:
        self.trace.close(end)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.vtrace"


@pytest.fixture(scope="session")
def new_writer() -> type[Writer]:
    return Writer


@pytest.fixture
def writer(path: Path) -> Writer:
    return Writer(path)


class Watched:
    """A scripted vCPU with a trace, a UART at 0x3f8 and a device at 0x10 that can be watched."""

    def __init__(self, kvm: Any, control: Any, path: Path | None = None) -> None:
        self.lock = threading.RLock()
        self.pio, self.mmio = Bus("port", 0x10000), Bus("MMIO", 1 << 52)
        self.uart = Uart16550()
        self.pio.map(range(0x3F8, 0x400), self.uart)
        self.devices = {"com1": self.uart}
        self.symbols = None
        self.trace = Trace(1, None if path is None else str(path), CAPACITY)
        self.trace.around = self
        self.reports: list[str] = []
        self.trace.report = self.reports.append
        self.vcpu = Vcpu(
            kvm,
            pio=self.pio,
            mmio=self.mmio,
            lock=self.lock,
            control=control,
            irqchip=False,
            ring=self.trace.ring(0),
        )
        self.trace.watch(self.vcpu)


@pytest.fixture
def watched(scripted: Any, rig: Any) -> Callable[..., Watched]:
    """`watched(scripted.out(0x3f8, 1), ...)`: a machine that can be watched, on a script."""

    def make(*script: Any, path: Path | None = None) -> Watched:
        return Watched(scripted(*script), rig().control, path)

    return make
