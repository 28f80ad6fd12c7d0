"""The kernel's KVM interface for x86, and nothing more.

One thin wrapper for each kind of file descriptor (`System`, `VM`, `Vcpu`, `KvmDevice`), closed
deterministically; errors that say what an errno means; constants and structures under the
kernel's names in `kvm_bindings.constants` and `kvm_bindings.structs`.

Importing it works on any machine. Opening `System()` needs Linux with KVM.
"""

from __future__ import annotations

from kvm_bindings.cpuid import CpuidEntry
from kvm_bindings.device import KvmDevice
from kvm_bindings.errors import KvmError
from kvm_bindings.rings import CoalescedRing, DirtyRing
from kvm_bindings.runner import runner_kind
from kvm_bindings.system import System
from kvm_bindings.vcpu import Vcpu
from kvm_bindings.vm import VM

__all__ = [
    "VM",
    "CoalescedRing",
    "CpuidEntry",
    "DirtyRing",
    "KvmDevice",
    "KvmError",
    "System",
    "Vcpu",
    "runner_kind",
]
