"""Storage, entropy and console as virtio devices: from what options say to devices in a machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping

from devices.virtio.blk import Blk
from vmm.errors import ConfigError
from vmm.host.block import BlockFile
from vmm.host.pmem_file import PmemFile
from vmm.virtio.disk_options import DiskSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from devices.virtio.console import VirtioConsole
    from vmm.machine import Machine
    from vmm.virtio.place import VirtioPlace

__all__ = ["add_console", "add_disk", "add_plain_devices", "load_disks", "save_disks"]


def add_plain_devices(
    machine: Machine, settings: Mapping[str, Any], *, private: bool, folder: str, terminal: bool
) -> None:
    """Give a machine the disks, the entropy source and the console that its settings ask for.

    Args:
        machine: has interrupt controllers, without which these devices are of little use.
        settings: pmem, disks (those of a boot sector are the BIOS's), rng and virtio_console of
            `vmm.launch.boot`.
        private: what the guest writes to its disks is its own, and gone with it.
        folder: what relative names of files are relative to; the current one unless given.
        terminal: the console is a terminal, whose size the guest is told.

    Raises:
        ConfigError: a disk cannot be had.
    """
    if settings.get("pmem"):
        # Before whatever is told once where memory lies.
        from vmm.virtio.pmem import add_pmem

        for text in settings["pmem"]:
            add_pmem(machine, text, private=private, folder=folder)
    for text in () if settings["bios"] else settings["disks"]:
        add_disk(machine, text, private=private, folder=folder)
    if settings.get("rng"):
        from devices.virtio.rng import Rng

        machine.add_virtio(Rng())
    if settings.get("virtio_console"):
        add_console(machine, terminal=terminal)


def add_disk(
    machine: Machine, text: str, *, private: bool = False, folder: str = ""
) -> VirtioPlace:
    """Give a machine a virtio disk; the first is /dev/vda to Linux.

    Args:
        machine: whose.
        text: what stands behind `--disk` (`vmm.virtio.disk_options`).
        private: what the guest writes is kept for this machine only, also where the text says
            that it goes to the file.
        folder: what a relative name is relative to; the current one unless given.

    Raises:
        ConfigError: the text says nothing, or the file cannot be had.
    """
    spec = DiskSpec(text).within(folder)
    if spec.socket or spec.found_format() != "raw":
        from vmm.virtio.served_disks import add_served_disk

        return add_served_disk(machine, spec)
    limit = spec.limit()
    access = "private" if private and spec.access == "writable" else spec.access
    disk = BlockFile(spec.path, access=access, serial=spec.serial)
    machine.closers.append(disk.close)
    later = machine.events.call_later if limit is not None else None
    return machine.add_virtio(Blk(disk, queues=spec.queues, limit=limit, later=later))


def add_console(machine: Machine, *, terminal: bool = False) -> VirtioPlace:
    """Give a machine a virtio console (hvc0 to Linux) that is its console as well: it is offered
    input before the serial port is."""
    from devices.virtio.console import ConsolePort, VirtioConsole

    console = machine.console
    size = (80, 25)
    if terminal:
        try:
            size = os.get_terminal_size(1)
        except OSError:
            terminal = False
    device = VirtioConsole([ConsolePort(console.write, console.offer, console=True)], size=size)
    place = machine.add_virtio(device)
    console.add_taker(device.receive)
    if terminal and threading.current_thread() is threading.main_thread():
        _follow_size(machine, device)
    return place


def _follow_size(machine: Machine, device: VirtioConsole) -> None:
    """Tell the guest whenever the terminal's size changes. A handler of signals may strike in the
    middle of anything, so it only wakes the host-events thread."""
    changed = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def resize() -> None:
        os.eventfd_read(changed)
        with contextlib.suppress(OSError), machine.lock:
            device.resize(*os.get_terminal_size(1))

    before = signal.signal(signal.SIGWINCH, lambda *_: os.eventfd_write(changed, 1))
    machine.events.watch(changed, resize)

    def stop() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGWINCH, before)
            machine.events.unwatch(changed)
            os.close(changed)

    machine.closers.append(stop)


def save_disks(machine: Machine) -> dict[str, Any]:
    """What the machine's virtio disks hold beside their files, by name, as JSON has it."""
    return {name: disk.save() for name, disk in _disks(machine).items()}


def load_disks(machine: Machine, saved: Mapping[str, Any]) -> None:
    """Put back what `save_disks` gave.

    Raises:
        ConfigError: a disk is another one, or missing.
    """
    for name, disk in _disks(machine).items():
        try:
            disk.load(saved[name])
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ConfigError(f"the state of the disk {name}: {error}") from None


def _disks(machine: Machine) -> dict[str, BlockFile | PmemFile]:
    disks = {place.name: getattr(place.device, "disk", None) for place in machine.virtio}
    return {n: disk for n, disk in disks.items() if isinstance(disk, BlockFile | PmemFile)}
