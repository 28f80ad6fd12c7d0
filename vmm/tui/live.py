"""A machine that runs in another process: its trace is mapped, everything else is asked for.

Exits are counted and shown out of shared memory, which costs the guest nothing. What has to be
asked is asked seldom: each answer takes the machine's process some tenths of a millisecond, and
registers can only be read while the guest is held.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from kvm_bindings.exit_ring import HAS_RIP
from vmm.control.client import Client
from vmm.control.protocol import ControlError, from_text
from vmm.errors import VmmError
from vmm.symbols import Symbols
from vmm.trace.decoder import Decoder
from vmm.trace.devicemap import DeviceMap
from vmm.trace.reader import LiveTrace
from vmm.trace.records import DTYPE, Records, data_of, exits_in
from vmm.tui.asking import Asker, said
from vmm.tui.decoding import entry_of, section_of
from vmm.tui.source import (
    Activity,
    Counter,
    CpuView,
    Entry,
    Page,
    Section,
    Span,
    Status,
    Stopping,
)
from vmm.tui.stand import GuestReader, cpu_view, sections_of, state_of
from vmm.tui.tally import Tally

__all__ = ["LiveSource"]

_KEPT = 1 << 15
"""Exits that the log can show."""
_INFO_S, _CPUS_S, _COUNTERS_S, _PAGE_S, _CONSOLE_S = 0.5, 1.0, 1.0, 0.5, 0.2
_STEP_S = 5.0
_BLANK = frozenset(b"\0 \xff")


class LiveSource:
    """A running machine.

    Args:
        client: connected to it; is closed with this.
        symbols: a file that the machine is to take names for addresses from.

    Raises:
        ControlError: it goes away, or notes nothing, or finds no symbols in the file.
        TraceError: its trace cannot be read.
    """

    live = True
    restarted = False
    span: Span | None = None

    def __init__(self, client: Client, symbols: str | None = None) -> None:
        info = client.call("info")
        client.call("attend")
        names = client.call("symbols", path=None if symbols is None else os.path.abspath(symbols))
        fd = client.trace_fd()
        try:
            self._trace = LiveTrace.from_fd(fd, client.name)
        finally:
            os.close(fd)
        try:
            self._devices = DeviceMap.from_meta(client.call("description"))
        except ValueError:
            self._devices = DeviceMap()
        self._asker = Asker(client)
        self._decoder = Decoder(self._devices, np.empty(0, DTYPE), from_start=False)
        self._selected: dict[str, Any] = client.call("selected")
        self._tally = Tally(self._decoder)
        self._wanted: frozenset[str] = frozenset()
        self._due: dict[str, float] = {}
        self._asked: dict[str, Future[dict[str, Any]]] = {}
        self._raw: list[Records] = [np.empty(0, DTYPE)] * self._trace.vcpus
        self._output = bytearray()
        self._output_end = 0
        self._before: tuple[float, dict[str, int]] = (0.0, {})
        self._symbols: Symbols | None = None
        self.records = np.empty(0, DTYPE)
        self.cpus: Sequence[CpuView] = ()
        self.counters: Sequence[Counter] = ()
        self.page: Page | None = None
        self.explanation = ""
        self.status = Status(client.name)
        self._take_info(info)
        if names["path"]:
            threading.Thread(target=self._load_symbols, kwargs=names, daemon=True).start()

    # -- what is shown ------------------------------------------------------------------------

    @property
    def reasons(self) -> Sequence[Activity]:
        """Exits by reason."""
        return self._tally.reasons

    @property
    def places(self) -> Sequence[Activity]:
        """Exits by device and port."""
        return self._tally.places

    def poll(self) -> None:
        """Take the new records and the answers that have come; ask for what is due."""
        self._take_records()
        for part, future in list(self._asked.items()):
            if future.done():
                del self._asked[part]
                self._take(part, future)
        if self._asker.gone:
            if not self.explanation:
                self.status = replace(self.status, phase="gone", rate=0.0)
            return
        now = time.monotonic()
        runs = self.status.phase == "running"
        self._ask("info", now, _INFO_S)
        if "console" in self._wanted:
            self._ask("console", now, _CONSOLE_S, since=self._output_end)
        if "page" in self._wanted:
            self._ask("screen", now, _PAGE_S)
        if "counters" in self._wanted:
            self._ask("stats", now, _COUNTERS_S)
        if "cpus" in self._wanted and (runs or not self.cpus or "registers" not in self._due):
            self._ask("registers", now, _CPUS_S)
        if not runs and not self.explanation:
            self._ask("explanation", now, _INFO_S)

    def want(self, parts: frozenset[str]) -> None:
        """Say what is looked at."""
        self._wanted = parts

    def console(self) -> bytes:
        """What the guest wrote since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def entry(self, record: Any) -> Entry:
        """Decode a record for the log."""
        return entry_of(record, self._decoder, self._trace.header.monotonic_ns, self._name_of)

    def detail(self, record: Any) -> Future[Sequence[Section]]:
        """All that can be found out about an exit."""
        found: Future[Sequence[Section]] = Future()
        own = section_of(record, self._decoder, self._trace.header.monotonic_ns, self._data(record))
        newest = self._is_newest(record)

        def look() -> None:
            try:
                found.set_result([own, *self._stand(record, newest)])
            except VmmError as error:
                found.set_result([own, Section("the vCPU", (str(error),))])
            except Exception as error:
                found.set_exception(error)

        threading.Thread(target=look, daemon=True).start()
        return found

    def totals(self) -> Mapping[str, float]:
        """Everything that counts up."""
        found = self._tally.totals()
        for counter in self.counters:
            found[f"kernel: {counter.name}"] = counter.value
        return found

    # -- what is done -------------------------------------------------------------------------

    def do(self, command: str, **arguments: Any) -> Future[str]:
        """Carry out a command."""
        if command == "save":
            stamp = time.strftime("%Y%m%d-%H%M%S")
            arguments = {"path": os.path.abspath(f"{self.status.name}-{stamp}.vtrace")}
        if command in ("step", "step_exit"):
            return self._step(command)
        return self._told(self._asker.ask(command, **arguments), command)

    def stops(self) -> Future[Sequence[Stopping]]:
        """Where the guest is stopped."""
        told: Future[Sequence[Stopping]] = Future()

        def done(answer: Future[dict[str, Any]]) -> None:
            try:
                told.set_result([Stopping(**stop) for stop in answer.result()["stops"]])
            except Exception as error:
                told.set_exception(error)

        self._asker.ask("stops").add_done_callback(done)
        return told

    def type(self, data: bytes) -> None:
        """Give the guest input."""
        from vmm.control.protocol import to_text

        self._asker.ask("input", data=to_text(data))
        self._due["console"] = 0.0

    def seek(self, now_ns: int) -> None:
        """A machine has no time line."""

    def seek_exit(self, step: int) -> None:
        """A machine has no time line."""

    def close(self) -> None:
        """Let go of the machine, which goes on."""
        self._asker.close()
        self._trace.close()

    # -- inside: records ----------------------------------------------------------------------

    def _take_records(self) -> None:
        news, missed = [], 0
        for vcpu in range(self._trace.vcpus):
            found = self._trace.poll(vcpu + 1)
            missed += found.missed
            if len(found.records):
                self._raw[vcpu] = np.concatenate([self._raw[vcpu], found.records])[-_KEPT:]
                news.append(exits_in(found.records))
        if news:
            exits = news[0] if len(news) == 1 else np.concatenate(news)
            if len(news) > 1:
                exits = exits[np.argsort(exits["time_ns"], kind="stable")]
            if missed:
                self._decoder.forget(int(exits[0]["time_ns"]) - 1)
            self._decoder.add(exits)
            self._tally.add(exits)
            self.records = np.concatenate([self.records, exits])[-_KEPT:]
        if self._selected:
            self._decoder.know(self._selected["devices"], self._selected["time_ns"])
            self._selected = {}
        now = time.monotonic_ns()
        self._tally.at(now)
        self.status = replace(
            self.status,
            uptime_ns=now - self._trace.header.monotonic_ns,
            exits=sum(self._trace.exits(vcpu) for vcpu in range(self._trace.vcpus)),
            rate=self._tally.rate,
            lost=self.status.lost + missed,
        )

    def _data(self, record: Any) -> bytes:
        raw = self._raw[int(record["vcpu"])]
        places = np.flatnonzero(raw["sequence"] == record["sequence"])
        if not len(places):
            return int(record["value"]).to_bytes(8, "little")
        return data_of(raw, int(places[-1]))

    def _is_newest(self, record: Any) -> bool:
        ours = self.records[self.records["vcpu"] == record["vcpu"]]
        return bool(len(ours) and ours[-1]["sequence"] == record["sequence"])

    # -- inside: answers ----------------------------------------------------------------------

    def _ask(self, part: str, now: float, period_s: float, **arguments: Any) -> None:
        if part not in self._asked and now >= self._due.get(part, 0.0):
            self._due[part] = now + period_s
            self._asked[part] = self._asker.ask(part, **arguments)

    def _take(self, part: str, future: Future[dict[str, Any]]) -> None:
        try:
            answer = future.result()
        except ControlError:
            if part == "screen":
                self._due[part] = float("inf")  # there is no memory for one
            return
        getattr(self, f"_take_{part}")(answer)

    def _take_info(self, info: dict[str, Any]) -> None:
        phase = str(info["phase"])
        if phase != self.status.phase:
            self._due.pop("registers", None)
        if not self.explanation:
            self.status = replace(
                self.status,
                phase=phase,
                backend=str(info["backend"]),
                note=str(info.get("held_by", "")),
            )

    def _take_console(self, answer: dict[str, Any]) -> None:
        self._output += from_text(answer["data"])
        self._output_end = int(answer["end"])

    def _take_screen(self, answer: dict[str, Any]) -> None:
        cells, width = from_text(answer["cells"]), 2 * int(answer["columns"])
        if set(cells[::2]) <= _BLANK:
            self.page = None
            return
        rows = tuple(cells[at : at + width] for at in range(0, len(cells), width))
        cursor = answer["cursor"]
        where = None if cursor is None or cursor < 0 else divmod(cursor, width // 2)
        self.page = Page(rows, where, bool(answer["blinks"]))

    def _take_stats(self, answer: dict[str, Any]) -> None:
        now = time.monotonic()
        values: dict[str, int] = {}
        for owner, counters in answer.items():
            for name, value in counters.items():
                if isinstance(value, int) and value:
                    title = name if owner.startswith("vcpu") else f"vm {name}"
                    values[title] = values.get(title, 0) + value
        then, before = self._before
        passed = now - then
        self.counters = [
            Counter(name, value, max(value - before.get(name, value), 0) / passed)
            for name, value in values.items()
        ]
        self._before = (now, values)

    def _take_registers(self, answer: dict[str, Any]) -> None:
        call = self._caller()

        def look() -> None:
            read = GuestReader(call)
            self.cpus = [
                cpu_view(index, one, read, self._symbols)
                for index, one in enumerate(answer["vcpus"])
            ]

        threading.Thread(target=look, daemon=True).start()

    def _take_explanation(self, answer: dict[str, Any]) -> None:
        if answer:
            self.explanation = str(answer["text"])
            ended = "died" if answer["died"] else "ended"
            self.status = replace(self.status, phase=ended, rate=0.0, note=str(answer["reason"]))

    # -- inside: looking ----------------------------------------------------------------------

    def _caller(self) -> Any:
        def call(op: str, **arguments: Any) -> dict[str, Any]:
            return self._asker.ask(op, **arguments).result(_STEP_S)

        return call

    def _stand(self, record: Any, newest: bool) -> list[Section]:
        """Code, stack and page walk: of the exit where RIP was noted, else of the vCPU now."""
        call = self._caller()
        vcpu = int(record["vcpu"])
        state = state_of(call("registers")["vcpus"][vcpu])
        read = GuestReader(call)
        if newest and self.status.phase == "paused":
            return sections_of(state, read, self._symbols, when="behind this exit")
        if record["flags"] & HAS_RIP:
            then = replace(state, rip=int(record["rip"]))
            return sections_of(then, read, self._symbols, when="RIP of this exit, the rest of now")
        return [
            Section("where the vCPU is now", ("its RIP at this exit was not noted",)),
            *sections_of(state, read, self._symbols, when="now"),
        ]

    def _name_of(self, rip: int) -> str:
        return "" if self._symbols is None else self._symbols.at(rip) or ""

    def _load_symbols(self, path: str, bias: int) -> None:
        with suppress(VmmError):  # an image without symbols
            self._symbols = Symbols.load(path, bias=bias)

    # -- inside: commands ---------------------------------------------------------------------

    def _step(self, command: str) -> Future[str]:
        if self.status.phase == "running":
            self._asker.ask("pause")
        return self._told(self._asker.ask(command, timeout_s=_STEP_S), command)

    def _told(self, future: Future[dict[str, Any]], command: str) -> Future[str]:
        told: Future[str] = Future()

        def done(answer: Future[dict[str, Any]]) -> None:
            self._due.clear()
            try:
                told.set_result(said(command, answer.result()))
            except Exception as error:
                told.set_exception(error)

        # So that the state behind the command is known when it is told.
        info = self._asker.ask("info")

        def both(answer: Future[dict[str, Any]]) -> None:
            if answer.exception() is None:
                self._take_info(answer.result())
            done(future)

        info.add_done_callback(both)
        return told
