"""Every layout and number against the compiler's view of <linux/kvm.h> and <linux/vhost.h>.

A C module is compiled that holds each size, offset and number as the header has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kvm_bindings import constants, ioctls, structs, vhost

# Structures that have no tag in the header: they are reached as members of others.
UNTAGGED = {
    name
    for name in structs.__all__
    if name.startswith(("kvm_run_", "kvm_vcpu_events_"))
    or name
    in (
        "Struct",
        "Union",
        "kvm_irq_routing_u",
        "kvm_irqchip_chip",
        "kvm_nested_state_hdr",
        "kvm_vmx_nested_state_smm",
    )
}

# Members that came later than Linux 6.1, with a macro that came with them.
LATER_MEMBERS = {"memory_fault": "KVM_EXIT_MEMORY_FAULT"}

# Numbers that came later than Linux 6.1.
LATER = {
    "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP",
    "KVM_CAP_GUEST_MEMFD",
    "KVM_CAP_MEMORY_ATTRIBUTES",
    "KVM_CAP_MEMORY_FAULT_INFO",
    "KVM_CAP_PMU_EVENT_MASKED_EVENTS",
    "KVM_CAP_PRE_FAULT_MEMORY",
    "KVM_CAP_USER_MEMORY2",
    "KVM_CAP_VM_TYPES",
    "KVM_CAP_X86_APIC_BUS_CYCLES_NS",
    "KVM_CAP_X86_GUEST_MODE",
    "KVM_EXIT_ARM_SEA",
    "KVM_EXIT_LOONGARCH_IOCSR",
    "KVM_EXIT_MEMORY_FAULT",
    "KVM_EXIT_SNP_REQ_CERTS",
    "KVM_EXIT_TDX",
    "KVM_MEMORY_EXIT_FLAG_PRIVATE",
    "KVM_MEM_GUEST_MEMFD",
    "KVM_RUN_X86_GUEST_MODE",
    "KVM_SYSTEM_EVENT_TDX_FATAL",
    "KVM_X86_DEFAULT_VM",
    "KVM_X86_QUIRK_IGNORE_GUEST_PAT",
    "KVM_X86_QUIRK_SLOT_ZAP_ALL",
    "KVM_X86_QUIRK_STUFF_FEATURE_MSRS",
    "KVM_X86_SW_PROTECTED_VM",
}

Fact = tuple[str, str, int, str]
"""What it is called, the C expression, what we say, and the macro that must be defined."""


def _members(root: str, kind: Any, path: str, base: int, guard: str) -> Iterator[Fact]:
    for name, member, *_ in kind._fields_:
        offset = base + getattr(kind, name).offset
        inner_guard = guard or LATER_MEMBERS.get(name, "")
        if name in getattr(kind, "_anonymous_", ()):
            yield from _members(root, member, path, offset, inner_guard)
            continue
        where = f"{path}.{name}" if path else name
        size = ctypes.sizeof(member)
        yield f"offset {root}.{where}", f"offsetof(struct {root}, {where})", offset, inner_guard
        yield f"size {root}.{where}", f"sizeof(((struct {root} *)0)->{where})", size, inner_guard
        if member.__name__ in UNTAGGED:
            yield from _members(root, member, where, offset, inner_guard)


VHOST = (
    vhost.vhost_vring_state,
    vhost.vhost_vring_file,
    vhost.vhost_vring_addr,
    vhost.vhost_memory_region,
)


def _vhost_facts() -> Iterator[Fact]:
    for kind in VHOST:
        name = kind.__name__
        yield f"size {name}", f"sizeof(struct {name})", ctypes.sizeof(kind), ""
        yield from _members(name, kind, "", 0, "")
    at = vhost.vhost_memory.regions.offset
    yield "offset vhost_memory.regions", "offsetof(struct vhost_memory, regions)", at, ""
    for name, request in vhost.REQUESTS.items():
        yield name, name, int(request), name


def _facts() -> Iterator[Fact]:
    yield from _vhost_facts()
    for name in structs.__all__:
        if name not in UNTAGGED:
            kind = getattr(structs, name)
            yield f"size {name}", f"sizeof(struct {name})", ctypes.sizeof(kind), ""
            yield from _members(name, kind, "", 0, "")
    for name, request in ((name, getattr(ioctls, name)) for name in ioctls.NAMES):
        yield name, name, int(request), name
    for name, value in vars(constants).items():
        if name.startswith("KVM"):
            yield name, name, value, name


def test_every_size_offset_and_number(
    c_values: Callable[[Sequence[str], Sequence[tuple[str, str]]], list[int | None]], capsys: Any
) -> None:
    facts = list(_facts())
    values = c_values(
        ("linux/kvm.h", "linux/vhost.h"), [(expression, guard) for _, expression, _, guard in facts]
    )
    wrong, unknown, checked = [], [], 0
    for (name, _, ours, _), theirs in zip(facts, values, strict=True):
        if theirs is None:
            unknown.append(name)
            continue
        checked += 1
        # Numbers above 2**31 are negative where the header has them as int.
        if theirs != ours and theirs & 0xFFFF_FFFF != ours:
            wrong.append(f"{name}: header {theirs:#x}, ours {ours:#x}")
    with capsys.disabled():
        if unknown:
            print(f"\n{checked} facts agree; not in this header: {', '.join(unknown)}")
    assert wrong == []
    assert checked > 900
    strangers = {n for n in unknown if ".memory_fault" not in n} - LATER
    assert strangers == set()


def test_untagged_structures_are_all_reached() -> None:
    reached = {"Struct", "Union", "kvm_run_exit"}

    def walk(kind: Any) -> None:
        for _, member, *_ in kind._fields_:
            if member.__name__ in UNTAGGED:
                reached.add(member.__name__)
                walk(member)

    for name in structs.__all__:
        if name not in UNTAGGED:
            walk(getattr(structs, name))
    assert reached >= UNTAGGED
