"""The virtio devices that a machine's settings ask for, beside its disks."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine

__all__ = ["add_devices"]


def add_devices(machine: Machine, settings: Mapping[str, Any], folder: str = "") -> None:
    """Give a machine its network cards, sockets, shared folders and balloon.

    Args:
        machine: has interrupt controllers.
        settings: net, vsock, share and balloon of `vmm.launch.boot`.
        folder: what relative names of files are relative to; the current one unless given.

    Raises:
        ConfigError: one of them cannot be had.
    """
    if not machine.irqchip:
        raise ConfigError(
            "--net, --vsock, --share and --balloon need interrupt controllers: --irqchip on"
        )
    if settings.get("net"):
        from vmm.virtio.networks import add_net

        for number, text in enumerate(settings["net"]):
            add_net(machine, text, number=number, name=settings.get("name", ""))
    if settings.get("vsock"):
        from vmm.virtio.others import add_vsock

        add_vsock(machine, settings["vsock"])
    for text in settings.get("share", ()):
        from vmm.virtio.others import add_share

        add_share(machine, os.path.join(folder, text))
    if settings.get("balloon"):
        from vmm.virtio.others import add_balloon

        add_balloon(machine)
