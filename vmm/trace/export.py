"""A trace for other programs: Chrome's and Perfetto's JSON, CSV, SQLite.

All three are written exit by exit; none of them is held in memory. A file appears under its name
only when it is complete.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import IO, Any, NamedTuple

from kvm_bindings.exit_ring import HAS_RIP, WRITE
from vmm.errors import TraceError
from vmm.exits import exit_name
from vmm.trace.chrome import DIRECTIONS, MACHINE_TRACK, PID, chrome_slices
from vmm.trace.layout import INPUT, IRQ, KIND_NAMES, QUEUE
from vmm.trace.reader import TraceFile
from vmm.trace.records import DTYPE, Records
from vmm.trace.view import View

__all__ = ["FORMATS", "export", "format_of"]

_STEP = 1 << 14
_DTYPE_NAMES = DTYPE.names or ()
Progress = Callable[[int], object]


class _Row(NamedTuple):
    """One exit, told in the columns that CSV and SQLite have."""

    time_ns: int
    """From the beginning of the trace."""
    vcpu: int
    reason: str
    direction: str
    """"in", "out", "read", "write", or "" where nothing went over a bus."""
    address: int
    size: int
    elements: int
    value: int
    data: bytes
    """All bytes of a string; empty elsewhere."""
    device: str
    meaning: str
    guest_ns: int
    handler_ns: int
    irqs: int
    rip: int | None


def format_of(path: str) -> str | None:
    """The format that a file's name asks for."""
    known = {
        "json": "chrome",
        "csv": "csv",
        "sqlite": "sqlite",
        "sqlite3": "sqlite",
        "db": "sqlite",
    }
    return known.get(path.rpartition(".")[2].lower())


def export(
    trace: TraceFile,
    view: View,
    path: str,
    format: str,
    progress: Callable[[int], object] = lambda done: None,
) -> None:
    """Write the exits of `view`, which is a part of `trace`, or the trace itself.

    Args:
        trace: what it is a part of.
        view: the exits.
        path: the file; "-" for standard output (not for SQLite).
        format: one of `FORMATS`.
        progress: told now and then how many exits have been written.

    Raises:
        TraceError: it cannot be written.
    """
    write = FORMATS[format]
    if path == "-":
        if format == "sqlite":
            raise TraceError("a database cannot be written to standard output; give a file")
        write(trace, view, sys.stdout, progress)
        return
    part = f"{path}.part"
    try:
        if format == "sqlite":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            _sqlite(trace, view, part, progress)
        else:
            with open(part, "w", encoding="utf-8", newline="") as file:
                write(trace, view, file, progress)
        os.replace(part, path)
    except (OSError, ValueError, sqlite3.Error) as error:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(part)
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(f"{path}: cannot be written: {why}") from None
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _batches(view: View, progress: Progress) -> Iterator[Records]:
    for start in range(0, len(view), _STEP):
        yield view.exits[start : start + _STEP]
        progress(min(start + _STEP, len(view)))


def _rows(trace: TraceFile, view: View, progress: Progress) -> Iterator[_Row]:
    decode = trace.decoder.decode
    name_at = lru_cache(1 << 14)(view.devices.name_at)
    names: dict[int, str] = {}
    for records in _batches(view, progress):
        for index, record in enumerate(records.tolist()):
            (time_ns, guest_ns, address, value, rip, handler_ns, count, _, reason, vcpu, _, size,
             flags, irqs, _) = record  # fmt: skip
            write = bool(flags & WRITE)
            name = names.get(reason)
            if name is None:
                name = names[reason] = exit_name(reason)
            direction = meaning = ""
            data = b""
            if (reason, write) in DIRECTIONS:
                direction = DIRECTIONS[reason, write]
                if count == 1:
                    meaning = decode(reason, address, size, write, value, time_ns)
                else:
                    data = view.data_of(records[index])
            yield _Row(
                *(time_ns - trace.begun_ns, vcpu, name, direction, address, size, count, value),
                *(data, name_at(reason, address), meaning, guest_ns, handler_ns, irqs),
                rip if flags & HAS_RIP else None,
            )


# -- Chrome and Perfetto --------------------------------------------------------------------


def _chrome(trace: TraceFile, view: View, file: IO[str], progress: Progress) -> None:
    """The Trace Event Format: a track for each vCPU, a slice for each exit that was handled; the
    gaps are the guest's.

    Spec: "Trace Event Format", Complete Events, Instant Events and Metadata Events.
    """
    put = file.write
    put('{"displayTimeUnit":"ns","otherData":')
    put(json.dumps({"vmm": trace.meta.get("vmm"), "config": trace.meta.get("config")}))
    put(',"traceEvents":[\n')
    put(",\n".join(map(json.dumps, _chrome_tracks(trace))))
    for slices in chrome_slices(trace, view, _batches(view, progress)):
        put(slices)
    for record in trace.events.tolist():
        put(",\n" + json.dumps(_chrome_event(dict(zip(_DTYPE_NAMES, record, strict=True)), trace)))
    put("\n]}\n")


