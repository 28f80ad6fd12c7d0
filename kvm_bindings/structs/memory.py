"""Memory slots, and which of their pages were written.

Spec: KVM API, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG and
KVM_CAP_DIRTY_LOG_RING; layouts from `<linux/kvm.h>`.
"""

from kvm_bindings.structs.base import Struct, u32, u64


class kvm_userspace_memory_region(Struct):
    """A memory slot; a `memory_size` of 0 removes it."""

    slot: u32
    flags: u32
    guest_phys_addr: u64
    memory_size: u64
    userspace_addr: u64


class kvm_dirty_log(Struct):
    """`dirty_bitmap` is the address of one bit a page."""

    slot: u32
    padding1: u32
    dirty_bitmap: u64


class kvm_clear_dirty_log(Struct):
    """Clears the pages whose bits are set, from `first_page` (a multiple of 64) on."""

    slot: u32
    num_pages: u32
    first_page: u64
    dirty_bitmap: u64


class kvm_dirty_gfn(Struct):
    """One entry of a dirty ring; `offset` counts pages from the start of `slot`."""

    flags: u32
    slot: u32
    offset: u64
