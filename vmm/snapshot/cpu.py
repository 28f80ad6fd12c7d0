"""All that KVM holds of one vCPU: taken in one order, and put back in another.

Taken: MP state first, because reading it has KVM accept INIT and SIPI that wait, which changes the
rest; events last, because reading the rest may move what waits. Put back:

    CPUID             decides what the others may hold
    TSC frequency     before the counter, which is an MSR
    MP state          general, segment and control registers (with EFER and the APIC's base)
    XSAVE, XCR0       debug registers
    local APIC        needs its base and mode
    MSRs              the TSC deadline needs the APIC's timer mode
    nested state      needs EFER.SVME, or VMX switched on
    events            last: setting registers clears what waits

Spec: KVM API, the requests of type "vcpu ioctl".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from devices.records import Record
from kvm_bindings import CpuidEntry, KvmError, structs
from kvm_bindings import constants as c
from vmm.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import kvm_bindings

__all__ = ["VcpuState", "msrs_to_save", "put_vcpu", "take_vcpu"]


class VcpuState(Record):
    """One vCPU. `parts` are the kernel's structures as bytes, by the names of their requests:
    regs, sregs, xsave, xcrs, debugregs, lapic, nested, events, and mp_state."""

    cpuid: tuple[CpuidEntry, ...]
    tsc_khz: int
    parts: Mapping[str, bytes]
    msrs: Mapping[int, int]


def msrs_to_save(kvm: kvm_bindings.System, vcpu: kvm_bindings.Vcpu) -> tuple[int, ...]:
    """The MSRs of KVM_GET_MSR_INDEX_LIST that this vCPU has and takes: one that refuses its own
    value tells of the host."""
    values = vcpu.get_msrs(kvm.msr_index_list())
    try:
        vcpu.set_msrs(values)
    except KvmError:
        refused = set(_refused_msrs(vcpu, values))
        return tuple(index for index in values if index not in refused)
    return tuple(values)


def take_vcpu(
    vcpu: kvm_bindings.Vcpu,
    cpuid: tuple[CpuidEntry, ...],
    msrs: Iterable[int],
    *,
    lapic: bool,
    has: Callable[[int], int],
) -> VcpuState:
    """Read all of a vCPU that stands still between two instructions.

    Args:
        vcpu: stands still, and so do the others.
        cpuid: what it was told to show.
        msrs: which MSRs (`msrs_to_save`).
        lapic: whether KVM emulates its local APIC.
        has: asks for a capability of the VM.
    """
    parts: dict[str, bytes] = {"mp_state": bytes(structs.kvm_mp_state(vcpu.get_mp_state()))}
    if not lapic:
        del parts["mp_state"]
    parts["regs"] = bytes(vcpu.get_regs())
    parts["sregs"] = bytes(vcpu.get_sregs())
    if has(c.KVM_CAP_XSAVE):
        parts["xsave"] = vcpu.get_xsave()
    if has(c.KVM_CAP_XCRS):
        parts["xcrs"] = bytes(vcpu.get_xcrs())
    if has(c.KVM_CAP_DEBUGREGS):
        parts["debugregs"] = bytes(vcpu.get_debugregs())
    if lapic:
        parts["lapic"] = bytes(vcpu.get_lapic())
    if has(c.KVM_CAP_NESTED_STATE):
        parts["nested"] = vcpu.get_nested_state()
    values = vcpu.get_msrs(msrs)
    if has(c.KVM_CAP_VCPU_EVENTS):
        parts["events"] = bytes(vcpu.get_vcpu_events())
    khz = vcpu.get_tsc_khz() if has(c.KVM_CAP_GET_TSC_KHZ) else 0
    return VcpuState(cpuid, khz, parts, values)


def put_vcpu(vcpu: kvm_bindings.Vcpu, state: VcpuState, *, has: Callable[[int], int]) -> None:
    """Make a vCPU that has not run yet, and shows the CPUID of `state`, what that was taken from.

    Raises:
        SnapshotError: this host cannot hold some of it; the message names that.
    """
    if state.tsc_khz and has(c.KVM_CAP_TSC_CONTROL) and vcpu.get_tsc_khz() != state.tsc_khz:
        vcpu.set_tsc_khz(state.tsc_khz)
    for name in ("mp_state", "regs", "sregs", "xsave", "xcrs", "debugregs", "lapic"):
        if name in state.parts:
            _put(vcpu, name, state.parts[name])
    _put_msrs(vcpu, state.msrs)
    for name in ("nested", "events"):
        if name in state.parts:
            _put(vcpu, name, state.parts[name])


def _put(vcpu: kvm_bindings.Vcpu, name: str, data: bytes) -> None:
    try:
        if name == "xsave":
            vcpu.set_xsave(data)
        elif name == "nested":
            vcpu.set_nested_state(data)
        elif name == "mp_state":
            vcpu.set_mp_state(structs.kvm_mp_state.from_buffer_copy(data).mp_state)
        elif name == "regs":
            vcpu.set_regs(structs.kvm_regs.from_buffer_copy(data))
        elif name == "sregs":
            vcpu.set_sregs(structs.kvm_sregs.from_buffer_copy(data))
        elif name == "xcrs":
            vcpu.set_xcrs(structs.kvm_xcrs.from_buffer_copy(data))
        elif name == "debugregs":
            vcpu.set_debugregs(structs.kvm_debugregs.from_buffer_copy(data))
        elif name == "lapic":
            vcpu.set_lapic(structs.kvm_lapic_state.from_buffer_copy(data))
        else:
            vcpu.set_vcpu_events(structs.kvm_vcpu_events.from_buffer_copy(data))
    except (KvmError, ValueError) as error:
        raise SnapshotError(
            f"vCPU {vcpu.index}: this host does not take its {name}: {error}"
        ) from None


def _put_msrs(vcpu: kvm_bindings.Vcpu, values: Mapping[int, int]) -> None:
    try:
        vcpu.set_msrs(values)
    except KvmError:
        refused = [f"{index:#x} = {values[index]:#x}" for index in _refused_msrs(vcpu, values)]
        if refused:
            raise SnapshotError(
                f"vCPU {vcpu.index}: this host does not take its MSRs {', '.join(refused)}"
            ) from None


def _refused_msrs(vcpu: kvm_bindings.Vcpu, values: Mapping[int, int]) -> Iterator[int]:
    """Set MSRs one by one; those that do not take their value."""
    for index, value in values.items():
        try:
            vcpu.set_msrs({index: value})
        except KvmError:
            yield index
