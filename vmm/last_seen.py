"""The registers at the exit before the last one, for hosts that lose those of the last.

kvm_amd resets a vCPU at a triple fault before user space can look (the VMCB is undefined then), so
that the registers of a guest that died cannot be read. There, KVM is asked to deliver registers
with every exit, and the set before is kept.

Spec: KVM API, KVM_CAP_SYNC_REGS; AMD64 APM vol. 2, "Shutdown Intercept".
"""

from __future__ import annotations

import ctypes
from typing import Any

import kvm_bindings
from kvm_bindings import constants as c
from kvm_bindings.structs import kvm_regs, kvm_run, kvm_sregs
from vmm.cpustate import CpuState

__all__ = ["LastSeen"]

_REGS = ctypes.sizeof(kvm_regs)
_SIZE = _REGS + ctypes.sizeof(kvm_sregs)
_START = kvm_run.s.offset


class LastSeen:
    """Keeps the registers that come with each exit, this one's and the last one's."""

    def __init__(self, vcpu: kvm_bindings.Vcpu) -> None:
        self._delivered = vcpu.page[_START : _START + _SIZE]
        self._now = self._before = b""
        vcpu.run_struct.kvm_valid_regs |= c.KVM_SYNC_X86_REGS | c.KVM_SYNC_X86_SREGS

    def start(self, regs: Any, sregs: Any) -> None:
        """Begin anew with the registers that the guest starts with."""
        self._now = self._before = bytes(regs) + bytes(sregs)

    def note(self) -> None:
        """Keep what came with this exit."""
        self._before, self._now = self._now, self._delivered.tobytes()

    @property
    def state(self) -> CpuState | None:
        """The state at the exit before the last one, or at the start."""
        if not self._before:
            return None
        regs = kvm_regs.from_buffer_copy(self._before)
        sregs = kvm_sregs.from_buffer_copy(self._before, _REGS)
        return CpuState.from_kvm(regs, sregs)

    def close(self) -> None:
        """Let go of the vCPU's page."""
        self._delivered.release()
