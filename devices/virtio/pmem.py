"""Persistent memory: a piece of the host's storage that the guest has in its address space.

Modelled: all of virtio 1.2 but VIRTIO_PMEM_F_SHMEM_REGION, which says once more, as a shared memory
region, what the configuration space says. The memory is nothing that passes through here: the
device tells where it is, and makes durable what was written to it.

A flush that the host cannot carry out is answered with -1. A request that is no flush, or has no
room for an answer, is none: the device then needs a reset.

Spec: virtio 1.2, "PMEM Device".
"""

from __future__ import annotations

import struct

from devices.registers import Register, RegisterTable
from devices.states import require
from devices.virtio.device import ConfigState, VirtioDevice
from devices.virtio.queue import RingError
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.protocols import State
    from devices.virtio.queue import Queue

__all__ = ["Pmem"]

_U32 = struct.Struct("<I")
_FLUSH = 0
_OK, _FAILED = _U32.pack(0), _U32.pack(0xFFFF_FFFF)


class Pmem(VirtioDevice):
    """`size` bytes of persistent memory at guest-physical address `start`.

    Args:
        start, size: where the memory lies.
        flush: makes durable what was written to it; raises OSError where the host cannot.
    """

    device_id = 27
    name = "virtio-pmem"
    blocks = True
    queue_sizes = (64,)
    config = RegisterTable(
        Register("start", 0, 8, "r", doc="Guest-physical address."),
        Register("size", 8, 8, "r", doc="In bytes."),
    )

    def __init__(self, start: int, size: int, flush: Callable[[], None]) -> None:
        super().__init__()
        self.values |= {"start": start, "size": size}
        self._flush = flush
        self._flushes = self._errors = 0

    def serve(self, queue: Queue) -> None:
        """Carry out the flushes that wait.

        Raises:
            RingError: a request is none.
        """
        for chain in queue:
            request = chain.read(_U32.size)
            if len(request) != _U32.size or chain.writable_bytes < _U32.size:
                raise RingError("a request of 4 bytes, and room for an answer of 4, is wanted")
            if _U32.unpack(request)[0] != _FLUSH:
                raise RingError(f"a request of type {_U32.unpack(request)[0]}, which is no flush")
            self._flushes += 1
            try:
                self._flush()
                answer = _OK
            except OSError:
                self._errors += 1
                answer = _FAILED
            queue.push(chain, chain.write(answer))

    def counters(self) -> dict[str, int]:
        """Flushes, and those that failed."""
        return {"flushes": self._flushes, "errors": self._errors}

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from.

        Raises:
            StateError: it is of something else, or of other memory.
        """
        state = require(state, ConfigState)
        if state.values != tuple(self.values.values()):
            raise StateError(
                f"'virtio-config' field values: the memory is {tuple(self.values.values())} here "
                f"and was {state.values}"
            )