def _chrome_tracks(trace: TraceFile) -> Iterator[dict[str, Any]]:
    config = trace.meta.get("config")
    image = config.get("image") if isinstance(config, dict) else None
    names = {MACHINE_TRACK: "machine"} | {vcpu + 1: f"vCPU {vcpu}" for vcpu in range(trace.vcpus)}
    yield _metadata("process_name", MACHINE_TRACK, name=f"glassvm {image or trace.name}")
    for tid, name in names.items():
        yield _metadata("thread_name", tid, name=name)
        yield _metadata("thread_sort_index", tid, sort_index=tid)


def _metadata(what: str, tid: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": PID, "tid": tid, "args": args}


def _chrome_event(event: dict[str, int], trace: TraceFile) -> dict[str, Any]:
    kind = event["kind"]
    name = KIND_NAMES.get(kind, f"kind {kind}")
    if kind == IRQ:
        name = f"irq {event['address']} {'up' if event['value'] else 'down'}"
    elif kind == INPUT:
        name = f"input, {event['count']} bytes"
    elif kind == QUEUE:
        name = f"virtio queue {event['value']}, {event['count']} requests"
    when = max(event["time_ns"] - trace.begun_ns, 0)
    where = {"pid": PID, "tid": MACHINE_TRACK, "ts": when / 1000}
    args = {"address": event["address"], "value": event["value"]}
    return {"name": name, "cat": "event", "ph": "i", "s": "t", **where, "args": args}


# -- CSV ------------------------------------------------------------------------------------


def _csv(trace: TraceFile, view: View, file: IO[str], progress: Progress) -> None:
    """One line an exit; addresses and values in hexadecimal, a string's bytes as hex digits."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_Row._fields)
    for row in _rows(trace, view, progress):
        cells = row._asdict() | {"address": hex(row.address), "value": hex(row.value)}
        cells |= {"data": row.data.hex(), "rip": "" if row.rip is None else hex(row.rip)}
        writer.writerow(cells.values())


# -- SQLite ---------------------------------------------------------------------------------

_SCHEMA = """
create table exits (
    id integer primary key,
    time_ns integer, vcpu integer, reason text, direction text,
    address integer,  -- as a signed number, as is value: SQLite has no others
    size integer, elements integer, value integer, data blob, device text, meaning text,
    guest_ns integer, handler_ns integer, irqs integer, rip integer
);
create table events (
    time_ns integer, kind text, address integer, value integer, count integer, reason integer
);
create table devices (name text, bus text, start integer, end integer, base integer);
create table info (key text primary key, value text);
"""
_INDICES = """
create index exits_by_address on exits (reason, address);
create index exits_by_device on exits (device);
"""


def _sqlite(trace: TraceFile, view: View, path: str, progress: Progress) -> None:
    """Tables `exits`, `events`, `devices`, and `info` with the trace's description as JSON."""
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.executescript("pragma journal_mode=off; pragma synchronous=off;" + _SCHEMA)
        columns = ", ".join(_Row._fields)
        marks = ", ".join("?" * len(_Row._fields))
        base.executemany(
            f"insert into exits ({columns}) values ({marks})",
            (_signed(row) for row in _rows(trace, view, progress)),
        )
        base.executemany(
            "insert into events values (?, ?, ?, ?, ?, ?)",
            (_sqlite_event(record, trace.begun_ns) for record in trace.events.tolist()),
        )
        base.executemany(
            "insert into devices values (?, ?, ?, ?, ?)",
            ((p.name, p.bus, p.start, p.end, p.base) for p in view.devices.places),
        )
        info = {"meta": trace.meta, "end": trace.end, "notes": trace.notes, "lost": trace.lost}
        base.executemany(
            "insert into info values (?, ?)",
            ((key, json.dumps(value)) for key, value in info.items()),
        )
        base.executescript(_INDICES)
        base.commit()


def _signed(row: _Row) -> tuple[Any, ...]:
    return tuple(_fold(value) if type(value) is int else value for value in row)


def _sqlite_event(record: tuple[int, ...], begun_ns: int) -> tuple[Any, ...]:
    event = dict(zip(_DTYPE_NAMES, record, strict=True))
    kind = KIND_NAMES.get(event["kind"], str(event["kind"]))
    numbers = (event["address"], event["value"], event["count"], event["reason"])
    return (_fold(event["time_ns"] - begun_ns), kind, *map(_fold, numbers))


def _fold(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


FORMATS: dict[str, Callable[[TraceFile, View, Any, Progress], None]] = {
    "chrome": _chrome,
    "csv": _csv,
    "sqlite": _sqlite,
}
