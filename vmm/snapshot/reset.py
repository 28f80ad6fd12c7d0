"""Bringing a machine back to a snapshot again and again: only pages that were written are copied.

The first time, the snapshot's memory is mapped privately over the machine's and KVM begins to log
which pages the guest writes to; what the host writes, `GuestMemory` notes. From then on the written
pages are copied back, and the rest of the state is put back by requests that were prepared once.

Spec: KVM API, KVM_GET_DIRTY_LOG.
"""

from __future__ import annotations

import ctypes
import mmap

from kvm_bindings import ioctls, structs
from kvm_bindings.calls import Prepared, pointer_to
from kvm_bindings.vcpu import pack_msrs
from vmm.bus import FunctionPort
from vmm.config import MachineConfig
from vmm.device_states import rich_state
from vmm.errors import LifecycleError, SnapshotError
from vmm.layout import PAGE_SIZE
from vmm.lifecycle import Phase
from vmm.snapshot.capture import standing_still
from vmm.snapshot.chips import put_chips, put_clock
from vmm.snapshot.put import put_others

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from devices.protocols import Device
    from kvm_bindings.ioctls import Ioctl
    from vmm.machine import Machine
    from vmm.snapshot.cpu import VcpuState
    from vmm.snapshot.snapshot import Snapshot

__all__ = ["Reset"]

_PLAIN = {
    "mp_state": ("KVM_SET_MP_STATE", "kvm_mp_state"),
    "regs": ("KVM_SET_REGS", "kvm_regs"),
    "sregs": ("KVM_SET_SREGS", "kvm_sregs"),
    "xcrs": ("KVM_SET_XCRS", "kvm_xcrs"),
    "debugregs": ("KVM_SET_DEBUGREGS", "kvm_debugregs"),
    "lapic": ("KVM_SET_LAPIC", "kvm_lapic_state"),
    "events": ("KVM_SET_VCPU_EVENTS", "kvm_vcpu_events"),
}
_ORDER = ("mp_state", "regs", "sregs", "xsave", "xcrs", "debugregs", "lapic", "nested", "events")


