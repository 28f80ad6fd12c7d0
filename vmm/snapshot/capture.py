"""Taking a snapshot of a machine.

In this order, while all vCPUs stand between two instructions: what an exit left pending is
finished; then, with the device lock held, vCPUs, chips and clock, devices, and memory last, because
finishing and saving may still write to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vmm.bus import FunctionPort
from vmm.device_states import save_state
from vmm.errors import LifecycleError, SnapshotError
from vmm.kvm import backend
from vmm.lifecycle import Phase
from vmm.snapshot.chips import take_chips
from vmm.snapshot.cpu import msrs_to_save, take_vcpu
from vmm.snapshot.ram import MemoryImage, copy_memory, image_regions
from vmm.snapshot.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine

__all__ = ["held", "standing_still", "take_snapshot", "take_state"]

_HOLD = "snapshot"


def take_snapshot(machine: Machine) -> Snapshot:
    """Take a snapshot into memory of its own.

    Raises:
        SnapshotError: something of the machine cannot be saved; the message names it.
        LifecycleError: the machine is closed or failed.
    """
    with held(machine):
        fd = os.memfd_create("glassvm-snapshot", os.MFD_CLOEXEC)
        try:
            regions = image_regions(machine.memory)
            os.ftruncate(fd, sum(region.size for region in regions))
            snapshot = take_state(machine, MemoryImage(fd, 0, regions))
            copy_memory(machine.memory, fd, 0)
        except BaseException:
            os.close(fd)
            raise
    return snapshot


@contextmanager
def held(machine: Machine) -> Iterator[None]:
    """Have all vCPUs stand between two instructions, with nothing pending, and no device at work.

    Raises:
        LifecycleError: the machine is closed or failed; or a device asks for it.
    """
    if machine.phase in (Phase.STOPPED, Phase.FAILED):
        raise LifecycleError(f"the machine is {machine.phase.value}: it has no state to save")
    holding = machine.pause(hold=_HOLD)
    try:
        if not holding:
            for vcpu in machine.vcpus:
                vcpu.settle()
        machine.hardware.carry_out_coalesced()
        for vcpu in machine.vcpus:
            vcpu.regs.flush()
            vcpu.sregs.flush()
        with standing_still(machine), machine.lock:
            yield
    finally:
        machine.resume(hold=_HOLD)


@contextmanager
def standing_still(machine: Machine) -> Iterator[None]:
    """Have nothing at work beside the vCPUs; what is under way is finished first."""
    with ExitStack() as stack:
        for worker in machine.pausables:
            worker.pause()
            stack.callback(worker.resume)
        yield


def take_state(machine: Machine, image: MemoryImage) -> Snapshot:
    """Take everything but memory, of a machine that is `held`.

    Raises:
        SnapshotError: something cannot be saved.
    """
    vm, hardware = machine.vm, machine.hardware
    vcpus = machine.vcpus
    msrs = hardware.saved_msrs
    if not msrs:
        msrs = hardware.saved_msrs = msrs_to_save(hardware.kvm, vcpus[0].kvm)
    has = hardware.has
    states = tuple(
        take_vcpu(vcpu.kvm, cpuid, msrs, lapic=machine.irqchip, has=has)
        for vcpu, cpuid in zip(vcpus, hardware.cpuid, strict=True)
    )
    return Snapshot(
        settings=dict(machine.settings),
        backend=backend(),
        vcpus=states,
        vm=take_chips(vm, irqchip=machine.irqchip, lines=hardware.lines, has=has),
        devices=_devices(machine),
        others=_others(machine),
        image=image,
        exits=sum(vcpu.exits for vcpu in vcpus),
    )


def _devices(machine: Machine) -> dict[str, dict[str, Any]]:
    """The states of the devices that there are; those that nobody has wanted yet have none."""
    found, refused = {}, []
    for device in machine.devices.made():
        if isinstance(device, FunctionPort):
            continue
        try:
            found[device.name] = save_state(device)
        except SnapshotError as error:
            refused.append(str(error))
    if refused:
        raise SnapshotError("; ".join(refused))
    return found


def _others(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = {"typed": machine.console.unsent.hex()}
    if machine.bios is not None:
        found["bios"] = machine.bios.save()
        disks = machine.bios.host.disks
        found["disks"] = {str(number): disk.save() for number, disk in disks.items()}
    if machine.virtio:
        from vmm.virtio.disks import save_disks

        found["virtio_disks"] = save_disks(machine)
    return found
