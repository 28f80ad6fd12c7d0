"""What conditions are for: stops, and the records that a file keeps.

Spec: `vmm.trace.conditions` for the grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kvm_bindings.constants import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_SHUTDOWN,
)
from kvm_bindings.exit_ring import DATA_BYTES
from vmm.errors import ConfigError
from vmm.lifecycle import Phase
from vmm.trace.conditions import Condition, parse_condition
from vmm.trace.sight import Access, Sight
from vmm.trace.watch import Tell

if TYPE_CHECKING:
    from vmm.trace.trace import Trace

__all__ = ["Kept", "Stop", "new_filter", "new_stop"]

_DEATHS = (KVM_EXIT_SHUTDOWN, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR)
"""The run ends at these anyway, with all that is known about the death."""


class Stop:
    """A condition at which the guest is stopped, behind the exit that met it.

    Args:
        condition: which exits.
        number: tells it from the others of its trace.
        stop: called with the vCPU and a sentence; it must not wait.
        remove: takes this stop out of what is watched.
    """

    on_irq: Callable[[int, bool], None] | None = None
    on_state: Callable[[Phase], None] | None = None

    def __init__(
        self,
        condition: Condition,
        number: int,
        stop: Callable[[int, str], None],
        remove: Callable[[Stop], None],
    ) -> None:
        self.condition = condition
        self.number = number
        self.stopped = 0
        """How often it has stopped the guest."""
        self.needs_registers = condition.register is not None
        self.hits = 0
        """How many exits met it since the last stop."""
        self._stop = stop
        self._remove = remove

    def remove(self) -> None:
        """Stop here no more."""
        self._remove(self)

    def route(self, access: Access) -> Sequence[Tell]:
        """Be told of exits that may meet the condition."""
        if access.reason in _DEATHS or not self.condition.may_hold(access):
            return ()
        return (self._see,)

    def hit(self, vcpu: int, what: str) -> bool:
        """The condition was met, but for the count of `exits`: say whether this is the stop."""
        self.hits += 1
        if self.hits < (self.condition.exits or 1):
            return False
        self.hits = 0
        self.stopped += 1
        self._stop(vcpu, f"{self.condition.text}: {what}")
        return True

    def _see(self, sight: Sight) -> None:
        if self.condition.holds(sight):
            self.hit(sight.exit.vcpu, str(sight))


class Kept:
    """Notes which records of each vCPU meet a condition."""

    on_irq: Callable[[int, bool], None] | None = None
    on_state: Callable[[Phase], None] | None = None

    def __init__(self, condition: Condition, vcpus: int) -> None:
        self.condition = condition
        self.needs_registers = condition.register is not None
        self._hits = 0
        self._records: list[list[int]] = [[] for _ in range(vcpus)]

    def route(self, access: Access) -> Sequence[Tell]:
        """Be told of exits that may meet the condition."""
        return (self._see,) if self.condition.may_hold(access) else ()

    def take(self, vcpu: int) -> list[int]:
        """The numbers of records of a vCPU to be kept, of those seen since the last call."""
        taken, self._records[vcpu] = self._records[vcpu], []
        return taken

    def _see(self, sight: Sight) -> None:
        exit = sight.exit
        if self.condition.holds(sight):
            self._hits += 1
            if self._hits >= (self.condition.exits or 1):
                more = max(exit.size * exit.count - 8, 0)
                end = sight.number + 1 + -(-more // DATA_BYTES)
                self._records[exit.vcpu] += range(sight.number, end)


def new_stop(trace: Trace, text: str, *, pause: bool) -> Stop:
    """Stop a machine where a condition is met; where that asks for RIP alone, by a breakpoint.

    Args:
        trace: the machine's; its list of stops gets this one.
        text: the condition.
        pause: pause the run, also where other stops end it.

    Raises:
        ConfigError: it is no condition for this machine, or no breakpoint can be set.
        LifecycleError: it is a breakpoint, and the machine runs.
    """

    def met(vcpu: int, what: str) -> None:
        trace.on_stop(vcpu, what, pause)

    def remove(stop: Stop) -> None:
        if stop in trace.stops:
            take_back()
            trace.stops.remove(stop)

    condition = _condition(trace, text)
    stop = Stop(condition, max((s.number for s in trace.stops), default=0) + 1, met, remove)
    if condition.only_rip and condition.rip is not None:
        if condition.rip.first != condition.rip.last:
            raise ConfigError(
                f"condition {text}: a breakpoint has one address; exits in a range are met with "
                "one more term, as in rip=0x7c00-0x7dff,write"
            )
        take_back = trace.break_at(condition.rip.first, stop.hit)
    else:
        watch = trace.watching()
        take_back = partial(watch.remove, stop)
        _have_rip(trace, condition)
        watch.add(stop)
    trace.stops.append(stop)
    return stop


def new_filter(trace: Trace, text: str, vcpus: int) -> Kept:
    """What notes the records of a trace that meet a condition.

    Raises:
        ConfigError: it is no condition for this machine.
    """
    condition = _condition(trace, text)
    _have_rip(trace, condition)
    return Kept(condition, vcpus)


def _condition(trace: Trace, text: str) -> Condition:
    """A condition whose devices, registers and symbols the machine has."""
    condition = parse_condition(text)
    around = trace.watching().around
    condition.check(around.devices)
    return condition.resolved(around.symbols) if condition.symbol else condition


def _have_rip(trace: Trace, condition: Condition) -> None:
    if condition.asks_rip:
        trace.rip = True
