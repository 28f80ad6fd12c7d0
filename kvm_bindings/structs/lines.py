"""Structures of what a machine with interrupts needs from its start: the PIT and its lines.

Spec: KVM API, KVM_CREATE_PIT2 and KVM_IRQ_LINE; layouts from `<linux/kvm.h>`.
"""

from kvm_bindings.structs.base import Annotated, Array, Struct, c_uint32, u32


class kvm_irq_level(Struct):
    """The level of one interrupt line (gsi)."""

    irq: u32
    level: u32


class kvm_pit_config(Struct):
    """How to make the PIT: KVM_PIT_SPEAKER_DUMMY in `flags`."""

    flags: u32
    pad: Annotated[Array[c_uint32], 15]
