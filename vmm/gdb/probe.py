"""What KVM here traps for a debugger: tried on tiny guests, once a process.

Backends differ, and a processor that is emulated itself may ignore debug registers; so nothing is
taken from a name. Rings differ as well: kvm_pvm emulates ring 0 and runs 64-bit code of ring 3
natively.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from vmm.errors import VmmError
from vmm.machine import Machine

__all__ = ["Trap", "Traps", "find_traps"]

Trap = str
"""One of "software" (INT3), "hardware" (a debug register for an instruction), "watch" (one for
writes), "step"."""

_CODE, _DATA, _DONE = 0x1000, 0x2000, 0x80
# mov byte [0x2000], 1; nop; out 0x80, al; jmp $
_WRITE = bytes.fromhex("c6042500200000 01 90 e680 ebfe".replace(" ", ""))
_TARGET = _CODE + 8
_PATIENCE_S = 2.0


class Traps(NamedTuple):
    """What is trapped, by where the guest is."""

    ring3: frozenset[Trap]
    """In 64-bit and compatibility mode at CPL 3."""
    elsewhere: frozenset[Trap]

    def of(self, sregs: Any) -> frozenset[Trap]:
        """What is trapped in the mode that a kvm_sregs tells of."""
        in_ring3 = sregs.efer >> 10 & 1 and sregs.ss.dpl == 3
        return self.ring3 if in_ring3 else self.elsewhere


@cache
def find_traps() -> Traps:
    """Try all of it, which takes some milliseconds, or half a second on an emulated host."""
    return Traps(*(_of_ring(cpl) for cpl in (3, 0)))


def _of_ring(cpl: int) -> frozenset[Trap]:
    tries: dict[Trap, Callable[[Machine, list[int]], object]] = {
        "software": lambda m, hits: m.breakpoints.add(_TARGET, _note(m, hits), "software"),
        "hardware": lambda m, hits: m.breakpoints.add(_TARGET, _note(m, hits), "hardware"),
        "watch": lambda m, hits: m.breakpoints.watch(_DATA, 1, _note(m, hits)),
    }
    found = {trap for trap, put in tries.items() if _is_met(cpl, put)}
    if _steps(cpl):
        found.add("step")
    return frozenset(found)


def _note(machine: Machine, hits: list[int]) -> Callable[[int, int], None]:
    def hit(vcpu: int, address: int) -> None:
        hits.append(int(machine.vcpus[0].regs.rip))
        machine.stop()

    return hit


def _is_met(cpl: int, put: Callable[[Machine, list[int]], object]) -> bool:
    hits: list[int] = []
    with _machine(cpl) as machine:
        try:
            put(machine, hits)
            machine.run(timeout=_PATIENCE_S)
        except (VmmError, OSError):
            return False
    return hits == [_TARGET]


def _steps(cpl: int) -> bool:
    with _machine(cpl) as machine:
        try:
            machine.step()
        except (VmmError, OSError):
            return False
        # Where a step's exception is the guest's, one without handlers dies of it.
        return machine.last_result is None and machine.regs.rip == _TARGET


def _machine(cpl: int) -> Machine:
    machine = Machine(trace=False)
    try:
        machine.memory.write(_CODE, _WRITE)
        machine.start_at(_CODE, "long", cpl=cpl)
        machine.on_out(_DONE)(lambda value, size: machine.stop())
    except BaseException:
        machine.close()
        raise
    return machine
