"""`vmm trace`: look at what the guest's processors did."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict
from typing import Any

from kvm_bindings.constants import KVM_EXIT_IO
from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.errors import ConfigError, TraceError
from vmm.exits import Exit, describe, exit_name
from vmm.trace.devicemap import DeviceMap
from vmm.trace.diff import Parting, TraceDiff, compare
from vmm.trace.reader import TraceFile, device_map, load
from vmm.trace.source import TraceSource
from vmm.trace.summary import Key, Row, Spread, Summary
from vmm.trace.view import View

__all__ = ["trace"]

_ROWS = 30
_DIFFERS = 1
_SHOWN_DIFFERENCES = 20


def trace(options: Options) -> int:
    """Carry out one of the commands of `vmm trace`; returns the exit status.

    Raises:
        VmmError: the trace cannot be read, or nothing in it is as asked.
    """
    commands: dict[str, Callable[[Options], int]] = {
        "summary": _summary,
        "show": _show,
        "export": _export,
        "diff": _diff,
        "plot": _plot,
    }
    return commands[options.trace_command](options)


# -- summary --------------------------------------------------------------------------------


def _summary(options: Options) -> int:
    filters = _filters(options)
    summary = Summary()
    with TraceSource.open(options.file) as source:
        devices = device_map(source)
        if filters:
            trace = TraceFile(source)
            summary.add(_selected(trace, filters).exits)
        else:  # nothing but counts is held in memory
            for _, records in source.batches():
                summary.add(records)
    rows = summary.rows(_grouping(options.by, devices))
    if options.json:
        print(json.dumps(_summary_facts(summary, rows, devices, source), indent=2))
    else:
        _print_table(summary, rows, devices, options.top or _ROWS)
        _print_end(summary, source)
    _say_notes(source.name, source.notes)
    return 0


def _grouping(by: str, devices: DeviceMap) -> Callable[[Key], Hashable] | None:
    if by == "reason":
        return lambda key: Key(key.reason)
    if by == "device":
        return lambda key: devices.name_at(key.reason, key.address or 0) or key.name
    return None


def _cells(key: Key | str, devices: DeviceMap) -> tuple[str, str, str, str]:
    """A row's reason, address, direction and device."""
    if isinstance(key, str):
        return "", "", "", key
    verbs = ("in", "out") if key.reason == KVM_EXIT_IO else ("read", "write")
    verb = "" if key.write is None else verbs[key.write]
    if key.address is None:
        return key.name, "others" if verb else "", verb, ""
    return key.name, f"{key.address:#x}", verb, devices.name_at(key.reason, key.address)


