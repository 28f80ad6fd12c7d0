"""The device types that can be handed over: what the driver sees of each of them."""

from __future__ import annotations

from devices.registers import Register, RegisterTable
from devices.virtio import blk, net
from devices.virtio.blk import Blk
from devices.virtio.net import Net
from devices.virtio.vsock import EVENT, F_STREAM, TRANSPORT_RESET, Vsock
from vmm.errors import VmmError
from vmm.virtio.handed_over import HandedOver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import State
    from devices.virtio.queue import Queue
    from vmm.virtio.servers import KernelNet, KernelVsock, UserServer

__all__ = ["FS_QUEUES", "HandedBlk", "HandedFs", "HandedNet", "HandedVsock"]

FS_QUEUES = (128, 128)
"""The queue for what is urgent, and the one for requests."""
_TAG_SIZE = 36
_BLK_CONFIG_SIZE = 60
"""Up to write_zeroes_may_unmap, with what pads it: every server has so much."""
_BLK_FEATURES = (
    *(blk.SEG_MAX, blk.RO, blk.BLK_SIZE, blk.FLUSH, blk.TOPOLOGY),
    *(blk.CONFIG_WCE, blk.MQ, blk.DISCARD, blk.WRITE_ZEROES),
)


class HandedNet(HandedOver):
    """A network card whose frames the kernel passes between guest and tap.

    Args:
        server: the kernel's.
        mac: the card's address, 6 bytes.
    """

    device_id = Net.device_id
    name = Net.name
    config = Net.config

    def __init__(self, server: KernelNet, mac: bytes) -> None:
        super().__init__(server, own=net.MAC | net.STATUS, passed=net.MRG_RXBUF | net.OFFLOADS)
        self._tap = server.tap
        self.values |= {f"mac{n}": byte for n, byte in enumerate(mac)}
        self.values["status"] = net.LINK_UP

    def accepts(self, features: int) -> bool:
        """Whether the chosen offloads have what they need."""
        return net.sound(features)

    def activate(self, features: int) -> None:
        """Tell the tap which offloads there are, and hand the queues over."""
        self._tap.agree(features)
        super().activate(features)


class HandedVsock(HandedOver):
    """Sockets between guest and host, passed on by the kernel.

    Args:
        server: the kernel's.
        cid: the guest's address.
    """

    device_id = Vsock.device_id
    name = Vsock.name
    config = Vsock.config

    def __init__(self, server: KernelVsock, cid: int) -> None:
        super().__init__(server, own=F_STREAM)
        self.values["guest_cid"] = cid
        self._moved = False

    def serve(self, queue: Queue) -> None:
        """Tell a guest that goes on elsewhere that its connections are gone."""
        if queue.index == EVENT and self._moved:
            for chain in queue:
                queue.push(chain, chain.write(TRANSPORT_RESET))
                self._moved = False
                break

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from, with no connections.

        Raises:
            StateError: it is of something else.
        """
        cid = self.values["guest_cid"]
        super().load(state)
        self.values["guest_cid"] = cid
        self._moved = True

    def resume(self) -> None:
        """Hand the queues over again."""
        super().resume()
        if self._moved and self.transport is not None:
            self.transport.serve(EVENT)


class HandedFs(HandedOver):
    """A folder of the host's, which the guest mounts by its tag.

    Args:
        server: virtiofsd.
        tag: 1 to 36 bytes.
    """

    device_id = 26
    name = "virtio-fs"
    config = RegisterTable(
        *(Register(f"tag{n}", n, access="r") for n in range(_TAG_SIZE)),
        Register("num_request_queues", _TAG_SIZE, size=4, access="r", reset=1),
    )

    def __init__(self, server: UserServer, tag: str) -> None:
        super().__init__(server)
        name = tag.encode()
        if not 0 < len(name) <= _TAG_SIZE or "\0" in tag:
            raise ValueError(f"tag {tag!r}: 1 to {_TAG_SIZE} bytes")
        self.values |= {f"tag{n}": byte for n, byte in enumerate(name)}


class HandedBlk(HandedOver):
    """A disk that another process serves; what the driver may know of it, that says.

    Args:
        server: has as many queues as the driver gets.

    Raises:
        ConfigError: it serves no devices of virtio 1.
        VhostUserError: it does not show its configuration.
    """

    device_id = Blk.device_id
    name = "virtio-blk"
    config = Blk.config

    def __init__(self, server: UserServer) -> None:
        # Not SIZE_MAX: qemu-storage-daemon offers it with a size of 0.
        super().__init__(server, passed=sum(_BLK_FEATURES))
        self._served = server
        space = server.config(_BLK_CONFIG_SIZE)
        for register in self.config:
            at = register.offset
            self.values[register.name] = int.from_bytes(space[at : at + register.size], "little")
        self.values["num_queues"] = len(server.queue_sizes)

    def write_config(self, name: str, value: int) -> None:
        """Pass on what the driver chooses: how writes are cached, which is all that it may."""
        super().write_config(name, value)
        register = self.config[name]
        if register.writable is None or not self._agreed & blk.CONFIG_WCE:
            return
        try:
            data = self.values[name].to_bytes(register.size, "little")
            self._served.set_config(register.offset, data)
        except VmmError as error:
            if self.transport is not None:
                self.transport.break_down(f"{self.server.name}: {error}")
