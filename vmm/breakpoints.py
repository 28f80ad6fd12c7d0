"""Breakpoints: the guest is stopped before it executes an instruction at a linear address.
Watchpoints: behind an instruction that has accessed one.

There are two kinds. Where INT3 comes to KVM (kvm_amd, kvm_intel), it is put into RAM, and there can
be any number; the guest can see it, and code that is loaded later overwrites it. Four debug
registers serve where it does not (kvm_pvm, whose guests in ring 3 of long mode do not obey them).
Which of them work is tried (`vmm.breakpoint_kinds`): on QEMU's software AMD-V, which the lab runs
on, neither may, and then a breakpoint is refused.

A vCPU that met a breakpoint makes one step without it when it goes on. For that moment an INT3 is
out of memory, and another vCPU may run past it.

Watchpoints are debug registers of their own; INT3 is no help. kvm_pvm has none that are met.

Spec: KVM API, KVM_SET_GUEST_DEBUG, "KVM_EXIT_DEBUG".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from kvm_bindings import constants as c
from vmm.endings import Ending, ending_of
from vmm.errors import ConfigError, LifecycleError
from vmm.guest_debug import EXECUTE, READS, SLOTS, WRITES, Slot
from vmm.memory import GuestMemory
from vmm.vcpu import Vcpu

__all__ = ["Breakpoint", "Breakpoints", "Kind", "Trap", "Watchpoint"]

Kind = Literal["hardware", "software"]
Trap = Literal["hardware", "software", "watch"]
"""What may stop a guest on a host: a kind of breakpoint, or a watchpoint."""
Hit = Callable[[int, int], None]

_INT3 = b"\xcc"
_NAMES: dict[Kind, str] = {"software": "no INT3", "hardware": "no debug register"}
_DEBUG = struct.Struct("<2I3Q")  # kvm_run.debug.arch: exception, pad, pc, dr6, dr7
_UNION = 32
_DB_VECTOR, _BP_VECTOR = 1, 3


class Breakpoint:
    """One breakpoint, at a linear address."""

    def __init__(self, address: int, kind: Kind, hit: Hit) -> None:
        self.address = address
        self.kind = kind
        self.hit = hit


class Watchpoint:
    """One watchpoint: `slot` is what its debug register is for."""

    def __init__(self, slot: Slot, hit: Hit) -> None:
        self.slot = slot
        self.hit = hit


class _Patch(NamedTuple):
    """An INT3 in memory."""

    gpa: int
    original: bytes


class Breakpoints:
    """The breakpoints of one machine.

    Args:
        vcpus: the machine's.
        memory: its memory.
        kinds: tells what stops a guest on this host; asked at the first breakpoint.
        step_flags: what a single step takes (KVM_GUESTDBG_*).
        in_guest: says whether a vCPU may be in the guest now.
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        memory: GuestMemory,
        *,
        kinds: Callable[[], Collection[Trap]],
        step_flags: int,
        in_guest: Callable[[Vcpu], bool],
    ) -> None:
        self._vcpus = vcpus
        self._memory = memory
        self._kinds = kinds
        self._step_flags = step_flags
        self._in_guest = in_guest
        self._at: dict[int, list[Breakpoint]] = {}
        self._watched: list[Watchpoint] = []
        self._patches: dict[int, _Patch] = {}
        self._over: dict[int, int] = {}
        """vCPUs that are about to step over the breakpoint at an address."""

    def __iter__(self) -> Iterator[Breakpoint]:
        return (point for points in self._at.values() for point in points)

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def add(self, address: int, hit: Hit, kind: Kind | None = None) -> Breakpoint:
        """Call `hit` with the vCPU's number and the address before an instruction is executed.

        It runs on the vCPU's thread and must not wait; `Machine.end` and `Machine.pause_soon` keep
        the vCPU where it is. Several at one address are of one kind.

        Args:
            address: linear; where paging is off or maps one to one, the guest-physical one.
            hit: what to do. Without a stop the guest goes on.
            kind: the one that suits the host and the place, unless given.

        Raises:
            ConfigError: there is no debug register left, no RAM for an INT3, or neither of them
                stops a guest on this host.
            LifecycleError: the machine runs; it has to stand still.
        """
        self._check_standing()
        here = self._at.get(address)
        if here:
            point = Breakpoint(address, here[0].kind, hit)
            here.append(point)
            return point
        place, kinds = self._ram_at(address), self._kinds()
        if kind is None:
            soft = "software" in kinds and (place is not None or "hardware" not in kinds)
            kind = "software" if soft else "hardware"
        if kind not in kinds:
            none = not {"software", "hardware"}.intersection(kinds)
            what = "neither INT3 nor a debug register" if none else _NAMES[kind]
            raise ConfigError(
                f"breakpoint at {address:#x}: {what} stops a guest on this host; step, or stop at "
                "an exit (a condition on RIP with one more term)"
            )
        if kind == "software":
            if place is None:
                raise ConfigError(f"breakpoint at {address:#x}: there is no RAM to put INT3 into")
            self._patches[address] = _Patch(place, self._memory.read(place, 1))
            self._memory.write(place, _INT3)
        else:
            self._check_register(f"breakpoint at {address:#x}")
        point = Breakpoint(address, kind, hit)
        self._at[address] = [point]
        self._apply_all()
        return point

    def watch(self, address: int, size: int, hit: Hit, *, reads: bool = False) -> Watchpoint:
        """Call `hit` with the vCPU's number and the address behind an instruction that has written
        to it, or with `reads` also behind one that has read it; as `add` does.

        Args:
            address: linear, a multiple of `size`.
            size: in bytes: 1, 2, 4, or in long mode 8.
            hit: what to do.
            reads: whether reads count.

        Raises:
            ConfigError: no debug register is left, or none can do that.
            LifecycleError: the machine runs; it has to stand still.
        """
        self._check_standing()
        what = f"watchpoint at {address:#x}"
        if size not in (1, 2, 4, 8) or address % size:
            raise ConfigError(f"{what}: {size} bytes; give 1, 2, 4 or 8, at a multiple of that")
        if "watch" not in self._kinds():
            raise ConfigError(
                f"{what}: no debug register stops a guest at an access on this host; step"
            )
        self._check_register(what)
        point = Watchpoint((address, READS if reads else WRITES, size), hit)
        self._watched.append(point)
        self._apply_all()
        return point

    def remove(self, point: Breakpoint | Watchpoint) -> None:
        """Take a breakpoint or a watchpoint back. One that is not there is none.

        Raises:
            LifecycleError: the machine runs; it has to stand still.
        """
        if isinstance(point, Watchpoint):
            if point in self._watched:
                self._check_standing()
                self._watched.remove(point)
                self._apply_all()
            return
        here = self._at.get(point.address, [])
        if point not in here:
            return
        self._check_standing()
        here.remove(point)
        if not here:
            del self._at[point.address]
            self._lift(point.address)
            self._patches.pop(point.address, None)
            for index in [n for n, address in self._over.items() if address == point.address]:
                del self._over[index]
            self._apply_all()

    # -- inside ---------------------------------------------------------------------------

    def _check_standing(self) -> None:
        if any(self._in_guest(vcpu) and not vcpu.on_this_thread for vcpu in self._vcpus):
            raise LifecycleError("breakpoints are changed while the machine stands still; pause it")

    def _check_register(self, what: str) -> None:
        if len(self._hardware()) == SLOTS:
            raise ConfigError(f"{what}: all {SLOTS} debug registers are taken; remove one")

    def _hardware(self, but: int | None = None) -> tuple[Slot, ...]:
        """What the debug registers are for, without the breakpoint at an address."""
        points = tuple(
            (address, EXECUTE, 1)
            for address, points in self._at.items()
            if points[0].kind == "hardware" and address != but
        )
        return points + tuple(point.slot for point in self._watched)

    def _ram_at(self, address: int) -> int | None:
        """The guest-physical address of a linear one that is in RAM."""
        found = self._vcpus[0].kvm.translate(address)
        gpa = int(found.physical_address)
        for region in self._memory:
            if found.valid and region.gpa <= gpa < region.end and region.kind == "ram":
                return gpa
        return None

    def _apply_all(self) -> None:
        for vcpu in self._vcpus:
            self._apply(vcpu)
            if self._at or self._watched:
                vcpu.on_debug = partial(self._stopped, vcpu)
                vcpu.debug.on_step = self._somebody_steps
            else:
                vcpu.on_debug = vcpu.debug.on_step = None

    def _apply(self, vcpu: Vcpu) -> None:
        over = self._over.get(vcpu.index)
        vcpu.debug.breakpoints(
            self._hardware(but=over),
            software=bool(self._patches),
            over=0 if over is None else self._step_flags,
        )

    def _lift(self, address: int) -> None:
        """Put back what an INT3 stands for, unless the guest has overwritten it."""
        patch = self._patches.get(address)
        if patch is not None and self._memory.read(patch.gpa, 1) == _INT3:
            self._memory.write(patch.gpa, patch.original)

    def _put(self, address: int) -> None:
        patch = self._patches.get(address)
        if patch is not None and self._memory.read(patch.gpa, 1) == patch.original:
            self._memory.write(patch.gpa, _INT3)

    def _somebody_steps(self, begins: bool) -> None:
        for address in self._patches:
            (self._lift if begins else self._put)(address)

    def _stopped(self, vcpu: Vcpu) -> Ending | None:
        """KVM_EXIT_DEBUG: find out whose it is. On the vCPU's thread."""
        exception, _, pc, dr6, _ = _DEBUG.unpack_from(vcpu.kvm.page, _UNION)
        watched = vcpu.debug.met(dr6) if exception == _DB_VECTOR and self._watched else ()
        over = self._over.pop(vcpu.index, None)
        if over is not None:
            if not vcpu.debug.stepping:
                self._put(over)
            self._apply(vcpu)
        if vcpu.debug.stepping:
            return ending_of(c.KVM_EXIT_DEBUG, vcpu.kvm.page, vcpu.index)
        for watch in [point for point in self._watched if point.slot in watched]:
            watch.hit(vcpu.index, watch.slot[0])
        points = self._at.get(pc)
        if over is not None and (not points or exception != _BP_VECTOR):
            return None  # the step over it is done; one at the next instruction is met there
        if points:
            self._over[vcpu.index] = pc
            self._lift(pc)
            self._apply(vcpu)
            for point in tuple(points):
                point.hit(vcpu.index, pc)
        elif exception == _BP_VECTOR and self._is_guests(vcpu, pc):
            vcpu.debug.inject_breakpoint()
        return None

    def _is_guests(self, vcpu: Vcpu, pc: int) -> bool:
        """Whether the guest has an INT3 of its own there, and it is not one just removed."""
        found = vcpu.kvm.translate(pc)
        gpa = int(found.physical_address)
        return (
            not found.valid
            or not self._memory.contains(gpa, 1)
            or self._memory.read(gpa, 1) == _INT3
        )
