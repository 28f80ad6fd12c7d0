"""An entropy source.

Modelled: all of it, which is one queue of buffers to be filled. A request gets 64 KiB at most, as
the specification allows: how long a request takes is not for the guest to choose.

Spec: virtio 1.2, "Entropy Device".
"""

from __future__ import annotations

import os

from devices.virtio.device import VirtioDevice
from devices.virtio.queue import RingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.virtio.queue import Queue

__all__ = ["Rng"]

_MOST = 1 << 16


class Rng(VirtioDevice):
    """Gives the guest what `source` gives, which is asked for a number of bytes."""

    device_id = 4
    queue_sizes = (64,)

    def __init__(
        self, name: str = "virtio-rng", *, source: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__()
        self.name = name
        self._source = source
        self._requests = self._bytes = 0

    def serve(self, queue: Queue) -> None:
        """Fill the buffers that wait.

        Raises:
            RingError: a buffer is to be read.
        """
        for chain in queue:
            if chain.readable or not chain.writable:
                raise RingError("a request for random bytes has buffers to be written, no others")
            written = chain.write(self._source(min(chain.writable_bytes, _MOST)))
            queue.push(chain, written)
            self._requests += 1
            self._bytes += written

    def counters(self) -> dict[str, int]:
        """Requests, and the random bytes that they got."""
        return {"requests": self._requests, "bytes": self._bytes}