class Reset:
    """Brings one machine back to one snapshot.

    Raises:
        SnapshotError: the machine is of another kind than the snapshot's, or others write to its
            memory unseen.
        LifecycleError: the machine runs, is closed or has failed.
    """

    def __init__(self, machine: Machine, snapshot: Snapshot) -> None:
        _check(machine, snapshot)
        self.snapshot = snapshot
        self._machine = machine
        self._vcpus = [
            (vcpu, Prepared(vcpu.kvm.fd, _requests(state)))
            for vcpu, state in zip(machine.vcpus, snapshot.vcpus, strict=True)
        ]
        self._hardware, self._memory = machine.hardware, machine.memory
        self._devices: dict[str, tuple[Device, Any]] = {}
        self._chips = bool(snapshot.vm.parts)
        self._others = any(snapshot.others.values())
        with standing_still(machine):
            snapshot.image.put(machine.memory)
        size = sum(region.size for region in snapshot.image.regions)
        self._image = memoryview(
            mmap.mmap(
                snapshot.image.fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ,
                offset=snapshot.image.offset,
            )
        )  # fmt: skip
        machine.memory.written = set()
        self._ram = [
            (region, machine.memory.ram_offset(region), bytearray(-(-region.size >> 15) * 8))
            for _, region in machine.hardware.log_dirty_pages(True)
        ]
        self._read_log = Prepared(machine.vm.fd, self._log_requests())
        self._read_log()  # what was written while it was switched on

    def __call__(self) -> None:
        """Bring the machine back; it can then run from there."""
        phase = self._machine.phase
        if phase is not Phase.PAUSED and phase is not Phase.CREATED:
            raise LifecycleError(f"the machine is {phase.value}: it cannot be reset now")
        if self._machine.pausables:
            with standing_still(self._machine):
                self._bring_back()
        else:  # as is most often so; it is done thousands of times a second
            self._bring_back()

    def _bring_back(self) -> None:
        machine, snapshot = self._machine, self.snapshot
        for vcpu, _ in self._vcpus:
            vcpu.settle()
        self._hardware.carry_out_coalesced()  # they were made before, and are not to come after
        self._copy_back()
        if self._chips:
            put_chips(machine.vm, snapshot.vm)
        for vcpu, put in self._vcpus:
            put()
            vcpu.regs.forget()
            vcpu.sregs.forget()
        if self._chips:
            put_clock(machine.vm, snapshot.vm)
        self._hardware.registers_were_set()
        self._put_devices()

    def close(self) -> None:
        """Stop logging."""
        self._image.release()

    def _copy_back(self) -> None:
        image, written = self._image, self._memory.written
        self._read_log()
        for region, offset, bitmap in self._ram:
            view = region.view
            for page in _pages(bitmap):
                at = page * PAGE_SIZE
                view[at : at + PAGE_SIZE] = image[offset + at : offset + at + PAGE_SIZE]
            if written:
                first = region.gpa // PAGE_SIZE
                for page in written:
                    at = (page - first) * PAGE_SIZE
                    if 0 <= at < region.size:
                        view[at : at + PAGE_SIZE] = image[offset + at : offset + at + PAGE_SIZE]
        if written:
            written.clear()

    def _log_requests(self) -> list[tuple[Ioctl, Any]]:
        slots = [slot for slot, _ in self._machine.hardware.log_dirty_pages(True)]
        found: list[tuple[Ioctl, Any]] = []
        for slot, (_, _, bitmap) in zip(slots, self._ram, strict=True):
            address = ctypes.addressof(pointer_to(bitmap))
            found.append((ioctls.KVM_GET_DIRTY_LOG, structs.kvm_dirty_log(slot, 0, address)))
        return found

    def _put_devices(self) -> None:
        machine, states = self._machine, self.snapshot.devices
        with machine.lock:
            lines = self._hardware.lines
            lines.clear()
            lines.update(self.snapshot.vm.lines)
            for device in machine.devices.made():
                if isinstance(device, FunctionPort):
                    continue
                known = self._devices.get(device.name)
                if known is None or known[0] is not device:
                    data = states.get(device.name)
                    state = None if data is None else rich_state(device, data)
                    known = self._devices[device.name] = (device, state)
                if known[1] is None:  # nobody had wanted it yet
                    device.reset()
                elif states[device.name]["fields"]:
                    device.load(known[1])  # type: ignore[attr-defined]
        if self._others or machine.console.waiting:
            put_others(machine, self.snapshot.others)


def _check(machine: Machine, snapshot: Snapshot) -> None:
    if snapshot.image.fd < 0:
        raise SnapshotError("the snapshot is closed: its memory is gone")
    if machine.memory.unseen_writers:
        names = ", ".join(machine.memory.unseen_writers)
        raise SnapshotError(
            f"the machine cannot be reset: what {names} writes to its memory is noted nowhere; "
            "make a new machine of the snapshot (vmm.restore)"
        )
    for name in MachineConfig._fields:
        have, wanted = machine.settings.get(name), snapshot.settings.get(name)
        if have != wanted:
            raise SnapshotError(
                f"the snapshot is of another machine: {name} is {wanted} there and {have} here"
            )


def _requests(state: VcpuState) -> list[tuple[Ioctl, Any]]:
    """The requests that put a vCPU's state back, ready to be made."""
    found: list[tuple[Ioctl, Any]] = []
    for name in _ORDER:
        if name == "nested":  # MSRs come before it
            found.append((ioctls.KVM_SET_MSRS, pointer_to(pack_msrs(state.msrs.items()))))
        data = state.parts.get(name)
        if data is None:
            continue
        if name == "xsave":
            found.append((ioctls.KVM_SET_XSAVE, pointer_to(bytearray(data))))
        elif name == "nested":
            found.append((ioctls.KVM_SET_NESTED_STATE, pointer_to(bytearray(data))))
        else:
            request, kind = _PLAIN[name]
            structure = getattr(structs, kind).from_buffer_copy(data)
            found.append((getattr(ioctls, request), structure))
    return found


def _pages(bitmap: bytearray) -> list[int]:
    """The numbers of the bits that are set."""
    found = []
    for start in range(0, len(bitmap), 512):
        piece = bitmap[start : start + 512]
        left = int.from_bytes(piece, "little")
        while left:
            low = left & -left
            found.append(start * 8 + low.bit_length() - 1)
            left ^= low
    return found
