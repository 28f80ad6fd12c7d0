"""From the ending of a run to its explanation: collects what `vmm.explain` wants to know.

The registers are taken at once. Everything else (disassembly, page walks) is worked out when
somebody asks, or, for a guest that died, before its memory goes away.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING

from devices.protocols import GuestAddressError
from kvm_bindings import KvmError
from kvm_bindings import constants as c
from vmm.endings import Ending
from vmm.errors import VmmError
from vmm.exits import Exit, describe
from vmm.kvm import backend

if TYPE_CHECKING:
    from vmm.cpustate import CpuState
    from vmm.explain import Explanation, Kind
    from vmm.machine import Machine

__all__ = ["Autopsy", "autopsy"]

_SHOWN_EXITS = 12
_EXPLAINED = frozenset({"shutdown", "fail_entry", "internal_error", "timeout"})


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
        self.last_exits = tuple(self._say(event) for event in vcpu.last_exits(_SHOWN_EXITS))

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
                notes=tuple(self._notes()),
            )
        )

    def _kind(self) -> Kind:
        reason = self.ending.reason
        if reason == "shutdown" or reason == "timeout" or reason == "fail_entry":
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

    def _say(self, event: Exit) -> str:
        if event.reason == c.KVM_EXIT_IO:
            return describe(event, self.machine.pio.name_at(event.address))
        if event.reason == c.KVM_EXIT_MMIO:
            return describe(event, self.machine.mmio.name_at(event.address))
        return describe(event)

    def _notes(self) -> list[str]:
        machine = self.machine
        notes = [] if machine.bios is None else list(machine.bios.notes)
        if machine.started is not None:
            start = machine.started
            notes.append(f"the guest was started at {start.entry:#x} in {start.mode} mode")
        for bus in (machine.pio, machine.mmio):
            for (address, wrote), count in bus.unclaimed.most_common(4):
                verb = "written to" if wrote else "read"
                times = "once" if count == 1 else f"{count} times"
                notes.append(f"{bus.name} {address:#x}, which no device claims, was {verb} {times}")
        return notes


def autopsy(machine: Machine, ending: Ending, exits: int, seconds: float) -> Autopsy | None:
    """Collect what is known, if the ending is one that wants explaining."""
    if ending.reason not in _EXPLAINED:
        return None
    return Autopsy(machine, ending, exits, seconds)
