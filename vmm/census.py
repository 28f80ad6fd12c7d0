"""Noticing that all vCPUs sleep for good: halted with interrupts disabled, or never started.

A vCPU alone cannot tell, as another might still wake it. So when all seem to sleep they are counted
at one time: each comes out of the guest, says whether it sleeps, and waits for the rest.
"""

from __future__ import annotations

from vmm.endings import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.gate import Gate
    from vmm.run_state import RunState
    from vmm.vcpu import Vcpu

__all__ = ["Census"]


class Census:
    """Ends a run whose vCPUs all sleep for good.

    Args:
        state: of the run.
        gate: a vCPU that is wanted there is not kept waiting.
    """

    def __init__(self, state: RunState, gate: Gate) -> None:
        self._state = state
        self._gate = gate
        self._asleep: set[int] = set()
        """Those that slept when they were last asked, each at a time of its own."""
        self._counted: dict[int, bool] = {}
        """What the vCPUs have said in the census that is being taken; empty where there is none."""

    def clear(self) -> None:
        """Forget what was known, as at the beginning of a run."""
        self._asleep.clear()
        self._counted.clear()

    def ask(self, vcpu: Vcpu) -> None:
        """A vCPU came out of the guest, on whose thread this is: note whether it sleeps, and count
        where all seem to."""
        if vcpu.asleep_for_good():
            self._asleep.add(vcpu.index)
        else:
            self._asleep.discard(vcpu.index)
        if self._counted or len(self._asleep) == len(self._state.vcpus):
            self._take(vcpu)

    def _take(self, vcpu: Vcpu) -> None:
        """Say whether the vCPU sleeps, while none can wake another. The last one counts."""
        state, changed = self._state, self._state.changed
        with changed:
            census, first = self._counted, not self._counted
            census[vcpu.index] = vcpu.asleep_for_good()
        if first:
            state.kick(but=vcpu)
        with changed:
            if len(census) == len(state.vcpus):
                self._counted = {}
                if all(census.values()) and state.ending is None:
                    state.ending = Ending("halt", vcpu.index, detail="with interrupts disabled")
                changed.notify_all()
            else:
                changed.wait_for(
                    lambda: (
                        self._counted is not census or self._gate.closed or state.ending is not None
                    )
                )
                if self._counted is census:
                    self._counted = {}  # somebody wants a pause or the end: count another time
                    changed.notify_all()
            ended = state.ending is not None
        if ended:
            state.kick(but=vcpu)
