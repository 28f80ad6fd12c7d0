"""A recording on the screen: the same panes, at any moment of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from kvm_bindings.constants import KVM_EXIT_IO
from kvm_bindings.exit_ring import HAS_RIP, WRITE
from vmm.errors import ConfigError
from vmm.symbols import Symbols
from vmm.trace.layout import MARK
from vmm.trace.reader import TraceFile
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
from vmm.tui.tally import Tally

__all__ = ["RecordingSource", "console_output"]

_SECOND = 1_000_000_000
_SHOWN = 1 << 15
"""Exits before the moment that the log can show."""
_PARTS = 400
"""Of the time line."""
_CHECKPOINTS = 24
_LEAST_SPACING = 20_000
_COM1_THR, _COM1_LCR = 0, 3
_DLAB = 0x80


class RecordingSource:
    """A trace file, from its beginning to a moment in it.

    Args:
        trace: the file, loaded.
        name: how it is called.
        symbols: names for the guest's addresses.
    """

    live = False

    def __init__(self, trace: TraceFile, name: str, symbols: Symbols | None = None) -> None:
        self._trace = trace
        self._exits = trace.exits
        self._times = trace.exits["time_ns"]
        self._name = name
        self._symbols = symbols
        self._begin = trace.begun_ns
        last = int(self._times[-1]) if len(self._times) else trace.begun_ns
        self._end = max(last, trace.begun_ns + 1)
        # From the beginning: nanoseconds since the host was started are too many for a float.
        since = self._times - np.uint64(self._begin)
        bins, _ = np.histogram(since, _PARTS, (0, self._end - self._begin))
        self._density = bins.tolist()
        marks = trace.events[trace.events["kind"] == MARK]["time_ns"]
        self._marks = tuple(int(mark) for mark in marks)
        self._output, self._output_ends = console_output(trace)
        self._checkpoints: dict[int, Tally] = {}
        self._spacing = max(len(self._exits) // _CHECKPOINTS, _LEAST_SPACING)
        self._tally = Tally(trace.decoder)
        self._at = 0
        self._shown_output = 0
        self.restarted = False
        self.cpus: Sequence[CpuView] = ()
        self.counters: Sequence[Counter] = ()
        self.page: Page | None = None
        self.explanation = ""
        end = trace.end or {}
        for part in ("text", "explanation", "reason"):
            if isinstance(end.get(part), str):
                self.explanation = end[part]
                break
        self._go(len(self._exits), self._end)

    # -- what is shown ------------------------------------------------------------------------

    @property
    def reasons(self) -> Sequence[Activity]:
        """Exits by reason, up to the moment."""
        return self._tally.reasons

    @property
    def places(self) -> Sequence[Activity]:
        """Exits by device and port, up to the moment."""
        return self._tally.places

    def poll(self) -> None:
        """Nothing comes by itself."""

    def want(self, parts: frozenset[str]) -> None:
        """All of it is there."""

    def console(self) -> bytes:
        """What the guest wrote since the last call; after `restarted`, from the beginning."""
        end = int(self._output_ends[self._at - 1]) if self._at else 0
        if end < self._shown_output:
            self._shown_output = 0
        output = self._output[self._shown_output : end]
        self._shown_output = end
        return output

    def entry(self, record: Any) -> Entry:
        """Decode a record for the log."""
        return entry_of(record, self._trace.decoder, self._begin, self._name_of)

    def detail(self, record: Any) -> Future[Sequence[Section]]:
        """All that the recording knows of an exit."""
        data = self._trace.data_of(record)
        sections = [section_of(record, self._trace.decoder, self._begin, data)]
        if not record["flags"] & HAS_RIP:
            sections.append(
                Section("the guest", ("where it was is not in the recording: RIP was not noted",))
            )
        found: Future[Sequence[Section]] = Future()
        found.set_result(sections)
        return found

    def totals(self) -> Mapping[str, float]:
        """Everything that counts up."""
        return self._tally.totals()

    # -- what is done -------------------------------------------------------------------------

    def do(self, command: str, **arguments: Any) -> Future[str]:
        """Nothing of a recording can be changed."""
        refused: Future[str] = Future()
        refused.set_exception(ConfigError("this is a recording"))
        return refused

    def stops(self) -> Future[Sequence[Stopping]]:
        """A recording does not run."""
        none: Future[Sequence[Stopping]] = Future()
        none.set_result(())
        return none

    def type(self, data: bytes) -> None:
        """Nobody reads it."""

    def seek(self, now_ns: int) -> None:
        """Go to a moment."""
        now_ns = min(max(now_ns, self._begin), self._end)
        self._go(int(np.searchsorted(self._times, now_ns, "right")), now_ns)

    def seek_exit(self, step: int) -> None:
        """Go by exits: the moment is then that of the last exit shown."""
        at = min(max(self._at + step, 1), len(self._exits))
        if at:
            self._go(at, int(self._times[at - 1]))

    def close(self) -> None:
        """Nothing is open."""

    # -- inside -------------------------------------------------------------------------------

    def _name_of(self, rip: int) -> str:
        return "" if self._symbols is None else self._symbols.at(rip) or ""

    def _go(self, at: int, now_ns: int) -> None:
        self.restarted = at < self._at
        if at < self._at:
            kept = sorted(self._checkpoints)
            found = bisect_right(kept, at)
            self._at = kept[found - 1] if found else 0
            begun = self._checkpoints.get(self._at)
            self._tally = Tally(self._trace.decoder) if begun is None else begun.copy()
        self._count_to(at)
        self.records = self._exits[max(at - _SHOWN, 0) : at]
        self._tally.at(now_ns)
        self.span = Span(self._begin, self._end, now_ns, self._density, self._marks)
        self.status = Status(
            self._name,
            "recording" if self._trace.finished else "recording, cut off",
            str(self._trace.meta.get("backend", "")),
            now_ns - self._begin,
            at,
            float(at - int(np.searchsorted(self._times, max(now_ns - _SECOND, 0), "right"))),
            self._trace.lost,
            "; ".join(self._trace.notes[:1]),
        )

    def _count_to(self, at: int) -> None:
        """Count exits up to number `at`, a second of the recording at a time for the rates."""
        while self._at < at:
            now = int(self._times[self._at])
            second = now - now % 1_000_000_000 + 1_000_000_000
            stop = int(np.searchsorted(self._times[self._at : at], second, "left")) + self._at
            stop = min(max(stop, self._at + 1), at, self._at + self._spacing)
            self._tally.at(now)
            self._tally.add(self._exits[self._at : stop])
            passed = stop // self._spacing != self._at // self._spacing
            self._at = stop
            if passed and stop not in self._checkpoints:
                self._checkpoints[stop] = self._tally.copy()


def console_output(trace: TraceFile) -> tuple[bytes, np.ndarray[Any, Any]]:
    """What a guest wrote to COM1 and to the debug console, and how much of it behind each exit.

    A byte that was meant for COM1's divisor latch (LCR bit 7, DLAB, is set) is none of it. What
    the BIOS services wrote is not in a recording: they are called with a port that says only which.
    """
    exits = trace.exits
    sizes = np.zeros(len(exits), np.int64)
    picked = np.flatnonzero(_writes_of_consoles(trace))
    written = exits[picked]
    if (written["count"] == 1).all() and (written["size"] == 1).all():
        sizes[picked] = 1
        return written["value"].astype("<u1").tobytes(), np.cumsum(sizes)
    parts = [trace.data_of(record) for record in written]
    sizes[picked] = [len(part) for part in parts]
    return b"".join(parts), np.cumsum(sizes)


def _writes_of_consoles(trace: TraceFile) -> np.ndarray[Any, Any]:
    exits = trace.exits
    addresses = exits["address"]
    written = (exits["reason"] == KVM_EXIT_IO) & (exits["flags"] & WRITE != 0)
    wanted = np.zeros(len(exits), np.bool_)
    for place in trace.devices.places:
        if place.bus != "port" or place.name not in ("com1", "debugcon"):
            continue
        if place.name == "debugcon":
            wanted |= written & (addresses >= place.start) & (addresses < place.end)
            continue
        sent = written & (addresses == place.base + _COM1_THR)
        settings = np.flatnonzero(written & (addresses == place.base + _COM1_LCR))
        if len(settings):
            latched = exits["value"][settings] & _DLAB != 0
            before = np.searchsorted(settings, np.arange(len(exits)), "right") - 1
            sent &= ~(latched[before] & (before >= 0))
        wanted |= sent
    return wanted
