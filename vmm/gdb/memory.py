"""The guest's memory as a debugger sees it: by linear address through a vCPU's page tables, or by
guest-physical address. Only RAM and ROM: to read a device would change it.
"""

from __future__ import annotations

from collections.abc import Iterator

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState
from vmm.explain.page_walk import walk
from vmm.memory import GuestMemory

__all__ = ["DebugMemory"]

_PAGE = 0x1000


class DebugMemory:
    """One machine's memory.

    Args:
        memory: by guest-physical address.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.physical = False
        """Whether addresses are guest-physical (GDB's users know it as `Qqemu.PhyMemMode`)."""

    def read(self, state: CpuState, address: int, size: int) -> bytes:
        """Read as much of `size` bytes as is in memory, from its start."""
        found = bytearray()
        for gpa, count in self._pieces(state, address, size):
            try:
                found += self._memory.read(gpa, count)
            except GuestAddressError:
                for at in range(gpa, gpa + count):  # the page may end early
                    if not self._memory.contains(at, 1):
                        return bytes(found)
                    found += self._memory.read(at, 1)
                break
        return bytes(found)

    def write(self, state: CpuState, address: int, data: bytes) -> bool:
        """Write `data`, also where the guest may not; say whether all of it is in memory. If not,
        nothing is written."""
        pieces = list(self._pieces(state, address, len(data)))
        if sum(count for _, count in pieces) < len(data):
            return False
        if not all(self._memory.contains(gpa, count) for gpa, count in pieces):
            return False
        done = 0
        for gpa, count in pieces:
            self._memory.write(gpa, data[done : done + count])
            done += count
        return True

    def translate(self, state: CpuState, address: int) -> int | None:
        """The guest-physical address of a linear one, whatever its page forbids; None where nothing
        is mapped."""
        if self.physical:
            return address
        # Ring 0 with writes that nothing forbids: a debugger looks, the guest does not.
        step = walk(state, self._memory.read, address, "read", cpl=0)
        return step.leads_to

    def _pieces(self, state: CpuState, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Guest-physical ranges, a page or less each, as far as there is something mapped."""
        wrap = 0xFFFF_FFFF_FFFF_FFFF if state.long_mode or self.physical else 0xFFFF_FFFF
        done = 0
        while done < size:
            here = address + done & wrap
            count = min(size - done, _PAGE - here % _PAGE)
            gpa = self.translate(state, here)
            if gpa is None:
                return
            yield gpa, count
            done += count
