"""From the first exception to the triple fault, one fault at a time.

Whether a fault while another one is delivered makes a double fault depends on the two: "benign"
exceptions are simply followed by the second, "contributory" ones and page faults are not.

Spec: AMD64 APM vol. 2, "#DF: Double-Fault Exception (Vector 8)"; Intel SDM vol. 3, "Interrupt 8:
Double Fault Exception (#DF)", "Conditions for Generating a Double Fault".
"""

from __future__ import annotations

from dataclasses import dataclass

from vmm.cpustate import CpuState
from vmm.explain.delivery import Failure, delivery_failure
from vmm.explain.page_walk import Read
from vmm.explain.vectors import VECTORS, vector_name

__all__ = ["Chain", "follow"]

_DF, _PF = 8, 14
_CONTRIBUTORY = frozenset({0, 10, 11, 12, 13, 21})
_LONGEST = 6
"""Benign, contributory, page fault, double fault: no chain is longer."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What follows from an exception."""

    vectors: tuple[int, ...]
    """The exceptions in their order, from the first on."""
    failures: tuple[Failure, ...]
    """Why each of them could not be delivered; one less than `vectors` where the last one was."""
    fatal: bool
    """It ends in a triple fault, as far as can be told."""

    @property
    def arrows(self) -> str:
        """The chain in short: "#PF -> #NP -> #DF -> triple fault"."""
        names = [VECTORS.get(v, (f"vector {v}", ""))[0] for v in self.vectors]
        return " -> ".join([*names, *(["triple fault"] if self.fatal else [])])

    def lines(self) -> list[str]:
        """Tell every link in a sentence."""
        told = []
        for number, failure in enumerate(self.failures):
            if number + 1 < len(self.vectors):
                follower = self.vectors[number + 1]
                promoted = follower == _DF and failure.raises not in (None, _DF)
                raised = vector_name(failure.raises if promoted else follower)  # type: ignore[arg-type]
                end = ", and the two make a double fault" if promoted else ""
                told.append(f"{failure.text}; that raises {raised}{end}")
            else:
                told.append(failure.text)
        return told


def follow(state: CpuState, read: Read, vector: int) -> Chain:
    """Follow what becomes of exception `vector`, raised in `state`."""
    vectors = [vector]
    failures: list[Failure] = []
    while len(vectors) <= _LONGEST:
        now = vectors[-1]
        failure = delivery_failure(state, read, now)
        if failure is None:
            return Chain(tuple(vectors), tuple(failures), fatal=False)
        failures.append(failure)
        if now == _DF and not failure.delivered:
            return Chain(tuple(vectors), tuple(failures), fatal=True)
        if failure.raises is None:
            break
        if failure.delivered:
            # The handler's own first instruction faults: that is a new first exception. Where it
            # is one that was there before, the stack fills up with frames until it ends.
            if failure.raises in vectors:
                break
            vectors.append(failure.raises)
        else:
            vectors.append(_DF if _double(now, failure.raises) else failure.raises)
    return Chain(tuple(vectors), tuple(failures), fatal=True)


def _double(first: int, second: int) -> bool:
    if first == _PF:
        return second == _PF or second in _CONTRIBUTORY
    return first in _CONTRIBUTORY and second in _CONTRIBUTORY
