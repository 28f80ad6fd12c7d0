"""The I/O that an exit asks for, carried out on the buses.

Port I/O that was seen before is called out of `Bus.calls`, by `ExitIo.run` or by the compiled
runner, which does the same in C; everything else goes through the buses. The access stays pending
in `kvm_run` until the guest is entered again, so that one whose device raised can be carried out
once more (`vmm.recovery`).

Spec: KVM API, "The kvm_run structure", KVM_EXIT_IO and KVM_EXIT_MMIO.
"""

from __future__ import annotations

import struct
import threading

from kvm_bindings import constants as c
from vmm.bus import Bus
from vmm.errors import DeviceFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_bindings.runner import Runner

__all__ = ["ExitIo"]

_REASON_WORD = 1
_UNION = 32
_IO_WORD = _UNION // 8
"""io: direction (8 bits), size (8), port (16), count (32) as one number of 64 bits."""
_DATA_OFFSET = _IO_WORD + 1
"""io: where the data lies in the page."""
_WORDS_END = 8 * (_DATA_OFFSET + 1)
_ELEMENT = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I")}
_MMIO = struct.Struct("<Q8sIB")  # phys_addr, data, len, is_write
_MMIO_DATA = _UNION + 8

_ONES = tuple((1 << 8 * size) - 1 for size in range(9))
"""All ones, by the width in bytes."""


class ExitIo:
    """Carries out what the exits of one vCPU ask for.

    Args:
        page: the vCPU's `kvm_run`.
        pio: the bus of its I/O ports.
        mmio: the bus of its physical addresses without memory.
        lock: held while a device is called.
    """

    def __init__(self, page: memoryview, pio: Bus, mmio: Bus, lock: threading.RLock) -> None:
        self.page = page
        self._words = page[:_WORDS_END].cast("Q")
        self.pio = pio
        self._mmio = mmio
        self._lock = lock

    @property
    def pending(self) -> int:
        """The reason of the last exit."""
        return self._words[_REASON_WORD] & 0xFFFF_FFFF

    def run(self, runner: Runner, enter: Callable[[], int], limit: int) -> int:
        """Do what `Runner.run` does, around any `enter`."""
        page, words, calls, lock = self.page, self._words, self.pio.calls, self._lock
        exits = runner.exits
        try:
            while exits != limit:
                reason = enter()
                if reason != c.KVM_EXIT_IO:
                    return reason
                found = calls.get(words[_IO_WORD])
                if found is None:
                    return reason
                write, size, call, at = found
                offset = words[_DATA_OFFSET]
                if write:
                    value = _ELEMENT[size].unpack_from(page, offset)[0]
                    with lock:
                        if at is None:
                            call(value, size)
                        else:
                            call(at, size, value)
                else:
                    with lock:
                        value = call(size) if at is None else call(at, size)
                    _ELEMENT[size].pack_into(page, offset, value & _ONES[size])
                exits += 1
        finally:
            runner.exits = exits
        return c.KVM_EXIT_IO

    def port(self, done: int = 0) -> None:
        """Carry out port I/O that was not seen before, or that is a string, of which `done` bytes
        are done.

        What can be repeated without a look at the bus is put into `Bus.calls`.
        """
        word = self._words[_IO_WORD]
        write, size, port, count = word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFFFF, word >> 32
        offset, pio = self._words[_DATA_OFFSET], self.pio
        data = self.page[offset + done : offset + size * count]
        with self._lock:
            if write:
                pio.write_string(port, size, data)
            else:
                pio.read_string(port, size, data)
            if count == 1:
                pio.remember(word, bool(write), port, size)

    def memory(self) -> None:
        """Carry out a read or write of memory that is none."""
        page = self.page
        address, data, size, write = _MMIO.unpack_from(page, _UNION)
        with self._lock:
            if write:
                self._mmio.write(address, size, int.from_bytes(data[:size], "little"))
            else:
                value = self._mmio.read(address, size) & _ONES[size]
                page[_MMIO_DATA : _MMIO_DATA + size] = value.to_bytes(size, "little")

    def repeat(self, reason: int, done: int) -> None:
        """Carry out the access that is pending once more, from byte `done` on."""
        if reason == c.KVM_EXIT_IO:
            self.port(done)
        else:
            self.memory()

    def answer_ones(self, reason: int, done: int, size: int) -> None:
        """Let the guest read all ones in the `size` bytes from byte `done` on."""
        start = (self._words[_DATA_OFFSET] if reason == c.KVM_EXIT_IO else _MMIO_DATA) + done
        self.page[start : start + size] = b"\xff" * size

    def fault(self, reason: int, error: Exception) -> DeviceFault:
        """What to raise where a device raised `error` at the access that is pending."""
        if reason == c.KVM_EXIT_IO:
            fault = self.pio.fault(self._words[_IO_WORD] >> 16 & 0xFFFF, error)
        else:
            fault = self._mmio.fault(_MMIO.unpack_from(self.page, _UNION)[0], error)
        fault.__cause__ = error
        return fault

    def close(self) -> None:
        """Let go of the page."""
        self._words.release()
