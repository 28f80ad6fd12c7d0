"""The debug control of a vCPU: single steps and breakpoints, which KVM has one word for.

Whoever wants something of it asks here, so that a step does not undo a breakpoint. While somebody
steps there are no hardware breakpoints: the one at the instruction itself would be met instead.

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

__all__ = ["SLOTS", "GuestDebug"]

SLOTS = 4
"""Hardware breakpoints: DR0 to DR3."""

_DR7_ONES = 0x400
_GLOBAL = 2
"""DR7's enable bit G0. Zeros elsewhere: an instruction, one byte."""


class _Kvm(Protocol):
    def set_guest_debug(self, debug: structs.kvm_guest_debug) -> None: ...


class GuestDebug:
    """What is wanted of one vCPU's debug control."""

    def __init__(self, kvm: _Kvm) -> None:
        self._kvm = kvm
        self._step = 0
        self._over = 0
        self._hardware: tuple[int, ...] = ()
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

    def breakpoints(self, hardware: tuple[int, ...], *, software: bool, over: int = 0) -> None:
        """Be stopped at these linear addresses, and by INT3 where `software` says so; `over` are
        the flags of a step over the one that was just met."""
        self._hardware, self._software, self._over = hardware, software, over
        self._apply()

    def inject_breakpoint(self) -> None:
        """Give the guest the breakpoint exception that was caught: it is its own."""
        self._apply(c.KVM_GUESTDBG_INJECT_BP)

    def _apply(self, more: int = 0) -> None:
        hardware = () if self._step else self._hardware
        control = self._step | self._over | more
        control |= c.KVM_GUESTDBG_USE_HW_BP if hardware else 0
        control |= c.KVM_GUESTDBG_USE_SW_BP if self._software else 0
        wanted = structs.kvm_guest_debug(control | c.KVM_GUESTDBG_ENABLE if control else 0)
        for slot, address in enumerate(hardware):
            wanted.arch.debugreg[slot] = address
            wanted.arch.debugreg[7] |= _DR7_ONES | _GLOBAL << 2 * slot
        self._kvm.set_guest_debug(wanted)
