"""What CPUID shows to the guest: what KVM supports, less what was masked by name."""

from __future__ import annotations

from functools import lru_cache

import kvm_bindings
from kvm_bindings import CpuidEntry
from kvm_bindings import constants as c
from kvm_bindings.cpuid import pack_table
from vmm.cpu_features import FEATURES
from vmm.cpuid import FeatureMask, filter_cpuid

__all__ = ["set_guest_cpuid", "supported_cpuid"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_supported: list[CpuidEntry] = []
"""KVM's answer does not change while a process lives; asking costs as much as making a VM."""


def supported_cpuid(kvm: kvm_bindings.System) -> list[CpuidEntry]:
    """What KVM can show to guests here.

    The TSC deadline timer comes with the local APIC, and older kernels tell of it by its capability
    alone.

    Spec: KVM API, KVM_GET_SUPPORTED_CPUID.
    """
    table = kvm.supported_cpuid()
    if not kvm.check_extension(c.KVM_CAP_TSC_DEADLINE_TIMER):
        return table
    deadline = 1 << FEATURES["tsc_deadline_timer"].bit
    return [e._replace(ecx=e.ecx | deadline) if e.function == 1 else e for e in table]


def set_guest_cpuid(
    kvm: kvm_bindings.System, vcpu: kvm_bindings.Vcpu, mask: FeatureMask, *, cpus: int, lapic: bool
) -> tuple[CpuidEntry, ...]:
    """Set a new vCPU's CPUID and return it; `lapic` says whether KVM emulates its local APIC.

    Raises:
        ConfigError: `mask` asks for what KVM does not support.
    """
    if not _supported:
        _supported.extend(supported_cpuid(kvm))
    table, packed = _table(mask, vcpu.index, cpus, lapic)
    vcpu.set_cpuid2(packed)
    return table


@lru_cache(maxsize=64)
def _table(
    mask: FeatureMask, index: int, cpus: int, lapic: bool
) -> tuple[tuple[CpuidEntry, ...], Any]:
    table = tuple(filter_cpuid(_supported, mask, vcpu_index=index, cpus=cpus, lapic=lapic))
    return table, pack_table(table)
