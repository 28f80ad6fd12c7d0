"""The debug control of a vCPU: steps, breakpoints and watchpoints, which KVM has one word for.

Whoever wants something of it asks here, so that a step does not undo a breakpoint. While somebody
steps there are no debug registers: the breakpoint at the instruction itself would be met instead.

Spec: KVM API, KVM_SET_GUEST_DEBUG; AMD64 APM vol. 2, "Debug Registers".
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_bindings import constants as c
from kvm_bindings import structs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

__all__ = ["EXECUTE", "READS", "SLOTS", "WRITES", "GuestDebug", "Slot"]

SLOTS = 4
"""Debug registers for addresses: DR0 to DR3."""

Slot = tuple[int, int, int]
"""What one of them is for: a linear address, EXECUTE, WRITES or READS, and a size in bytes."""

EXECUTE, WRITES, READS = 0, 1, 3
"""DR7's R/W field: instructions; writes; reads and writes."""

_LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}
"""DR7's LEN field, by bytes."""

_DR7_ONES = 0x400
_GLOBAL = 2
"""DR7's enable bit G0."""


class _Kvm(Protocol):
    def set_guest_debug(self, debug: structs.kvm_guest_debug) -> None: ...


class GuestDebug:
    """What is wanted of one vCPU's debug control."""

    def __init__(self, kvm: _Kvm) -> None:
        self._kvm = kvm
        self._step = 0
        self._over = 0
        self._hardware: tuple[Slot, ...] = ()
        self._software = False
        self.on_step: Callable[[bool], None] | None = None
        """Told before stepping begins (True), and when it has ended."""

    @property
    def stepping(self) -> bool:
        """Whether somebody steps, other than over a breakpoint."""
        return bool(self._step)

    def step(self, flags: int) -> None:
        """Stop behind each instruction from now on (KVM_GUESTDBG_SINGLESTEP and what goes with
        it), or with 0 no more."""
        if self.on_step is not None and bool(flags) != self.stepping:
            self.on_step(bool(flags))
        self._step = flags
        self._apply()

    def breakpoints(self, hardware: tuple[Slot, ...], *, software: bool, over: int = 0) -> None:
        """Be stopped by these debug registers, and by INT3 where `software` says so; `over` are
        the flags of a step over the breakpoint that was just met."""
        self._hardware, self._software, self._over = hardware, software, over
        self._apply()

    def met(self, dr6: int) -> tuple[Slot, ...]:
        """The debug registers that DR6 tells of (its bits B0 to B3)."""
        return tuple(slot for n, slot in enumerate(self._hardware) if dr6 >> n & 1)

    def inject_breakpoint(self) -> None:
        """Give the guest the breakpoint exception that was caught: it is its own."""
        self._apply(c.KVM_GUESTDBG_INJECT_BP)

    def _apply(self, more: int = 0) -> None:
        hardware = () if self._step else self._hardware
        control = self._step | self._over | more
        control |= c.KVM_GUESTDBG_USE_HW_BP if hardware else 0
        control |= c.KVM_GUESTDBG_USE_SW_BP if self._software else 0
        wanted = structs.kvm_guest_debug(control | c.KVM_GUESTDBG_ENABLE if control else 0)
        for number, (address, kind, size) in enumerate(hardware):
            wanted.arch.debugreg[number] = address
            field = kind | _LENGTHS[size] << 2
            wanted.arch.debugreg[7] |= _DR7_ONES | _GLOBAL << 2 * number | field << 16 + 4 * number
        self._kvm.set_guest_debug(wanted)
