"""Furnishing a machine: console, a PC's devices, the Python BIOS with its disks, users' devices.

What is to be there stands in settings that JSON has, so that a machine out of a snapshot is
furnished as the one was that it was taken of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from vmm.board import add_pc
from vmm.host.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine

__all__ = ["PAYLOAD_PREFIX", "furnish"]

PAYLOAD_PREFIX = "payload:"
"""What the name of a built-in guest begins with, where a file's would stand."""


def furnish(
    machine: Machine,
    settings: Mapping[str, Any],
    *,
    console: Callable[[bytes], None] | None = None,
    terminal: bool = False,
    private: bool = False,
    folder: str = "",
) -> None:
    """Give a new machine what its settings say.

    Args:
        machine: has no devices yet.
        settings: of `vmm.launch.boot`: input, testdev, bios, image, boot_drive, disks, devices,
            smbios, pvpanic, and those of virtio devices.
        console: called with the guest's output.
        terminal: the console understands cursor movement and colours.
        private: what the guest writes to its disks is its own, and gone with it.
        folder: what relative names of files are relative to; the current one unless given.

    Raises:
        ConfigError: a disk or a user's device cannot be had.
    """
    machine.console = Console(console, lock=machine.lock)
    bios, route = settings["bios"], settings["input"]
    add_pc(
        machine,
        machine.console,
        input=route,
        bios=bios,
        testdev=settings["testdev"],
        pvpanic=settings.get("pvpanic", False),
    )
    if bios:
        from vmm.host.drives import open_drives
        from vmm.python_bios import add_bios

        image = settings["image"]
        is_file = image and not image.startswith(PAYLOAD_PREFIX)  # "" stands for bytes
        boot = os.path.join(folder, image) if is_file else None
        disks = [os.path.join(folder, disk) for disk in settings["disks"]]
        drives = open_drives(boot, settings["boot_drive"], disks, private=private)
        machine.bios = add_bios(
            machine,
            machine.console,
            disks=drives,
            com1=machine.devices["com1"],
            terminal=terminal,
        )
    plain = any(settings.get(kind) for kind in ("pmem", "rng", "virtio_console"))
    if plain or (settings["disks"] and not bios):
        from vmm.virtio.disks import add_plain_devices

        add_plain_devices(machine, settings, private=private, folder=folder, terminal=terminal)
    if any(settings.get(kind) for kind in ("net", "vsock", "share", "balloon")):
        from vmm.virtio.options import add_devices

        add_devices(machine, settings, folder)
    if settings.get("smbios"):
        _tell_firmware(machine, settings["smbios"])
    if settings["devices"]:
        from vmm.userdev import add_user_device

        for text in settings["devices"]:
            add_user_device(machine, os.path.join(folder, text))


def _tell_firmware(machine: Machine, smbios: Sequence[str]) -> None:
    """Say in fw_cfg what machine this is, as QEMU does. Who is no firmware does not ask there."""
    from vmm.identity import Identity
    from vmm.system_tables import smbios_files

    fw_cfg = machine.devices["fw_cfg"]
    files = smbios_files(
        machine.memory.layout,
        cpus=len(machine.vcpus),
        cpuid=machine.hardware.cpuid[0],
        identity=Identity.read(smbios),
    )
    with machine.lock:
        for name, data in files.items():
            fw_cfg.add_file(name, data)  # type: ignore[attr-defined]
