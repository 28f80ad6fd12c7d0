"""Counting exits by reason and address, out of what the vCPUs remember anyway."""

from __future__ import annotations

from collections import Counter

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.vcpu import Vcpu

__all__ = ["ExitCounts"]

_ADDRESSED = (KVM_EXIT_IO, KVM_EXIT_MMIO)


class ExitCounts:
    """How many exits there were, by (reason, address, whether it was a write)."""

    def __init__(self) -> None:
        self.by_address: Counter[tuple[int, int, bool]] = Counter()

    def add(self, vcpu: Vcpu, count: int) -> None:
        """Count a vCPU's last `count` exits."""
        for event in vcpu.last_exits(count) if count else ():
            address = event.address if event.reason in _ADDRESSED else 0
            self.by_address[event.reason, address, event.write] += 1

    @property
    def total(self) -> int:
        """All exits."""
        return self.by_address.total()
