"""Coalesced writes: KVM collects writes to a zone in a ring and does not exit for them.

The ring is shared by all vCPUs of a machine. It is emptied before the exit that follows is
handled, so that devices see writes in the guest's order.

Spec: KVM API, KVM_(UN)REGISTER_COALESCED_MMIO.
"""

from __future__ import annotations

import threading

from kvm_bindings import CoalescedRing
from vmm.bus import Bus, UnclaimedAccess

__all__ = ["CoalescedWrites"]


class CoalescedWrites:
    """The ring, and the buses its writes go to; `lock` is held while devices are called."""

    def __init__(self, ring: CoalescedRing, pio: Bus, mmio: Bus, lock: threading.RLock) -> None:
        self._ring = ring
        self._pio = pio
        self._mmio = mmio
        self._lock = lock
        self.count = 0
        """How many writes came through the ring."""

    def drain(self) -> None:
        """Carry out the writes that wait in the ring, oldest first.

        Raises:
            DeviceFault: a device raised; the writes behind are lost.
        """
        pio, mmio = self._pio, self._mmio
        if not self._ring:
            return
        with self._lock:
            entries = self._ring.drain()
            self.count += len(entries)
            for address, size, value, is_port in entries:
                bus = pio if is_port else mmio
                write, offset = bus.writers.get(address << 4 | size) or bus.writer(address, size)
                try:
                    write(offset, size, value)
                except UnclaimedAccess:
                    raise
                except Exception as error:
                    raise bus.fault(address, error) from error
