"""Putting a snapshot's state into a new machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmm.errors import ConfigError, SnapshotError
from vmm.snapshot.chips import put_chips, put_clock
from vmm.snapshot.cpu import put_vcpu
from vmm.snapshot.generation import renew_generation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from vmm.machine import Machine
    from vmm.snapshot.snapshot import Snapshot

    Sink: TypeAlias = Callable[[bytes], None] | None
    Furnish: TypeAlias = Callable[[Machine, Sink], None]

__all__ = ["put_others", "put_state"]


def put_state(
    machine: Machine,
    snapshot: Snapshot,
    furnish: Furnish | None,
    sink: Sink,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Make a new machine of the same configuration what the snapshot was taken of.

    Args:
        machine: has run nothing, and has no devices but those that every machine has.
        snapshot: the state.
        furnish: gives a machine its devices; None where it had none but the program's own.
        sink: gets the guest's output.
        settings: what the machine is furnished by; those of the snapshot unless given.

    Raises:
        SnapshotError: some of the state does not fit here.
    """
    if snapshot.image.fd < 0:
        raise SnapshotError("the snapshot is closed: its memory is gone")
    machine.complete = False
    machine.settings = dict(snapshot.settings if settings is None else settings)
    machine.furnish = furnish
    machine.saved_states.update({name: dict(state) for name, state in snapshot.devices.items()})
    # Devices find their lines as they held them, so that none is driven a second time.
    machine.hardware.lines.update(snapshot.vm.lines)
    for place in machine.devices.places():
        machine.claim(place)
    if furnish is not None:
        furnish(machine, sink)
    snapshot.image.put(machine.memory)
    hardware = machine.hardware
    hardware.map_new_regions()
    put_chips(machine.vm, snapshot.vm)
    for vcpu, state in zip(machine.vcpus, snapshot.vcpus, strict=True):
        if hardware.cpuid[vcpu.index] != state.cpuid:
            vcpu.kvm.set_cpuid2(state.cpuid)
            hardware.cpuid[vcpu.index] = state.cpuid
        put_vcpu(vcpu.kvm, state, has=hardware.has)
        vcpu.regs.forget()
        vcpu.sregs.forget()
    put_clock(machine.vm, snapshot.vm)
    hardware.registers_were_set()
    put_others(machine, snapshot.others)
    renew_generation(machine)
    machine.complete = True
    for worker in machine.pausables:  # what came before the snapshot may wait for them
        worker.pause()
        worker.resume()


def put_others(machine: Machine, others: Mapping[str, Any]) -> None:
    """Put back what belongs to no device.

    Raises:
        SnapshotError: it does not fit.
    """
    try:
        if machine.bios is not None and "bios" in others:
            machine.bios.load(others["bios"])
            for number, disk in machine.bios.host.disks.items():
                disk.load(others["disks"][str(number)])
        if others.get("virtio_disks"):
            from vmm.virtio.disks import load_disks

            load_disks(machine, others["virtio_disks"])
        typed = bytes.fromhex(others.get("typed", ""))
    except (KeyError, TypeError, ValueError, OSError, ConfigError) as error:
        raise SnapshotError(f"the state of the BIOS and its disks: {error}") from None
    machine.console.wait_with(typed)
