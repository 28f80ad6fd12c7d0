"""The evidence of a death: what the report shows and what tools read as JSON.

The keys of `to_facts`, beside what the explanation says in words:

    kind, vcpu, exits, seconds, backend    as in `Death`
    state            "at the death", "last seen" (registers of an earlier exit) or "lost"
    mode, rip, where, symbol    RIP: the linear address, as a debugger tells it, its name
    registers        by KVM's names; segments as {selector, base, limit, ...}
    code             [{address, bytes, text, current, symbol}]
    stack            [{address, symbol, guess}], innermost first
    page_walks       [{address, access, paging, entries: [{table, index, gpa, value}], gpa, stop}]
    last_exits       [{text, place, write, value, meaning}], oldest first
    other_vcpus      [{vcpu, doing, mode, rip, symbol}]
    notes            [text]

Addresses and values are numbers, bytes are hexadecimal; what is not known is null.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from vmm.explain.death import Death
from vmm.explain.disassembly import Line, around_rip, lines_around_rip
from vmm.explain.faults import likely_fault
from vmm.explain.names import name_of
from vmm.explain.page_walk import PageWalk, walk
from vmm.explain.stack import Frame, stack_trace

__all__ = ["SHOWN_EXITS", "Evidence", "gather", "to_facts"]

SHOWN_EXITS = 12


@dataclass(frozen=True, slots=True)
class Evidence:
    """What can be read from guest memory about a death."""

    code: list[str] = field(default_factory=list)
    """The instructions around RIP, as text."""
    lines: list[Line] = field(default_factory=list)
    """The same as data."""
    frames: list[Frame] = field(default_factory=list)
    walks: dict[str, PageWalk] = field(default_factory=dict)
    """Page walks by what they are of."""


def gather(death: Death) -> Evidence:
    """Read what a report shows."""
    state, read = death.state, death.read
    if state is None or (death.state_was_reset and death.last_seen is None):
        return Evidence()

    def name(rip: int) -> str:
        return name_of(death.symbols, state, rip)

    return Evidence(
        lines_around_rip(state, read, name=name),
        around_rip(state, read),
        stack_trace(state, read, death.symbols),
        _walks(death),
    )


def _walks(death: Death) -> dict[str, PageWalk]:
    state, read = death.state, death.read
    if state is None or state.paging == "off":
        return {}
    walks = {"page walk of RIP": walk(state, read, state.linear_rip, "execute")}
    if death.kind == "shutdown" and not death.state_was_reset:
        address = likely_fault(state, read).address
        if address is not None and address != state.linear_rip:
            found = walk(state, read, address, cpl=0)
            walks[f"page walk of the fault at {address:#x}"] = found
    return walks


def to_facts(death: Death, evidence: Evidence) -> dict[str, Any]:
    """The facts as plain values that JSON can hold."""
    state = death.state
    facts: dict[str, Any] = {
        "kind": death.kind,
        "vcpu": death.vcpu,
        "exits": death.exits,
        "seconds": death.seconds,
        "backend": death.backend or None,
        "state": _which_state(death),
        "mode": None if state is None else state.mode,
        "rip": None if state is None else state.linear_rip,
        "where": None if state is None else state.location,
        "symbol": None if state is None else name_of(death.symbols, state, state.rip) or None,
        "registers": None if state is None else asdict(state),
    }

    def symbol(rip: int) -> str | None:
        return None if state is None else name_of(death.symbols, state, rip) or None

    facts["code"] = [
        {
            "address": line.address,
            "bytes": line.data.hex(),
            "text": line.text,
            "current": line.current,
            "symbol": symbol(line.address),
        }
        for line in evidence.lines
    ]
    facts["stack"] = [
        {"address": frame.address, "symbol": frame.name or None, "guess": frame.guess}
        for frame in evidence.frames
    ]
    facts["page_walks"] = [_walk_facts(found) for found in evidence.walks.values()]
    facts["last_exits"] = [
        {
            "text": one.text,
            "place": one.place or None,
            "write": one.write,
            "value": one.value,
            "meaning": one.meaning or None,
        }
        for one in death.last_exits[-SHOWN_EXITS:]
    ]
    facts["other_vcpus"] = [
        {
            "vcpu": one.index,
            "doing": one.doing,
            "mode": one.cpu.mode,
            "rip": one.cpu.linear_rip,
            "symbol": name_of(death.symbols, one.cpu, one.cpu.rip) or None,
        }
        for one in death.others
    ]
    facts["notes"] = list(death.notes)
    return facts


def _which_state(death: Death) -> str:
    if death.state is None:
        return "lost"
    if not death.state_was_reset:
        return "at the death"
    return "last seen" if death.last_seen is not None else "lost"


def _walk_facts(found: PageWalk) -> dict[str, Any]:
    return {
        "address": found.gva,
        "access": found.access,
        "paging": found.paging,
        "entries": [
            {"table": entry.table, "index": entry.index, "gpa": entry.gpa, "value": entry.value}
            for entry in found.entries
        ],
        "gpa": found.gpa,
        "stop": found.stop or None,
    }
