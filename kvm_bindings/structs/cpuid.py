"""What CPUID shows to the guest.

Spec: KVM API, KVM_SET_CPUID2; layouts from `<asm/kvm.h>`.
"""

from kvm_bindings.structs.base import Annotated, Array, Struct, c_uint32, u32


class kvm_cpuid_entry2(Struct):
    """What CPUID answers for one leaf (and subleaf, if the flag says that it counts)."""

    function: u32
    index: u32
    flags: u32
    eax: u32
    ebx: u32
    ecx: u32
    edx: u32
    padding: Annotated[Array[c_uint32], 3]


class kvm_cpuid2(Struct):
    """Followed by `nent` kvm_cpuid_entry2."""

    nent: u32
    padding: u32
