"""Noting exits in a ring, in Python: what the compiled runner does in C, for any `enter`.

The layout of the ring and of its records is that of `kvm_bindings.exit_ring`.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import (
    DATA,
    DATA_BYTES,
    EXIT,
    HAS_RIP,
    RECORD,
    RECORD_SIZE,
    UNFINISHED,
    WITHOUT_DETAILS,
    WRITE,
    ExitRing,
)

__all__ = ["Recorder"]

_HEAD, _DONE, _FLUSHED, _EXITS, _IRQS = range(5)
_UNION = struct.Struct("<QQ")
_UNION_AT = 32
_MMIO_TAIL = struct.Struct("<IB")  # len, is_write
_MMIO_TAIL_AT = 48
_U64 = struct.Struct("<Q")
_VALUE_AT = 24
_HANDLER_AT = 40
_FLAGS_AT = 60
_U32 = struct.Struct("<I")
_MOST = 0xFFFF_FFFF


class Recorder:
    """Notes in `ring` what the wrapped `enter` comes back with.

    Args:
        enter: enters the guest once; returns an exit reason or a negative errno.
        index: the vCPU's number.
        page: the vCPU's mapping, starting with kvm_run.
        ring: where exits are noted.
    """

    def __init__(
        self, enter: Callable[[], int], index: int, page: memoryview, ring: ExitRing
    ) -> None:
        self._enter = enter
        self._index = index
        self._page = page
        self._ring = ring
        self._words = ring.words
        self._records = ring.records
        self._mask = ring.capacity - 1
        self._spent_ns = 0
        self._open: int | None = None
        self._began_ns = 0
        self._bytes = 0
        self._data_at = 0
        self._limit = (1 << 64) - 1
        self._rip_at: int | None = None

    def enter(self) -> int:
        """Complete the record of the last exit, enter the guest, begin the next record."""
        before = time.monotonic_ns()
        if self._open is not None:
            self._close(before)
        if self._words[_HEAD] >= self._limit:
            return -errno.ENOBUFS
        reason = self._enter()
        after = time.monotonic_ns()
        self._spent_ns += after - before
        if reason >= 0:
            self._note(after, reason)
        return reason

    def finish(self) -> None:
        """The last exit has been handled: complete its record."""
        if self._open is not None:
            self._close(time.monotonic_ns())

    def set_limit(self, limit: int) -> None:
        """Have `enter` return -ENOBUFS when the ring's head has come to `limit`."""
        self._limit = limit

    def deliver_rip(self, offset: int | None) -> None:
        """KVM puts RIP at `offset` of the vCPU's page with every exit (None: no more)."""
        self._rip_at = offset

    def close(self) -> None:
        """Let go of the page."""
        self._open = None
        self._page = memoryview(b"")

    def _note(self, now: int, reason: int) -> None:
        page, words = self._page, self._words
        number = words[_HEAD]
        word, second = _UNION.unpack_from(page, _UNION_AT)
        flags, size, count, value = UNFINISHED, 0, 0, 0
        self._bytes, self._data_at = 0, _UNION_AT + 8
        if reason == KVM_EXIT_IO:
            address, size, count = word >> 16 & 0xFFFF, word >> 8 & 0xFF, word >> 32
            self._bytes, self._data_at = size * count, second
            if word & 0xFF:
                flags |= WRITE
        elif reason == KVM_EXIT_MMIO:
            length, write = _MMIO_TAIL.unpack_from(page, _MMIO_TAIL_AT)
            address, size, count = word, min(length, 8), 1
            self._bytes = size
            if write:
                flags |= WRITE
        else:
            address, value = (0, 0) if reason in WITHOUT_DETAILS else (second, word)
        rip = 0
        if self._rip_at is not None:
            rip = _U64.unpack_from(page, self._rip_at)[0]
            flags |= HAS_RIP
        at = (number & self._mask) * RECORD_SIZE
        irqs, words[_IRQS] = min(words[_IRQS], 255), 0
        RECORD.pack_into(
            self._records,
            at,
            *(now, self._spent_ns, address, value, rip, 0, count, number & _MOST),
            *(reason, self._index, EXIT, size, flags, irqs, 0),
        )
        self._spent_ns = 0
        self._open, self._began_ns = at, now
        words[_EXITS] += 1
        words[_HEAD] = number + 1

    def _close(self, now: int) -> None:
        at, records, words = self._open, self._records, self._words
        assert at is not None
        self._open = None
        number = words[_HEAD]
        _U32.pack_into(records, at + _HANDLER_AT, min(now - self._began_ns, _MOST))
        if self._bytes:
            data = bytes(self._page[self._data_at : self._data_at + self._bytes])
            value = data[:8].ljust(8, b"\0")
            records[at + _VALUE_AT : at + _VALUE_AT + 8] = value
            for start in range(8, len(data), DATA_BYTES):
                part = data[start : start + DATA_BYTES]
                more = (number & self._mask) * RECORD_SIZE
                RECORD.pack_into(
                    records,
                    more,
                    *(0, 0, 0, 0, 0, 0, 0, number & _MOST),
                    *(0, self._index, DATA, len(part), 0, 0, 0),
                )
                records[more : more + len(part)] = part
                number += 1
        records[at + _FLAGS_AT] &= ~UNFINISHED
        words[_HEAD] = words[_DONE] = number
