"""From the ending of a run to its explanation: collects what `vmm.explain` wants to know.

The registers are taken at once. Everything else (disassembly, page walks) is worked out when
somebody asks, or, for a guest that died, before its memory goes away.
"""

from __future__ import annotations

import contextlib
from functools import cached_property

from devices.wiring import GuestAddressError
from kvm_bindings import KvmError
from kvm_bindings import constants as c
from vmm.endings import Ending
from vmm.errors import VmmError
from vmm.exits import Exit, describe
from vmm.kvm import backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmm.cpustate import CpuState
    from vmm.explain import Explanation, Kind, OtherVcpu, SeenExit
    from vmm.interrupts import Interrupts
    from vmm.machine import Machine
    from vmm.vcpu import Vcpu

__all__ = ["Autopsy"]

_LAST_EXITS = 64
_HANGS = frozenset({"timeout", "max_exits", "stopped"})
"""Endings of a guest that would have gone on."""


class Autopsy:
    """What is known about the end of one run; `explanation` puts it in words."""

    def __init__(self, machine: Machine, ending: Ending, exits: int, seconds: float) -> None:
        from vmm.cpustate import CpuState

        self.machine = machine
        self.ending = ending
        self.exits = exits
        self.seconds = seconds
        vcpu = machine.vcpus[ending.vcpu]
        self.cpu: CpuState | None = None
        # A vCPU that cannot be read is explained without its registers.
        with contextlib.suppress(KvmError):
            # A look at the registers must not finish an instruction that is pending.
            self.cpu = CpuState.from_kvm(vcpu.kvm.get_regs(), vcpu.kvm.get_sregs())
        self.last_seen = machine.last_seen(ending.vcpu)
        self.last_exits = tuple(self._say(event) for event in vcpu.last_exits(_LAST_EXITS))
        self.others = tuple(self._others(ending.vcpu))
        self.halted = False
        self.interrupts: Interrupts | None = None
        if machine.irqchip and ending.reason in _HANGS:
            with contextlib.suppress(KvmError):
                self._look_at_interrupts(vcpu)

    @cached_property
    def explanation(self) -> Explanation:
        """The explanation, worked out at the first look."""
        from vmm.explain import Death, explain

        ending = self.ending
        internal = ending.exit_reason == c.KVM_EXIT_INTERNAL_ERROR
        entry = ending.exit_reason == c.KVM_EXIT_FAIL_ENTRY
        unknown = ending.exit_reason == c.KVM_EXIT_UNKNOWN
        fault = ending.exit_reason == c.KVM_EXIT_MEMORY_FAULT
        return explain(
            Death(
                kind=self._kind(),
                cpu=self.cpu,
                last_seen=self.last_seen,
                read=self._read,
                vcpu=ending.vcpu,
                exits=self.exits,
                seconds=self.seconds,
                backend=backend(),
                suberror=ending.numbers[0] if internal else 0,
                data=ending.numbers[1:] if internal else (),
                hardware_reason=ending.numbers[0] if entry or unknown else 0,
                gpa=ending.numbers[0] if fault else None,
                reason_name=ending.detail,
                last_exits=self.last_exits,
                halted=self.halted,
                interrupts=self.interrupts,
                cpus=len(self.machine.vcpus),
                others=self.others,
                bios=self.machine.bios is not None,
                symbols=self.machine.symbols,
                notes=tuple(self._notes()),
            )
        )

    def _kind(self) -> Kind:
        reason = self.ending.reason
        if reason == "shutdown" or reason == "fail_entry" or reason == "panic":
            return reason
        if reason == "timeout" or reason == "max_exits" or reason == "stopped":
            return reason
        if self.ending.exit_reason == c.KVM_EXIT_INTERNAL_ERROR:
            return "internal_error"
        if self.ending.exit_reason == c.KVM_EXIT_MEMORY_FAULT:
            return "memory_fault"
        if self.ending.exit_reason in (c.KVM_EXIT_IO, c.KVM_EXIT_MMIO):
            return "unclaimed_access"
        return "unhandled_exit"

    def _read(self, gpa: int, size: int) -> bytes:
        try:
            return self.machine.memory.read(gpa, size)
        except VmmError as error:  # closed by now, or not memory
            raise GuestAddressError(str(error)) from None

    def _others(self, index: int) -> Iterator[OtherVcpu]:
        """What the other vCPUs are doing, where they can be read."""
        from vmm.cpustate import CpuState
        from vmm.explain.death import NEVER_STARTED, OtherVcpu

        for vcpu in self.machine.vcpus:
            if vcpu.index == index:
                continue
            with contextlib.suppress(KvmError):
                doing = {
                    c.KVM_MP_STATE_HALTED: "halts",
                    c.KVM_MP_STATE_UNINITIALIZED: NEVER_STARTED,
                }.get(vcpu.kvm.get_mp_state(), "runs")
                cpu = CpuState.from_kvm(vcpu.kvm.get_regs(), vcpu.kvm.get_sregs())
                yield OtherVcpu(vcpu.index, doing, cpu)

    def _look_at_interrupts(self, vcpu: Vcpu) -> None:
        from vmm.interrupts import Interrupts

        self.halted = vcpu.kvm.get_mp_state() == c.KVM_MP_STATE_HALTED
        base = 0 if self.cpu is None else self.cpu.apic_base
        self.interrupts = Interrupts.read(self.machine.vm, vcpu.kvm, base)

    def _say(self, event: Exit) -> SeenExit:
        """An exit in the words of the device that it went to."""
        from vmm.decode import decode_access, register_at
        from vmm.explain import SeenExit

        if event.reason == c.KVM_EXIT_IO:
            bus, unit = self.machine.pio, "port"
        elif event.reason == c.KVM_EXIT_MMIO:
            bus, unit = self.machine.mmio, "memory"
        else:
            return SeenExit(describe(event))
        name, meaning, register = bus.name_at(event.address), None, None
        mapping = bus.find(event.address)
        if mapping is not None and event.count == 1:
            access = (mapping.device, event.address - mapping.base, event.size, event.write)
            meaning = decode_access(*access, event.value)
            register = register_at(*access)
        if mapping is None:
            return SeenExit(
                describe(event, name), f"{unit} {event.address:#x} (no device)", event.write,
                event.value,
            )  # fmt: skip
        front, _, words = (meaning or "").partition(" = ")
        said = front if words == f"{event.value:#x}" else meaning or ""
        return SeenExit(
            describe(event, f"{name} {said}".rstrip()),
            f"{unit} {event.address:#x} ({f'{name} {front}'.strip()})",
            event.write,
            event.value,
            words if register is not None and register.fields else "",
            {} if register is None else {field.mask: field.name for field in register.fields},
        )

    def _notes(self) -> list[str]:
        machine = self.machine
        notes = [*machine.notes, *(() if machine.bios is None else machine.bios.notes)]
        if machine.started is not None:
            start = machine.started
            notes.append(f"the guest was started at {start.entry:#x} in {start.mode} mode")
        for bus in (machine.pio, machine.mmio):
            for (address, wrote), count in bus.unclaimed.most_common(4):
                verb = "written to" if wrote else "read"
                times = "once" if count == 1 else f"{count} times"
                notes.append(f"{bus.name} {address:#x}, which no device claims, was {verb} {times}")
        return notes
