"""What conditions are for: stops, and the records that a file keeps.

Spec: `vmm.trace.conditions` for the grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvm_bindings.constants import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_SHUTDOWN,
)
from kvm_bindings.exit_ring import DATA_BYTES
from vmm.lifecycle import Phase
from vmm.trace.conditions import Condition
from vmm.trace.sight import Access, Sight
from vmm.trace.watch import Tell

__all__ = ["Kept", "Stop"]

_DEATHS = (KVM_EXIT_SHUTDOWN, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR)
"""The run ends at these anyway, with all that is known about the death."""


class Stop:
    """A condition at which the guest is stopped, behind the exit that met it.

    Args:
        condition: which exits.
        stop: called with the vCPU and a sentence; it must not wait.
        remove: takes this stop out of what is watched.
    """

    on_irq: Callable[[int, bool], None] | None = None
    on_state: Callable[[Phase], None] | None = None

    def __init__(
        self,
        condition: Condition,
        stop: Callable[[int, str], None],
        remove: Callable[[Stop], None],
    ) -> None:
        self.condition = condition
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
