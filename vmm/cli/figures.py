"""The figures of a machine or a recording, as plain data and as lines of text.

One dict serves both: what `vmm stat --json` prints is what its text was made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvm_bindings.constants import KVM_EXIT_IO
from vmm.exits import exit_name

if TYPE_CHECKING:
    from vmm.trace.devicemap import DeviceMap
    from vmm.trace.summary import Key, Row, Spread, Summary

__all__ = ["exit_figures", "kvm_figures", "lines", "virtio_figures"]

_MOST_ROWS = 12
"""In text; JSON has all."""

_MOST_NAMES = 3
"""More registers than these behind one address (an index port) say nothing."""

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns"))


def exit_figures(summary: Summary, devices: DeviceMap, seconds: float) -> dict[str, Any]:
    """The exits of `seconds` seconds, by reason, by device and by address.

    Times are in nanoseconds, shares are of 1. `busy` is the share of one processor's time that was
    spent handling exits.
    """

    def common(row: Row) -> dict[str, Any]:
        return {
            "count": row.count,
            "rate": _rate(row.count, seconds),
            "share": row.share,
            "busy": _rate(row.handler.total, seconds * 1e9),
        }

    def of_device(key: Key) -> str:
        return "" if key.address is None else devices.name_at(key.reason, key.address)

    return {
        "seconds": seconds,
        "exits": summary.exits,
        "rate": _rate(summary.exits, seconds),
        "busy": _rate(summary.total().handler.total, seconds * 1e9),
        "irqs": summary.irqs,
        "vcpus": {str(vcpu): count for vcpu, count in sorted(summary.by_vcpu.items())},
        "reasons": [
            {
                "reason": exit_name(row.key),
                **common(row),
                "guest_ns": _spread(row.guest),
                "handler_ns": _spread(row.handler),
            }
            for row in summary.rows(lambda key: key.reason)
        ],
        "devices": [
            {"device": row.key, **common(row), "handler_ns": _spread(row.handler)}
            for row in summary.rows(of_device)
            if row.key
        ],
        "addresses": [
            {**_place(row.key, devices), **common(row), "handler_ns": _spread(row.handler)}
            for row in summary.rows()
            if row.key.write is not None
        ],
    }


def kvm_figures(
    values: dict[str, dict[str, Any]],
    counters: dict[str, dict[str, Any]],
    before: dict[str, dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """KVM's counters with their kinds and units (`Machine.kvm_counters`); where `before` has the
    values of an earlier look, those that only grow are told as what came since."""
    return {
        owner: {
            name: {
                "value": _since(value, (before or {}).get(owner, {}).get(name), counter["kind"]),
                **counter,
            }
            for name, value in named.items()
            if (counter := counters.get(owner, {}).get(name)) is not None
        }
        for owner, named in values.items()
    }


def virtio_figures(
    now: dict[str, dict[str, int]], before: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    """The counters of virtio devices since an earlier look."""
    return {
        device: {name: value - before.get(device, {}).get(name, 0) for name, value in named.items()}
        for device, named in now.items()
    }


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as text, in at most 100 columns."""
    said = (
        f"{figures['exits']:,} exits in {figures['seconds']:.3f} s, {figures['rate']:,.0f}/s",
        f"{figures['busy']:.1%} of a processor to handle them",
        f"{figures['irqs']:,} interrupt lines raised",
    )
    found = ["; ".join(said)]
    if len(figures["vcpus"]) > 1:
        parts = (f"vcpu{vcpu} {count:,}" for vcpu, count in figures["vcpus"].items())
        found.append("  ".join(parts))
    if figures.get("missed"):
        found.append(f"{figures['missed']:,} records were overwritten before they were read")
    found += _section(_reasons(figures["reasons"]))
    found += _section(_devices(figures["devices"]))
    found += _section(_addresses(figures["addresses"]))
    for device, counted in figures.get("virtio", {}).items():
        found += _section(_virtio(device, counted, figures["seconds"]))
    for owner, counters in figures.get("kvm", {}).items():
        found += _section(_kvm(owner, counters))
    hardware = figures.get("hardware")
    if hardware is not None:
        found += ["", *_hardware(hardware, silent=figures["exits"] > 0)]
    return found


# -- as data ------------------------------------------------------------------------------------


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _spread(spread: Spread) -> dict[str, float]:
    return {
        "total": spread.total,
        "p50": spread.p50,
        "p95": spread.p95,
        "p99": spread.p99,
        "max": spread.max,
    }