def _print_table(summary: Summary, rows: list[Row], devices: DeviceMap, most: int) -> None:
    from rich.console import Console
    from rich.table import Table

    cells = [_cells(row.key, devices) for row in rows[:most]]
    if len(rows) > most:
        cells.append(("", f"{len(rows) - most} more", "", ""))
    cells.append(("all", "", "", ""))
    # Columns in which every row but the sums is empty are left out.
    shown = cells[: len(rows[:most])]
    kept = [place for place in range(4) if any(line[place] for line in shown)] or [0]
    if kept[0]:
        cells[-1] = tuple("all" if place == kept[0] else "" for place in range(4))  # type: ignore[assignment]
    table = Table(box=None, pad_edge=False)
    for place in kept:
        table.add_column(("reason", "where", "", "device")[place], no_wrap=True)
    for heading in ("count", "share", "guest p50", "handler p50", "p95", "p99", "max", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    figures = [_numbers(row) for row in rows[:most]]
    if len(rows) > most:
        rest = sum(row.count for row in rows[most:])
        figures.append([f"{rest:,}", f"{100 * rest / max(summary.exits, 1):.1f}%"])
    figures.append(_numbers(summary.total()))
    for line, numbers in zip(cells, figures, strict=True):
        table.add_row(*(line[place] for place in kept), *numbers)
    width = None if sys.stdout.isatty() else 140
    Console(highlight=False, markup=False, width=width).print(table)


def _numbers(row: Row) -> list[str]:
    handler = row.handler
    times = (row.guest.p50, handler.p50, handler.p95, handler.p99, handler.max)
    return [
        f"{row.count:,}",
        f"{100 * row.share:.1f}%",
        *map(_time, times),
        f"{100 * row.time_share:.1f}%",
    ]


def _time(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def _print_end(summary: Summary, source: TraceSource) -> None:
    print(f"{summary.exits:,} exits in {summary.seconds:.3f} s, {summary.rate:,.0f} a second")
    if len(summary.by_vcpu) > 1:
        print(*(f"vcpu{vcpu}: {count:,}" for vcpu, count in sorted(summary.by_vcpu.items())))
    reason = (source.end or {}).get("reason")
    if isinstance(reason, str) and reason.isprintable():
        print(f"the run ended: {reason}")


def _summary_facts(
    summary: Summary, rows: list[Row], devices: DeviceMap, source: TraceSource
) -> dict[str, Any]:
    made = []
    for row in rows:
        reason, where, verb, device = _cells(row.key, devices)
        facts = {"reason": reason, "where": where, "direction": verb, "device": device}
        made.append(facts | _row_facts(row))
    return {
        "exits": summary.exits,
        "seconds": summary.seconds,
        "rate": summary.rate,
        "irqs": summary.irqs,
        "vcpus": {str(vcpu): count for vcpu, count in sorted(summary.by_vcpu.items())},
        "total": _row_facts(summary.total()),
        "rows": made,
        "config": source.meta.get("config"),
        "backend": source.meta.get("backend"),
        "end": source.end,
        "lost": source.lost,
        "notes": source.notes,
    }


def _row_facts(row: Row) -> dict[str, Any]:
    def facts(spread: Spread) -> dict[str, float]:
        return {f"{name}_ns": value for name, value in asdict(spread).items()}

    shares = {"share": row.share, "time_share": row.time_share}
    return {"count": row.count, **shares, "guest": facts(row.guest), "handler": facts(row.handler)}


# -- show -----------------------------------------------------------------------------------


def _show(options: Options) -> int:
    trace = load(options.file)
    view = _selected(trace, _filters(options))
    exits = view.exits
    if options.first is not None:
        exits = exits[: options.first]
    if options.last is not None:
        exits = exits[-options.last :]
    tell = _json_line if options.json else _line
    for event in trace.tell(exits):
        print(tell(trace, event))
    if not options.json and len(exits) == len(trace):
        for event in trace.tell(trace.unfinished):
            print(_line(trace, event), "(was being handled)")
    sys.stdout.flush()
    _say_notes(trace.name, trace.notes)
    return 0


def _line(trace: TraceFile, event: Exit) -> str:
    when = (event.time_ns - trace.begun_ns) / 1e9
    what = _words(trace, event)
    times = f"guest {_time(event.guest_ns)}, handled in {_time(event.handler_ns)}"
    irqs = f", {event.irqs} irqs" if event.irqs else ""
    return f"{when:12.6f}  vcpu{event.vcpu}  {what:<64}  {times}{irqs}"


def _words(trace: TraceFile, event: Exit) -> str:
    owner = trace.devices.name_at(event.reason, event.address)
    return f"{describe(event, owner)}  {trace.decoder.meaning(event)}".rstrip()


def _json_line(trace: TraceFile, event: Exit) -> str:
    addressed = event.size > 0
    facts: dict[str, Any] = {
        "time_ns": event.time_ns - trace.begun_ns,
        "vcpu": event.vcpu,
        "reason": event.name,
        "write": event.write if addressed else None,
        "address": event.address,
        "size": event.size,
        "count": event.count,
        "value": event.value if event.count <= 1 else None,
        "data": event.data.hex() if addressed else "",
        "device": trace.devices.name_at(event.reason, event.address),
        "meaning": trace.decoder.meaning(event),
        "guest_ns": event.guest_ns,
        "handler_ns": event.handler_ns,
        "irqs": event.irqs,
        "rip": event.rip,
    }
    return json.dumps(facts)


# -- export and plot ------------------------------------------------------------------------


def _export(options: Options) -> int:
    from vmm.trace.export import export, format_of

    format = options.to or format_of(options.output)
    if format is None:
        raise ConfigError(
            f"{options.output}: the name does not say which format is wanted; "
            "give .json, .csv or .sqlite, or --to"
        )
    trace = load(options.file)
    view = _selected(trace, _filters(options))
    _refuse_same(options.file, options.output)
    shown = os.isatty(2) and options.output != "-"

    def progress(done: int) -> None:
        if shown:
            print(f"\r{options.output}: {100 * done // len(view)}%", end="", file=sys.stderr)
            sys.stderr.flush()

    try:
        export(trace, view, options.output, format, progress)
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    _say_notes(trace.name, trace.notes)
    return 0


def _plot(options: Options) -> int:
    from vmm.trace.plot import KINDS, save

    trace = load(options.file)
    view = _selected(trace, _filters(options))
    _refuse_same(options.file, options.picture)
    save(KINDS[options.kind](view), options.picture)
    _say_notes(trace.name, trace.notes)
    return 0


def _refuse_same(file: str, output: str) -> None:
    if os.path.exists(output) and os.path.samefile(file, output):
        raise ConfigError(f"{output}: that is the trace itself; give another name to write to")


# -- diff -----------------------------------------------------------------------------------


def _diff(options: Options) -> int:
    ours, theirs = load(options.a), load(options.b)
    found = compare(ours, theirs)
    if options.json:
        print(json.dumps(_diff_facts(found, ours, theirs), indent=2))
    elif found.same:
        print(f"the same {len(ours):,} exits in the same order")
    else:
        for parting in found.partings:
            _print_parting(parting, ours, theirs)
        _print_counts(found, ours.devices, theirs.devices)
    for trace in (ours, theirs):
        _say_notes(trace.name, trace.notes)
    return 0 if found.same else _DIFFERS


def _print_parting(parting: Parting, ours: TraceFile, theirs: TraceFile) -> None:
    same = f"{parting.number:,} exits are the same" if parting.number else "no exit is the same"
    print(f"vcpu{parting.vcpu}: {same}, then")
    for event in parting.before:
        print(f"    {_words(ours, event)}")
    for sign, trace, first, following in (
        ("A", ours, parting.ours, parting.ours_next),
        ("B", theirs, parting.theirs, parting.theirs_next),
    ):
        print(f"  {sign} {'ends here' if first is None else _words(trace, first)}")
        for event in following:
            print(f"  {sign} {_words(trace, event)}")


def _print_counts(found: TraceDiff, ours: DeviceMap, theirs: DeviceMap) -> None:
    print(f"\n{'A':>10} {'B':>10} {'B - A':>10}")
    for key, one, two in found.counts[:_SHOWN_DIFFERENCES]:
        cells = _cells(key, ours if ours.places else theirs)
        print(f"{one:>10,} {two:>10,} {two - one:>+10,}  {' '.join(filter(None, cells))}")
    if len(found.counts) > _SHOWN_DIFFERENCES:
        print(f"{len(found.counts) - _SHOWN_DIFFERENCES} more, with smaller differences")
    one, two = found.exits
    print(f"{one:>10,} {two:>10,} {two - one:>+10,}  all")


def _diff_facts(found: TraceDiff, ours: TraceFile, theirs: TraceFile) -> dict[str, Any]:
    def tell(trace: TraceFile, events: Iterable[Exit | None]) -> list[str]:
        return [_words(trace, event) for event in events if event is not None]

    return {
        "same": found.same,
        "exits": found.exits,
        "partings": [
            {
                "vcpu": parting.vcpu,
                "number": parting.number,
                "before": tell(ours, parting.before),
                "a": tell(ours, (parting.ours, *parting.ours_next)),
                "b": tell(theirs, (parting.theirs, *parting.theirs_next)),
            }
            for parting in found.partings
        ],
        "counts": [
            {
                "reason": exit_name(key.reason),
                "address": key.address,
                "write": key.write,
                "device": ours.devices.name_at(key.reason, key.address or 0),
                "a": one,
                "b": two,
            }
            for key, one, two in found.counts
        ],
    }


# -- what they share ------------------------------------------------------------------------


def _filters(options: Options) -> dict[str, Any]:
    given = {
        name: getattr(options, name)
        for name in ("reason", "port", "mmio", "device", "write", "value", "vcpu")
    }
    given |= {
        "since": None if options.since is None else options.since / 1e9,
        "until": None if options.until is None else options.until / 1e9,
        "slower_than_ns": options.slower,
    }
    return {name: value for name, value in given.items() if value is not None}


def _selected(trace: TraceFile, filters: dict[str, Any]) -> View:
    view = trace.where(**filters)
    if filters and not len(view):
        raise TraceError(
            f"{trace.name}: none of its {len(trace):,} exits is as asked; "
            f"'vmm trace summary {trace.name}' tells which there are"
        )
    return view


def _say_notes(name: str, notes: list[str]) -> None:
    for note in notes:
        say(f"{name}: {note}")
