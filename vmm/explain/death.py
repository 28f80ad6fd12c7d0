"""What is known about a guest that died or hangs: the input of an explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState
from vmm.explain.page_walk import Read
from vmm.interrupts import Interrupts
from vmm.symbols import Symbols

__all__ = ["NEVER_STARTED", "Death", "Kind", "OtherVcpu", "SeenExit", "no_memory"]

Kind = Literal[
    "shutdown",
    "fail_entry",
    "internal_error",
    "memory_fault",
    "unclaimed_access",
    "unhandled_exit",
    "timeout",
    "max_exits",
    "stopped",
    "halt",
    "device_fault",
    "panic",
]
"""shutdown: a triple fault. memory_fault: KVM_EXIT_MEMORY_FAULT. unclaimed_access: no device
answers there, and the machine is strict. timeout, max_exits: the time or the exits given to it ran
out. stopped: somebody ended the run. halt: HLT that nothing will end. device_fault: a device model
of ours raised. panic: the guest's kernel said so. The others are exits of these names,
unhandled_exit any that we do not handle."""


def no_memory(gpa: int, size: int) -> bytes:
    """Stand in for guest memory where there is none to look at.

    Raises:
        GuestAddressError: always.
    """
    raise GuestAddressError(f"no memory at {gpa:#x}")


@dataclass(frozen=True, slots=True)
class SeenExit:
    """One of the last exits. Two are equal if they are told in the same words."""

    text: str
    """All of it on one line."""
    place: str = ""
    """Where it went: "port 0x3fd (com1 LSR)"; empty if it was no access."""
    write: bool = field(default=False, compare=False)
    value: int = field(default=0, compare=False)
    meaning: str = field(default="", compare=False)
    """The value in the words of the register: "THRE|TEMT"."""
    bits: Mapping[int, str] = field(default_factory=dict, compare=False)
    """The names of the register's bits, by their masks."""


NEVER_STARTED = "was never started"


@dataclass(frozen=True, slots=True)
class OtherVcpu:
    """A vCPU beside the one that a death is of."""

    index: int
    doing: str
    """ "runs", "halts" or NEVER_STARTED."""
    cpu: CpuState


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The facts about a death. All but `kind` may be left out if they are not known."""

    kind: Kind
    cpu: CpuState | None = None
    """The vCPU's state now."""
    last_seen: CpuState | None = None
    """Its state at an earlier exit, where one was kept. kvm_amd resets a vCPU at a triple fault;
    this is then the nearest thing to the state that it died in."""
    read: Read = field(default=no_memory, repr=False)
    """Reads guest memory: (gpa, size) -> bytes; raises GuestAddressError outside of it."""
    vcpu: int = 0
    exits: int | None = None
    """How many exits there were before."""
    seconds: float | None = None
    """How long it ran."""
    backend: str = ""
    """The host's KVM module: "kvm_amd", "kvm_intel", "kvm_pvm"."""
    suberror: int = 0
    """internal_error: kvm_run.internal.suberror."""
    data: tuple[int, ...] = ()
    """internal_error: the valid part of kvm_run.internal.data."""
    hardware_reason: int = 0
    """fail_entry: hardware_entry_failure_reason. unhandled_exit of KVM_EXIT_UNKNOWN:
    hardware_exit_reason."""
    reason_name: str = ""
    """unhandled_exit: the exit's name. device_fault: the device's name. panic: what the kernel said
    of it, if anything."""
    gpa: int | None = None
    """memory_fault: the guest-physical address."""
    error: str = ""
    """device_fault: what was raised, in one line."""
    last_exits: tuple[SeenExit, ...] = ()
    """The last exits, oldest first."""
    halted: bool = False
    """The vCPU waits in HLT, in the kernel."""
    interrupts: Interrupts | None = None
    """The interrupt controllers, where the kernel has them."""
    cpus: int = 1
    """How many vCPUs the guest has."""
    others: tuple[OtherVcpu, ...] = ()
    """What the other vCPUs were doing."""
    bios: bool = False
    """The guest runs on the Python BIOS."""
    symbols: Symbols | None = field(default=None, repr=False)
    """Names for the guest's addresses."""
    notes: tuple[str, ...] = ()
    """Facts worth adding: BIOS services that were missing, ports that nobody answered."""

    @property
    def state(self) -> CpuState | None:
        """The state to explain: the one at the death, or if that was lost the one seen last."""
        return self.last_seen if self.state_was_reset and self.last_seen else self.cpu

    @property
    def state_was_reset(self) -> bool:
        """Whether the kernel reset the vCPU before we could look at it."""
        return bool(
            self.kind == "shutdown"
            and self.backend != "kvm_intel"
            and self.cpu is not None
            and self.cpu.is_reset_state
        )
