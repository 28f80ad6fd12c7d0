"""The rings that a vCPU's mapping holds: batched writes and dirty pages.

Spec: KVM API, KVM_(UN)REGISTER_COALESCED_MMIO and KVM_CAP_DIRTY_LOG_RING.
"""

from __future__ import annotations

import contextlib
import mmap
import struct

from kvm_bindings.constants import KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET

__all__ = ["CoalescedRing", "DirtyRing"]

_ENTRY = struct.Struct("=QIIQ")
_DIRTY = struct.Struct("=IIQ")
_SIZE_MASK = tuple((1 << (8 * min(size, 8))) - 1 for size in range(16))


class CoalescedRing:
    """The ring into which the kernel puts writes that cause no exit.

    One page: the indices `first` (ours) and `last` (the kernel's), then entries of 24 bytes. The
    ring is empty when they are equal.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._words = page.cast("I")
        self.capacity = (len(page) - 8) // _ENTRY.size

    def __bool__(self) -> bool:
        """Say whether writes are waiting."""
        words = self._words
        return words[0] != words[1]

    def drain(self) -> list[tuple[int, int, int, bool]]:
        """Take the waiting writes, oldest first: (address, size in bytes, value, is a port)."""
        words, capacity = self._words, self.capacity
        # Modulo, so that not even a broken ring leads out of the page.
        first, last = words[0] % capacity, words[1] % capacity
        stretches = [(first, last)] if first <= last else [(first, capacity), (0, last)]
        taken = [
            (address, size, data & _SIZE_MASK[size & 15], pio != 0)
            for start, end in stretches
            for address, size, pio, data in _ENTRY.iter_unpack(
                self._page[8 + start * _ENTRY.size : 8 + end * _ENTRY.size]
            )
        ]
        words[0] = last
        return taken

    def release(self) -> None:
        """Let go of the mapping."""
        self._words.release()
        self._page.release()


class DirtyRing:
    """The ring of one vCPU that names the pages it has written.

    Harvested entries go back to the kernel with `VM.reset_dirty_rings()`.
    """

    def __init__(self, fd: int, size_bytes: int, offset: int) -> None:
        self._map = mmap.mmap(
            fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
        )
        self._entries = size_bytes // _DIRTY.size
        self._next = 0

    def harvest(self) -> list[tuple[int, int]]:
        """Take the pages written since the last call: (slot, page number within it)."""
        pages = []
        for _ in range(self._entries):
            position = self._next * _DIRTY.size
            flags, slot, offset = _DIRTY.unpack_from(self._map, position)
            if flags & (KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET) != KVM_DIRTY_GFN_F_DIRTY:
                break
            pages.append((slot, offset))
            struct.pack_into("=I", self._map, position, flags | KVM_DIRTY_GFN_F_RESET)
            self._next = (self._next + 1) % self._entries
        return pages

    def release(self) -> None:
        """Unmap the ring."""
        with contextlib.suppress(BufferError):
            self._map.close()