def _place(key: Key, devices: DeviceMap) -> dict[str, Any]:
    port = key.reason == KVM_EXIT_IO
    place: dict[str, Any] = {
        "bus": "port" if port else "MMIO",
        "address": key.address,
        "write": key.write,
        "device": "",
        "register": "",
    }
    if key.address is None:  # further ones, which were too many to be told apart
        return place
    place["device"] = devices.name_at(key.reason, key.address)
    found = devices.find(key.reason, key.address)
    if found is not None and found.table is not None:
        offset, write = key.address - found.base, bool(key.write)
        names = [register.name for register in found.table.candidates(offset, write=write)]
        place["register"] = "/".join(names) if len(names) <= _MOST_NAMES else ""
    return place


def _since(value: Any, before: Any, kind: str) -> Any:
    if before is None or kind in ("instant", "peak"):
        return value
    if isinstance(value, list | tuple):
        return [new - old for new, old in zip(value, before, strict=True)]
    return value - before


# -- as text ------------------------------------------------------------------------------------


def _section(rows: list[list[str]]) -> list[str]:
    """A table with its heading in the first row; the first column is text, the others numbers."""
    if len(rows) < 2:
        return []
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    laid_out = (
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return ["", *(line.rstrip() for line in laid_out)]


def _counted(row: dict[str, Any]) -> list[str]:
    return [f"{row['count']:,}", f"{row['rate']:,.0f}", f"{row['share']:.1%}", f"{row['busy']:.1%}"]


def _time(ns: float) -> str:
    for unit, name in _UNITS:
        if ns >= unit:
            return f"{ns / unit:.3g}{name}" if ns < 1000 * unit else f"{ns / unit:,.0f}{name}"
    return "0"


def _reasons(rows: list[dict[str, Any]]) -> list[list[str]]:
    heading = ["reason", "count", "/s", "share", "busy", "guest p50", "p99", "handler p50", "p99"]
    table = [[*heading, "max"]]
    for row in rows:
        guest, handler = row["guest_ns"], row["handler_ns"]
        times = (guest["p50"], guest["p99"], handler["p50"], handler["p99"], handler["max"])
        table.append([row["reason"], *_counted(row), *map(_time, times)])
    return table


def _devices(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["device", "count", "/s", "share", "busy", "handler p50", "p99"]]
    for row in rows[:_MOST_ROWS]:
        times = (row["handler_ns"]["p50"], row["handler_ns"]["p99"])
        table.append([row["device"], *_counted(row), *map(_time, times)])
    return table + _rest(rows, len(table[0]))


def _addresses(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["address", "count", "/s", "share", "busy", "handler p50", "p99"]]
    for row in rows[:_MOST_ROWS]:
        at = "others" if row["address"] is None else f"{row['address']:#x}"
        words = (row["bus"], at, "write" if row["write"] else "read", row["device"])
        where = " ".join(filter(None, (*words, row["register"])))
        times = (row["handler_ns"]["p50"], row["handler_ns"]["p99"])
        table.append([where[:48], *_counted(row), *map(_time, times)])
    return table + _rest(rows, len(table[0]))


def _rest(rows: list[dict[str, Any]], columns: int) -> list[list[str]]:
    rest = rows[_MOST_ROWS:]
    if not rest:
        return []
    total = {name: sum(row[name] for row in rest) for name in ("count", "rate", "share", "busy")}
    cells = [f"{len(rest):,} more", *_counted(total)]
    return [cells + [""] * (columns - len(cells))]


def _kvm(owner: str, counters: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The counters that are not zero; histograms are for JSON."""
    table = [[f"KVM, {owner}", "", ""]]
    for name, counter in counters.items():
        value = counter["value"]
        if isinstance(value, int) and value:
            table.append([name, f"{value:,}", counter["unit"]])
    return table


def _virtio(device: str, counters: dict[str, int], seconds: float) -> list[list[str]]:
    """What a virtio device did; nothing where it did nothing."""
    rows = [[n, f"{v:,}", f"{_rate(v, seconds):,.0f}"] for n, v in counters.items() if v]
    return [[device, "count", "/s"], *rows]


def _hardware(hardware: dict[str, Any], *, silent: bool) -> list[str]:
    """`silent`: there were exits, so that no hardware exit at all means that none is told."""
    if "unavailable" in hardware:
        return [f"hardware exits are not counted: {hardware['unavailable']}"]
    if silent and not hardware["entries"]:
        return ["hardware exits are not counted: KVM's backend here does not tell of them"]
    total = hardware["total"]
    found = [f"{total:,} hardware exits, {hardware['entries']:,} entries"]
    if hardware["lost"]:
        found[0] += f"; {hardware['lost']:,} came too fast to be told by reason"
    counted = sorted(hardware["reasons"].items(), key=lambda item: -item[1])
    return found + _section([["", ""], *([name, f"{count:,}"] for name, count in counted)])[2:]
