"""The life of a machine: created, running, paused, stopped, failed.

Every change of state goes through `Lifecycle.to`, and only the transitions in the table are
allowed; a change that is not in the table is a fault in the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from vmm.errors import LifecycleError

__all__ = ["Lifecycle", "Phase"]


class Phase(Enum):
    """Where a machine is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"

    __hash__ = object.__hash__  # Enum's own is written in Python


_ALLOWED: dict[Phase, frozenset[Phase]] = {
    Phase.CREATED: frozenset({Phase.RUNNING, Phase.STOPPED}),
    Phase.RUNNING: frozenset({Phase.PAUSED, Phase.FAILED}),
    Phase.PAUSED: frozenset({Phase.RUNNING, Phase.STOPPED}),
    # A device model raised: its state cannot be trusted, the guest does not run again.
    Phase.FAILED: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}


class Lifecycle:
    """One machine's phase."""

    def __init__(self) -> None:
        self.phase = Phase.CREATED
        self.note: Callable[[Phase], None] | None = None
        """Told of each phase that is entered, with whatever locks the caller holds."""

    def to(self, phase: Phase) -> None:
        """Go to `phase`.

        Raises:
            LifecycleError: that is not allowed from here.
        """
        if phase not in _ALLOWED[self.phase]:
            raise LifecycleError(f"a {self.phase.value} machine cannot become {phase.value}")
        self.phase = phase
        if self.note is not None:
            self.note(phase)
