"""CPUID of a new vCPU: asked of KVM once, filtered, and set."""

from __future__ import annotations

import ctypes
import struct

import pytest

from kvm_bindings import CpuidEntry
from vmm import guest_cpuid
from vmm.cpuid import FeatureMask, parse_features
from vmm.errors import ConfigError

CX16 = 1 << 13


class Kvm:
    def __init__(self) -> None:
        self.asked = 0
        self.has = 0

    def supported_cpuid(self) -> list[CpuidEntry]:
        self.asked += 1
        return [
            CpuidEntry(0, 0, 0, 0xD, 0, 0, 0),
            CpuidEntry(1, 0, 0, 0, 0, CX16 | 1, 0xFFFF_FFFF),
        ]

    def check_extension(self, capability: int) -> int:
        return int(capability == self.has)


class Vcpu:
    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.packed = b""

    def set_cpuid2(self, table: ctypes.Array[ctypes.c_char]) -> None:
        self.packed = bytes(table)

    def leaf(self, function: int) -> CpuidEntry:
        entries = [CpuidEntry(*fields) for fields in struct.iter_unpack("=7I12x", self.packed[8:])]
        (found,) = (entry for entry in entries if entry.function == function)
        return found


@pytest.fixture
def kvm(monkeypatch):
    monkeypatch.setattr(guest_cpuid, "_supported", [])
    guest_cpuid._table.cache_clear()
    yield Kvm()
    guest_cpuid._table.cache_clear()


def test_the_guest_sees_what_kvm_supports(kvm):
    vcpu = Vcpu()
    guest_cpuid.set_guest_cpuid(kvm, vcpu, FeatureMask(), cpus=1, lapic=True)
    assert vcpu.leaf(1).ecx & CX16


def test_features_are_hidden_by_name(kvm):
    vcpu = Vcpu()
    guest_cpuid.set_guest_cpuid(kvm, vcpu, parse_features("-cx16"), cpus=1, lapic=True)
    assert not vcpu.leaf(1).ecx & CX16
    assert vcpu.leaf(1).ecx & 1


def test_every_vcpu_has_its_own_number_and_kvm_is_asked_once(kvm):
    vcpus = [Vcpu(0), Vcpu(1)]
    for vcpu in vcpus:
        guest_cpuid.set_guest_cpuid(kvm, vcpu, FeatureMask(), cpus=2, lapic=True)
    assert [vcpu.leaf(1).ebx >> 24 for vcpu in vcpus] == [0, 1]
    assert kvm.asked == 1


def test_what_is_not_there_is_refused(kvm):
    with pytest.raises(ConfigError):
        guest_cpuid.set_guest_cpuid(kvm, Vcpu(), parse_features("+avx"), cpus=1, lapic=True)


def test_the_deadline_timer_of_kernels_that_tell_of_it_by_a_capability_alone(kvm):
    deadline = 1 << 24
    (one,) = [e for e in guest_cpuid.supported_cpuid(kvm) if e.function == 1]
    assert not one.ecx & deadline
    kvm.has = 72  # KVM_CAP_TSC_DEADLINE_TIMER
    (one,) = [e for e in guest_cpuid.supported_cpuid(kvm) if e.function == 1]
    assert one.ecx == CX16 | 1 | deadline
