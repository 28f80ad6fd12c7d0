"""Sockets between guest and host, where no kernel serves them: the device in front of
`devices.virtio.vsock_streams`.

Modelled: stream sockets. Left out: SOCK_SEQPACKET, which is not offered.

Connections do not outlive a snapshot: their other ends are programs of the host. A guest that goes
on elsewhere is told so (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET), and its sockets end.

Spec: virtio 1.2, "Socket Device".
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from devices.records import Record
from devices.registers import Register, RegisterTable
from devices.states import require, require_unsigned
from devices.virtio.device import VirtioDevice
from devices.virtio.vsock_packets import HEADER_SIZE, VsockPacket
from devices.virtio.vsock_streams import BUFFER_SIZE, VsockStreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State
    from devices.virtio.queue import Queue
    from devices.virtio.vsock_streams import Stream

__all__ = ["Vsock", "VsockState"]

RX, TX, EVENT = range(3)
F_STREAM = 1 << 0
TRANSPORT_RESET = struct.pack("<I", 0)
"""The one event that there is."""


class VsockState(Record):
    """The guest's address."""

    kind: ClassVar[str] = "virtio-vsock"
    version: ClassVar[int] = 1

    cid: int


class Vsock(VirtioDevice):
    """The sockets of the guest with the address `cid`.

    Args:
        cid: 3 or above.
        connect: called when the guest asks for a port of the host; gives the host's end, or None
            where nobody listens.
    """

    device_id = 19
    name = "virtio-vsock"
    queue_sizes = (128, 128, 16)
    features = F_STREAM
    config = RegisterTable(
        Register("guest_cid", 0, size=8, access="r", doc="The guest's address."),
    )

    def __init__(self, cid: int, connect: Callable[[int], Stream | None]) -> None:
        super().__init__()
        self.values["guest_cid"] = cid
        self.streams = VsockStreams(cid, connect, self._wake)
        self._moved = False

    def serve(self, queue: Queue) -> None:
        """Take packets of the guest, or give it those that are for it."""
        if queue.index == TX:
            for chain in queue:
                data = chain.read(HEADER_SIZE + BUFFER_SIZE)
                packet = VsockPacket.parse(data)
                if packet is not None:
                    self.streams.from_guest(packet, memoryview(data)[HEADER_SIZE:])
                queue.push(chain, 0)
        elif queue.index == RX:
            self._fill(queue)
        elif self._moved:
            for chain in queue:
                queue.push(chain, chain.write(TRANSPORT_RESET))
                self._moved = False
                break

    def reset(self) -> None:
        """Forget what the driver did: there are no connections."""
        self.streams.close()

    def save(self) -> VsockState:
        """Return the guest's address."""
        return VsockState(cid=self.values["guest_cid"])

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from, with no connections.

        Raises:
            StateError: it is of something else.
        """
        state = require(state, VsockState)
        require_unsigned(state, cid=64)
        self.streams.close()
        self._moved = True

    def _fill(self, queue: Queue) -> None:
        for chain in queue:
            room = chain.writable_bytes
            made = self.streams.next_packet(room) if room > HEADER_SIZE else None
            if made is None:
                queue.unpop()
                break
            queue.push(chain, chain.write(b"".join(made)))

    def _wake(self) -> None:
        if self.transport is not None:
            self.transport.kick(RX)
