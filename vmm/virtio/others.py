"""Sockets, shared folders and the balloon: from what options say to devices in a machine."""

from __future__ import annotations

from devices.virtio.balloon import Balloon
from devices.virtio.vsock import Vsock
from kvm_bindings import KvmError
from vmm.errors import ConfigError
from vmm.host.virtiofsd import start_virtiofsd
from vmm.host.vsock_sockets import VsockSockets
from vmm.virtio.handed_types import FS_QUEUES, HandedFs, HandedVsock
from vmm.virtio.other_options import parse_share, parse_vsock
from vmm.virtio.servers import KernelVsock, UserServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.virtio.place import VirtioPlace

__all__ = ["add_balloon", "add_share", "add_vsock"]


def add_vsock(machine: Machine, text: str) -> VirtioPlace:
    """Give a machine sockets to its host.

    Args:
        machine: has interrupt controllers.
        text: what stands behind `--vsock`.

    Raises:
        ConfigError: they cannot be had.
    """
    options = parse_vsock(text)
    if options.unix is None:
        try:
            return machine.add_virtio(HandedVsock(KernelVsock(options.cid), options.cid))
        except KvmError as error:
            raise ConfigError(
                f"--vsock {text}: {error}; or have it served on Unix sockets: "
                f"--vsock {text},unix=PATH"
            ) from None
    sockets = VsockSockets(options.unix, machine.events, machine.lock)
    machine.closers.append(sockets.close)
    device = Vsock(options.cid, sockets.connect)
    sockets.streams = device.streams
    return machine.add_virtio(device)


def add_share(machine: Machine, text: str) -> VirtioPlace:
    """Let a machine's guest mount a folder of the host's.

    Args:
        machine: has interrupt controllers.
        text: what stands behind `--share`.

    Raises:
        ConfigError: it cannot be had.
    """
    options = parse_share(text)
    connection, process = start_virtiofsd(options.folder)
    server = UserServer(connection, FS_QUEUES, process)
    try:
        return machine.add_virtio(HandedFs(server, options.tag))
    except BaseException:
        server.close()
        raise


def add_balloon(machine: Machine) -> VirtioPlace:
    """Let a machine's guest give memory back, when it is asked to and when it has memory free."""
    return machine.add_virtio(Balloon(machine.memory.discard), "balloon")
