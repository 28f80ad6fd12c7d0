"""Where two runs part: the first exit that is another one, and which exits one run has more of.

Times, interrupts and instruction pointers do not count. The vCPUs of a machine run side by side,
so each is compared for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.exit_ring import EXIT, UNFINISHED, WRITE
from vmm.exits import Exit, from_record
from vmm.trace.reader import TraceFile
from vmm.trace.records import Records, data_of
from vmm.trace.summary import Key, Summary

__all__ = ["Parting", "TraceDiff", "compare"]

_STEP = 1 << 16
_IGNORED = ("time_ns", "guest_ns", "rip", "handler_ns", "sequence", "irqs")
_CONTEXT = 5


@dataclass(frozen=True, slots=True)
class Parting:
    """Where one vCPU's exits part."""

    vcpu: int
    number: int
    """How many exits of this vCPU are the same in both."""
    before: tuple[Exit, ...]
    """The last of those."""
    ours: Exit | None
    """The first trace's next exit; None where it has no more."""
    theirs: Exit | None
    """The second trace's."""
    ours_next: tuple[Exit, ...]
    """What follows in the first, and in the second."""
    theirs_next: tuple[Exit, ...]


@dataclass(frozen=True, slots=True)
class TraceDiff:
    """What is different about two traces."""

    partings: tuple[Parting, ...]
    """Where they part, for each vCPU that does."""
    counts: tuple[tuple[Key, int, int], ...]
    """Exits that one has more of: what, how many in the first, in the second; the largest
    difference first."""
    exits: tuple[int, int]

    @property
    def same(self) -> bool:
        """Whether every vCPU had the same exits in the same order."""
        return not self.partings


def compare(ours: TraceFile, theirs: TraceFile) -> TraceDiff:
    """Compare two traces exit by exit."""
    none = np.empty(0, ours.exits.dtype)
    partings = []
    for vcpu in range(max(ours.vcpus, theirs.vcpus)):
        one, two = (
            _finished(trace.ring(vcpu)) if vcpu < trace.vcpus else none for trace in (ours, theirs)
        )
        at = _first_difference(one, two)
        if at is not None:
            partings.append(_parting(vcpu, at, one, two))
    partings.sort(key=lambda parting: parting.number)
    return TraceDiff(tuple(partings), _counts(ours, theirs), (len(ours), len(theirs)))


def _finished(records: Records) -> Records:
    """Without an exit at the end that was still being handled."""
    late = len(records) and records[-1]["kind"] == EXIT and records[-1]["flags"] & UNFINISHED
    return records[:-1] if late else records


def _first_difference(one: Records, two: Records) -> int | None:
    """The position of the first record, an exit's own, from which on they differ."""
    common = min(len(one), len(two))
    for start in range(0, common, _STEP):
        stop = min(start + _STEP, common)
        differs = np.flatnonzero((_told(one[start:stop]) != _told(two[start:stop])).any(axis=1))
        if len(differs):
            return _exit_at(one, start + int(differs[0]))
    return None if len(one) == len(two) else common


def _exit_at(records: Records, position: int) -> int:
    """The exit that a record belongs to: bytes of a string follow theirs."""
    while position and position < len(records) and records[position]["kind"] != EXIT:
        position -= 1
    return position


def _told(records: Records) -> NDArray[np.uint64]:
    """What counts of records: a row of words for each."""
    told = records.copy()
    exits = told["kind"] == EXIT
    for name in _IGNORED:
        told[name][exits] = 0
    told["sequence"] = 0
    told["flags"] &= WRITE
    return told.view(np.uint64).reshape(-1, told.dtype.itemsize // 8)


def _parting(vcpu: int, at: int, one: Records, two: Records) -> Parting:
    same = one[:at] if len(one) >= at else two[:at]
    ours, theirs = _exits_from(one, at), _exits_from(two, at)
    back = max(at - _CONTEXT * 90, 0)  # a string takes up to 86 records
    before = _exits_of(same[back:])[-_CONTEXT:]
    return Parting(
        vcpu=vcpu,
        number=int((same["kind"] == EXIT).sum()),
        before=before,
        ours=ours[0] if ours else None,
        theirs=theirs[0] if theirs else None,
        ours_next=ours[1:],
        theirs_next=theirs[1:],
    )


def _exits_from(records: Records, at: int) -> tuple[Exit, ...]:
    return _exits_of(records[at : at + _CONTEXT * 90])[:_CONTEXT]


def _exits_of(records: Records) -> tuple[Exit, ...]:
    found = np.flatnonzero(records["kind"] == EXIT)
    return tuple(from_record(records[at].item(), data_of(records, at)) for at in found.tolist())


def _counts(ours: TraceFile, theirs: TraceFile) -> tuple[tuple[Key, int, int], ...]:
    one, two = Summary(), Summary()
    one.add(ours.exits)
    two.add(theirs.exits)
    counts = [{row.key: row.count for row in summary.rows()} for summary in (one, two)]
    keys = dict.fromkeys([*counts[0], *counts[1]])
    found = [(key, counts[0].get(key, 0), counts[1].get(key, 0)) for key in keys]
    differing = [entry for entry in found if entry[1] != entry[2]]
    return tuple(sorted(differing, key=lambda entry: -abs(entry[1] - entry[2])))
