"""Counting exits by reason and address, out of what the vCPUs remember anyway."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.vcpu import Vcpu

__all__ = ["ExitCounts"]


class ExitCounts:
    """How many exits there were, by (reason, address, whether it was a write)."""

    def __init__(self) -> None:
        self.by_address: Counter[tuple[int, int, bool]] = Counter()

    def add(self, vcpu: Vcpu, count: int) -> None:
        """Count a vCPU's last `count` exits."""
        for event in vcpu.last_exits(count) if count else ():
            self.by_address[event.reason, event.address, event.write] += 1

    @property
    def total(self) -> int:
        """All exits."""
        return self.by_address.total()
