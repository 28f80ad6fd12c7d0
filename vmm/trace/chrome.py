"""The slices of Chrome's and Perfetto's JSON, one an exit: spelled out, for they are made by the
million.

What is the same for all exits of a kind (reason, address, width, value) is made once. Times are
worked out a batch at a time.

Spec: "Trace Event Format", Complete Events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import HAS_RIP, WRITE
from vmm.exits import exit_name
from vmm.trace.reader import TraceFile
from vmm.trace.records import Records
from vmm.trace.view import View

__all__ = ["DIRECTIONS", "MACHINE_TRACK", "PID", "chrome_slices"]

DIRECTIONS = {
    (KVM_EXIT_IO, False): "in",
    (KVM_EXIT_IO, True): "out",
    (KVM_EXIT_MMIO, False): "read",
    (KVM_EXIT_MMIO, True): "write",
}
PID = 1
MACHINE_TRACK = 0
"""The track of the machine's events; vCPU n has track n + 1."""

_MOST_KINDS = 1 << 16
_THOUSANDTHS = [f".{n:03}" for n in range(1000)]


class _Kind(NamedTuple):
    front: str
    """What stands before the track."""
    args: str
    """What stands among the arguments; empty where that is the bytes of a string."""
    selected: Callable[[int], object] | None
    """Tells meanings apart by their time."""
    meanings: dict[object, str]


def chrome_slices(trace: TraceFile, view: View, batches: Iterable[Records]) -> Iterator[str]:
    """The slices of some batches of exits, each behind a comma.

    Args:
        trace: what they are of.
        view: has the bytes of strings.
        batches: in the order of time.
    """
    decoder = trace.decoder
    ends = [0] * trace.vcpus
    kinds: dict[tuple[int, int, int, int, int, bool], _Kind] = {}
    for records in batches:
        lines = []
        starts, lengths = _times(records, trace.begun_ns, ends)
        times = (part.tolist() for ns in (starts, lengths) for part in (ns // 1000, ns % 1000))
        for index, (record, at, at_rest, took, took_rest) in enumerate(
            zip(records.tolist(), *times, strict=True)
        ):
            (time_ns, guest_ns, address, value, rip, _, count, _, reason, vcpu, _, size,
             flags, irqs, _) = record  # fmt: skip
            kind = (reason, address, size, value, flags & WRITE, count == 1)
            found = kinds.get(kind)
            if found is None:
                if len(kinds) >= _MOST_KINDS:
                    kinds.clear()
                found = kinds[kind] = _kind(trace, view, *kind)
            front, args, selected, meanings = found
            if selected is not None:
                then = selected(time_ns)
                if then not in meanings:
                    access = (reason, address, size, bool(flags & WRITE), value, time_ns)
                    meanings[then] = _meaning(decoder.decode(*access))
                args += meanings[then]
            elif not args and (reason, bool(flags & WRITE)) in DIRECTIONS:
                args = f',"data":"{view.data_of(records[index]).hex()}"'
            if irqs:
                args += f',"irqs":{irqs}'
            if flags & HAS_RIP:
                args += f',"rip":"{rip:#x}"'
            lines.append(
                f'{front}{vcpu + 1},"ts":{at}{_THOUSANDTHS[at_rest]},"dur":{took}'
                f'{_THOUSANDTHS[took_rest]},"args":{{"guest_ns":{guest_ns}{args}}}}}'
            )
        yield "".join(lines)


def _kind(
    trace: TraceFile, view: View, reason: int, address: int, size: int, value: int, write: int,
    single: bool,
) -> _Kind:  # fmt: skip
    """What slices of a kind have in common."""
    title = exit_name(reason)
    direction = DIRECTIONS.get((reason, bool(write)), "")
    name = title
    if direction:
        name = f"{view.devices.name_at(reason, address) or title} {direction} {address:#x}"
    front = f',\n{{"name":{json.dumps(name)},"cat":{json.dumps(title)},"ph":"X","pid":{PID},"tid":'
    if not direction or not single:
        return _Kind(front, "", None, {})
    args = f',"value":"{value:#x}","size":{size}'
    access = (reason, address, size, bool(write))
    selected = trace.decoder.selected(*access)
    if selected is None:
        args += _meaning(trace.decoder.decode(*access, value, 0))
    return _Kind(front, args, selected, {})


def _meaning(said: str) -> str:
    return f',"meaning":{json.dumps(said)}' if said else ""


def _times(
    records: Records, begun_ns: int, ends: list[int]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """When slices begin and how long they are: those of one track may touch, and must not overlap.

    `ends` is where the slices of each vCPU ended before; it is brought up to date.
    """
    came = (records["time_ns"] - np.uint64(begun_ns)).astype(np.int64)
    handled = came + records["handler_ns"]
    starts, lengths = np.zeros_like(came), np.zeros_like(came)
    for vcpu in np.unique(records["vcpu"]).tolist():
        ours = np.flatnonzero(records["vcpu"] == vcpu)
        until = np.maximum.accumulate(np.concatenate([[ends[vcpu]], handled[ours]]))
        starts[ours] = np.maximum(came[ours], until[:-1])
        lengths[ours] = np.maximum(until[1:] - starts[ours], 0)
        ends[vcpu] = int(np.maximum(until[-1], starts[ours][-1]))
    return starts, lengths
