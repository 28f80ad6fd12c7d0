"""Disks that another process serves: images that are not raw, and what the user serves himself."""

from __future__ import annotations

import socket

from devices.virtio import blk
from vmm.errors import ConfigError
from vmm.host.storage_daemon import start_storage_daemon
from vmm.host.vhost_user import VhostUser, VhostUserError
from vmm.virtio.handed_types import HandedBlk
from vmm.virtio.servers import UserServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.virtio.disk_options import DiskSpec
    from vmm.virtio.place import VirtioPlace

__all__ = ["add_served_disk"]

_QUEUE_SIZE = 256
_MOST_QUEUES = 64
_NUM_QUEUES = slice(34, 36)
"""Where the configuration space says how many queues there are."""


def add_served_disk(machine: Machine, spec: DiskSpec) -> VirtioPlace:
    """Give a machine a disk that is served by qemu-storage-daemon, or on a socket of the user's.

    Raises:
        ConfigError: it cannot be had.
    """
    what = f"--disk {spec.text}"
    if not machine.complete:
        raise ConfigError(
            f"{what}: another process cannot see the memory of a machine out of a snapshot"
        )
    readonly = spec.access == "read-only"
    process = None
    if spec.socket:
        connection = _connect(what, spec.socket)
    else:
        connection, process = start_storage_daemon(
            spec.path, spec.found_format(), readonly=readonly, queues=spec.queues
        )
    server = UserServer(connection, (), process)
    try:
        if readonly and not server.features & blk.RO:
            raise ConfigError(f"{what}: it lets the guest write; serve it read-only")
        server.have_queues((_QUEUE_SIZE,) * _queues(connection))
        return machine.add_virtio(HandedBlk(server))
    except BaseException as error:
        server.close()
        if isinstance(error, VhostUserError):
            raise ConfigError(f"{what}: {error}") from None
        raise


def _connect(what: str, path: str) -> VhostUser:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except (OSError, ValueError) as error:
        connection.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{what}: {why}; start what serves it first: qemu-storage-daemon --export "
            f"vhost-user-blk,addr.type=unix,addr.path={path},..."
        ) from None
    try:
        return VhostUser(connection, path)
    except VhostUserError as error:
        raise ConfigError(f"{what}: {error}") from None


def _queues(connection: VhostUser) -> int:
    """How many queues the driver can be given: what the server has, by both of its accounts."""
    if not connection.features & blk.MQ:
        return 1
    told = int.from_bytes(connection.config(_NUM_QUEUES.stop)[_NUM_QUEUES], "little")
    return max(1, min(told, connection.queues, _MOST_QUEUES))
