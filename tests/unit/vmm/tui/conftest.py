"""A source that shows what a test wants, without any machine."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from kvm_bindings.exit_ring import HAS_RIP
from vmm.cpustate import CpuState
from vmm.errors import ConfigError
from vmm.tui.source import (
    Activity,
    Counter,
    CpuView,
    Entry,
    Section,
    Spread,
    Status,
    Stopping,
)

RECORD = np.dtype(
    [
        ("time_ns", "<u8"), ("guest_ns", "<u8"), ("address", "<u8"), ("value", "<u8"),
        ("rip", "<u8"), ("handler_ns", "<u4"), ("count", "<u4"), ("sequence", "<u4"),
        ("reason", "<u4"), ("vcpu", "<u2"), ("kind", "u1"), ("size", "u1"), ("flags", "u1"),
        ("irqs", "u1"), ("zero", "<u2"),
    ]
)  # fmt: skip

DEVICES = {0x3F8: "com1", 0x3FD: "com1", 0x61: "port61", 0xE9: "debugcon"}
REGISTERS = {0x3F8: "THR = {:#x}", 0x3FD: "LSR = THRE|TEMT", 0x61: "PORT61 = {:#x}"}


def make_records(count: int, first: int = 0) -> Any:
    """Writes of letters to COM1, with a line status read before each."""
    records = np.zeros(count, RECORD)
    number = np.arange(first, first + count, dtype=np.uint64)
    records["time_ns"] = number * 1_000_000
    records["guest_ns"] = 5_000
    records["handler_ns"] = 2_000 + number % 7 * 100
    records["reason"] = 2
    records["kind"] = 1
    records["size"] = 1
    records["count"] = 1
    records["sequence"] = number
    write = number % 2 == 1
    records["address"] = np.where(write, 0x3F8, 0x3FD)
    records["value"] = np.where(write, 0x41 + number // 2 % 26, 0x60)
    records["flags"] = write.astype(np.uint8) | HAS_RIP
    records["rip"] = 0x7C05
    return records


class FakeSource:
    """A `Source` whose attributes tests set."""

    restarted = False

    def __init__(self, live: bool = True) -> None:
        self.live = live
        self.status = Status(
            "tiny", "running", "kvm_amd", 12_300_000_000, 1_234_567, 73_100.0, 0, ""
        )
        self.reasons = [
            Activity(
                (2,),
                "IO",
                count=1_200_000,
                rate=71_000,
                share=0.91,
                guest=Spread(5_100, 9_000, 15_000, 120_000),
                handler=Spread(2_100, 4_000, 6_500, 88_000),
                history=[float(n % 9) for n in range(60)],
            ),
            Activity(
                (6,),
                "MMIO",
                count=34_000,
                rate=2_100,
                share=0.08,
                guest=Spread(6_100, 9_900, 18_000, 180_000),
                handler=Spread(3_100, 5_000, 9_500, 98_000),
                history=[1.0] * 60,
            ),
            Activity(
                (5,),
                "HLT",
                count=567,
                rate=0.4,
                share=0.01,
                guest=Spread(1_000_000, 9_000_000, 9_500_000, 10_000_000),
                handler=Spread(900, 1_000, 1_200, 2_000),
                history=[],
            ),
        ]
        self.places = [
            Activity((2, 0x3F8, 1), "com1", "out 0x3f8", "THR = 0x41", 600_000, 35_500.0, 0.45,
                     Spread(5_000, 6_000, 7_000, 8_000), Spread(2_000, 3_000, 4_000, 5_000),
                     [2.0] * 60),
            Activity((2, 0x3FD, 0), "com1", "in 0x3fd", "LSR = THRE|TEMT", 599_999, 35_400.0, 0.44,
                     Spread(5_000, 6_000, 7_000, 8_000), Spread(1_000, 2_000, 3_000, 4_000),
                     [1.0, 3.0] * 30),
            Activity((2, 0x61, 0), "port61", "in 0x61", "PORT61 = 0x20", 12, 0.0, 0.0),
        ]  # fmt: skip
        self.cpus = [CpuView(0, CpuState(), "runnable", "start+0x5", "out dx, al")]
        self.counters = [Counter("exits", 1_234_999, 73_111.0), Counter("halt_exits", 567, 0.4)]
        self.page = None
        self.explanation = ""
        self.span = None
        self.records = make_records(500)
        self.output = b"Hello from a guest\n> "
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.typed = b""
        self.wanted: frozenset[str] = frozenset()
        self.refuses = ""
        self.polls = 0
        self.sought: list[int] = []
        self.steps: list[int] = []
        self.counted = {"exits: IO": 1000.0}
        self.stopping: list[Stopping] = []

    def poll(self) -> None:
        self.polls += 1

    def want(self, parts: frozenset[str]) -> None:
        self.wanted = parts

    def console(self) -> bytes:
        output, self.output = self.output, b""
        return output

    def entry(self, record: Any) -> Entry:
        address, value = int(record["address"]), int(record["value"])
        verb = "out" if record["flags"] & 1 else "in"
        return Entry(
            f"{int(record['time_ns']) / 1e9:.6f}",
            int(record["vcpu"]),
            f"IO {verb}",
            f"{address:#x}",
            DEVICES.get(address, ""),
            f"{value:#x}",
            REGISTERS.get(address, "").format(value),
            "0000:7c05 out dx, al",
            int(record["handler_ns"]),
            int(record["guest_ns"]),
        )

    def detail(self, record: Any) -> Future[Any]:
        return _ready(
            [
                Section("the exit", (f"number {int(record['sequence'])}", "port 0x3f8 of com1")),
                Section("code around RIP", ("   7c04  in al, dx", "-> 7c05  out dx, al")),
            ]
        )

    def do(self, command: str, **arguments: Any) -> Future[str]:
        self.done.append((command, arguments))
        if self.refuses:
            future: Future[str] = Future()
            future.set_exception(ConfigError(self.refuses))
            return future
        if command == "stop_at":
            number = len(self.stopping) + 1
            self.stopping.append(Stopping(number, arguments["condition"], number - 1))
        if command == "remove_stop":
            self.stopping = [s for s in self.stopping if s.number != arguments["number"]]
        phases = {"pause": "paused", "resume": "running"}
        if command in phases:
            before = self.status
            self.status = Status(before.name, phases[command], before.backend, before.uptime_ns,
                                 before.exits, 0.0)  # fmt: skip
        return _ready({"pause": "paused", "resume": "it runs"}.get(command, f"{command} done"))

    def stops(self) -> Future[Any]:
        return _ready(tuple(self.stopping))

    def type(self, data: bytes) -> None:
        self.typed += data

    def seek(self, now_ns: int) -> None:
        self.sought.append(now_ns)

    def seek_exit(self, step: int) -> None:
        self.steps.append(step)

    def totals(self) -> dict[str, float]:
        return dict(self.counted)

    def close(self) -> None:
        pass


def _ready(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def recording() -> FakeSource:
    from vmm.tui.source import Span

    fake = FakeSource(live=False)
    fake.span = Span(0, 2_000_000_000, 500_000_000, [0, 1, 5, 3, 2, 8, 1, 0])
    return fake


def lines_of(app: Any) -> list[str]:
    """What a terminal would show, line by line."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


@pytest.fixture
def drive() -> Any:
    """Run the application without a terminal: `drive(source, script, size=(120, 40))`.

    `script(app, press)` is a coroutine function; `await press("s", ...)` types keys and lets the
    application settle; `await press()` only settles.
    """
    from vmm.tui.app import ScreenApp

    def run(source: Any, script: Any, size: tuple[int, int] = (120, 40), **options: Any) -> Any:
        app = ScreenApp(source, **options)

        async def main() -> None:
            async with app.run_test(size=size) as pilot:

                async def press(*keys: str) -> list[str]:
                    await pilot.press(*keys)
                    app.refresh_all()
                    await pilot.pause()
                    return lines_of(app)

                app.pilot = pilot  # type: ignore[attr-defined]
                await script(app, press)

        asyncio.run(main())
        return app

    return run


@pytest.fixture(name="make_records")
def _make_records() -> Any:
    return make_records
