"""One instruction of one vCPU.

KVM single-steps with KVM_SET_GUEST_DEBUG, which is on for the length of a step only. An access
that the instruction makes is an exit before it is the end of the step: it is handled, and the vCPU
settled while stepping is still on. Interrupts are held back where KVM can do that: a guest's timers
run on while somebody thinks, and every step would end in a handler.

Where KVM emulates the instruction, the end of the step takes the place of the exit for HLT. So,
without interrupt controllers, a step that got behind a HLT is taken for that exit.

kvm_pvm leaves the exception of a step in ring 3 of long mode to the guest, for which it is a
shutdown, with the registers as they are behind the step.

Spec: KVM API, KVM_SET_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG2; AMD64 APM vol. 2, Debug-Status
Register (DR6).
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_bindings import constants as c
from vmm.endings import Ending
from vmm.exits import Exit, pending_access
from vmm.kvm import backend
from vmm.vcpu import Vcpu

__all__ = ["Stepper"]

_EXIT_REASON = slice(8, 12)
"""Spec: KVM API, "The kvm_run structure"."""
_DB_VECTOR = 1
_DR6_BS = 1 << 14
_CR0_PE = 1


class Stepper:
    """Makes single steps of a machine's vCPUs.

    Args:
        check_extension: the VM's, as KVM_CHECK_EXTENSION is asked.
        halts: says whether a HLT is at a guest-physical address that would end the run: without
            the interrupt controllers in KVM.
    """

    def __init__(self, check_extension: Callable[[int], int], halts: Callable[[int], bool]) -> None:
        known = check_extension(c.KVM_CAP_SET_GUEST_DEBUG2)
        self.flags = (
            c.KVM_GUESTDBG_ENABLE | c.KVM_GUESTDBG_SINGLESTEP | known & c.KVM_GUESTDBG_BLOCKIRQ
        )
        """What is switched on for a step, as far as this KVM knows it (KVM_GUESTDBG_*)."""
        self._halts = halts

    def instructions(
        self, vcpu: Vcpu, until: Callable[[Vcpu], bool]
    ) -> tuple[Exit | None, Ending | None]:
        """Run instructions on the calling thread, with interrupts let in, until `until` says True
        behind one, or the run is to end.

        Returns:
            As `one_instruction` does, of the last one.

        Raises:
            DeviceFault: a device raised.
        """
        while True:
            event, ending = self.one_instruction(vcpu, self.flags & ~c.KVM_GUESTDBG_BLOCKIRQ)
            if ending is not None or until(vcpu):
                return event, ending

    def again(self, vcpu: Vcpu, behind: Callable[[bool], bool]) -> Ending | None:
        """Run instructions that the guest has run before, until `behind` says True after one: it is
        told whether that made an exit. There is no HLT among them that ended the run, so that none
        is looked for, which would take as long as the steps.

        Returns:
            What ended the guest, which then does not do the same again; else None.

        Raises:
            DeviceFault: a device raised.
        """
        vcpu.settle()
        try:
            while True:
                vcpu.regs.flush()
                vcpu.sregs.flush()
                vcpu.debug.step(self.flags)  # each time: KVM steps from where RIP is then
                ending = vcpu.execute(vcpu.exits + 1)
                made_exit = vcpu.unsettled
                vcpu.settle()
                if ending is not None and not _is_end_of_step(vcpu, ending.exit_reason):
                    return ending
                if behind(made_exit):
                    return None
        finally:
            vcpu.debug.step(0)

    def one_instruction(
        self, vcpu: Vcpu, flags: int | None = None
    ) -> tuple[Exit | None, Ending | None]:
        """Run one instruction on the calling thread, or one iteration of a repeated one. The vCPU
        stands still. `flags` are others than `self.flags`.

        Returns:
            The exit that it made, after it was handled (None where it made none), and what it ended
            the run with.

        Raises:
            DeviceFault: a device raised.
        """
        before = vcpu.regs.rip  # settles it as well
        if self._at_halt(vcpu, before):
            # Not entered: on kvm_pvm a step over HLT is told as a step, and as HLT later on.
            vcpu.regs.rip = before + 1
            vcpu.exits += 1
            halt = Ending("halt", vcpu.index, exit_reason=c.KVM_EXIT_HLT)
            return Exit(c.KVM_EXIT_HLT, vcpu.index), halt
        # Before: KVM steps from where RIP is when it is told to, and drops the step of a new RIP.
        vcpu.regs.flush()
        vcpu.sregs.flush()
        vcpu.debug.step(self.flags if flags is None else flags)
        try:
            ending = vcpu.execute(vcpu.exits + 1)
            event = None
            if ending is None and vcpu.unsettled:
                reason = int.from_bytes(vcpu.kvm.page[_EXIT_REASON], "little")
                event = pending_access(reason, vcpu.kvm.page, vcpu.index)
                vcpu.settle()
            elif ending is not None and _is_end_of_step(vcpu, ending.exit_reason):
                ending = None
            if ending is not None and ending.exit_reason >= 0:
                event = Exit(ending.exit_reason, vcpu.index)
            return event, ending
        finally:
            vcpu.debug.step(0)

    def _at_halt(self, vcpu: Vcpu, rip: int) -> bool:
        """Whether the next instruction is an HLT that ends the run."""
        sregs = vcpu.sregs
        if sregs.cr0 & _CR0_PE and sregs.ss.dpl:
            return False  # not allowed: it faults
        found = vcpu.kvm.translate(sregs.cs.base + rip)
        return bool(found.valid) and self._halts(found.physical_address)


def _is_end_of_step(vcpu: Vcpu, reason: int) -> bool:
    if reason == c.KVM_EXIT_SHUTDOWN and backend() == "kvm_pvm":
        vector = int(vcpu.kvm.get_vcpu_events().exception.nr)
        if vector != _DB_VECTOR or not vcpu.kvm.get_debugregs().dr6 & _DR6_BS:
            return False
        vcpu.debug_exits += 1
        return True
    return reason == c.KVM_EXIT_DEBUG
