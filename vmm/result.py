"""What a run came to."""

from __future__ import annotations

from devices.records import Record
from vmm.errors import ExitStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.autopsy import Autopsy
    from vmm.reasons import Reason

__all__ = ["DEATHS", "EXPLAINED", "RunResult"]

DEATHS: frozenset[str] = frozenset({"shutdown", "internal_error", "fail_entry", "panic"})
"""The reasons that mean that the guest died."""

EXPLAINED = DEATHS | {"timeout"}
"""The reasons of which a result has an autopsy."""

_STATUS: dict[str, ExitStatus] = {
    "timeout": ExitStatus.TIMEOUT,
    "max_exits": ExitStatus.TIMEOUT,
    "stopped": ExitStatus.INTERRUPTED,
} | dict.fromkeys(DEATHS, ExitStatus.GUEST_DIED)


class RunResult(Record, aside=("autopsy",)):
    """How a run ended."""

    reason: Reason
    exits: int
    """How many times a vCPU came back to us in this run, over all vCPUs."""
    value: int | None = None
    """What the guest wrote to the debug-exit port."""
    seconds: float = 0.0
    """Wall time of the run."""
    vcpu: int = 0
    """The vCPU that ended it."""
    detail: str = ""
    """A sentence more where there is one to say."""
    autopsy: Autopsy | None = None

    @property
    def status(self) -> int:
        """What `vmm run` would end with: 0, an even number for what went wrong, or the
        guest's own `(value << 1 | 1) & 0xff`."""
        if self.reason == "debug_exit":
            return ((self.value or 0) << 1 | 1) & 0xFF
        return int(_STATUS.get(self.reason, ExitStatus.OK))

    @property
    def died(self) -> bool:
        """Whether the guest died rather than ended."""
        return self.reason in DEATHS

    @property
    def ended_by_hand(self) -> bool:
        """Whether somebody ended the run, and not a stop that was set."""
        return self.reason == "stopped" and not self.detail

    def report(self) -> str:
        """Say in words how the run ended; for a death or a timeout, all that is known about it."""
        return self.summary() if self.autopsy is None else self.autopsy.explanation.text()

    def explanation(self) -> dict[str, Any] | None:
        """What is known about a death, as plain data; None where the guest did not die."""
        return None if self.autopsy is None else self.autopsy.explanation.to_dict()

    def facts(self) -> dict[str, Any]:
        """Everything as values that JSON has."""
        return {
            "reason": self.reason,
            "status": self.status,
            "exits": self.exits,
            "value": self.value,
            "seconds": round(self.seconds, 6),
            "vcpu": self.vcpu,
            "detail": self.detail,
            "explanation": self.explanation(),
        }

    def summary(self) -> str:
        """One line: the reason, the exits, the detail."""
        exits = f"{self.exits} exit{'' if self.exits == 1 else 's'}"
        words = {
            "halt": "the guest halted",
            "shutdown": "the guest died of a triple fault",
            "debug_exit": f"the guest wrote {self.value or 0:#x} to the debug-exit port",
            "poweroff": "the guest powered off",
            "reset": "the guest asked for a reset",
            "timeout": "the run timed out",
            "max_exits": "the run reached its limit of exits",
            "stopped": "the run was stopped",
            "internal_error": "KVM could not go on",
            "fail_entry": "the processor refused to enter the guest",
            "panic": "the guest's kernel panicked",
        }[self.reason]
        return f"{words} after {exits}{': ' + self.detail if self.detail else ''}"
