"""KVM_EXIT_INTERNAL_ERROR in words, and what to do about it.

Spec: KVM API, "The kvm_run structure", KVM_EXIT_INTERNAL_ERROR; Intel SDM vol. 3, "VM Exits",
"Information for VM Exits During Event Delivery".
"""

from __future__ import annotations

from typing import Any

from vmm.cpustate import CpuState
from vmm.explain.cause import Cause
from vmm.explain.disassembly import at_rip, decode
from vmm.explain.faults import likely_fault
from vmm.explain.page_walk import Read
from vmm.explain.vectors import vector_name

__all__ = [
    "FEATURES_BY_GROUP",
    "FEATURES_BY_NAME",
    "emulation_bytes",
    "feature_of",
    "internal_error_cause",
]

_EMULATION, _SIMULTANEOUS, _DELIVERY, _UNEXPECTED = 1, 2, 3, 4
_INSTRUCTION_BYTES = 1  # flag of an emulation failure: the bytes are in data[1:3]
_OTHER_CODE = "reach device memory with plain MOV, and keep code and page tables in RAM"
_LAB = "or run it where the processor does the work: real kvm_amd or kvm_intel, or the lab"

# Which CPUID feature offers an instruction, by its name or by capstone's group.
FEATURES_BY_NAME = {
    "cmpxchg16b": "cx16", "xsave": "xsave", "xrstor": "xsave", "xsaveopt": "xsave",
    "xsavec": "xsave", "xsaves": "xsave", "xrstors": "xsave", "xgetbv": "xsave",
    "xsetbv": "xsave", "rdrand": "rdrand", "rdseed": "rdseed", "movbe": "movbe",
    "popcnt": "popcnt", "invpcid": "invpcid", "clwb": "clwb", "clflushopt": "clflushopt",
    "rdpid": "rdpid", "lzcnt": "abm", "monitor": "monitor", "mwait": "monitor", "stac": "smap",
    "clac": "smap", "rdtscp": "rdtscp",
}  # fmt: skip
FEATURES_BY_GROUP = {
    "avx512": "avx512f", "avx2": "avx2", "avx": "avx", "fma": "fma", "f16c": "f16c",
    "sse42": "sse4_2", "sse41": "sse4_1", "ssse3": "ssse3", "aes": "aes", "pclmul": "pclmulqdq",
    "sha": "sha_ni", "bmi": "bmi1", "bmi2": "bmi2", "adx": "adx", "fsgsbase": "fsgsbase",
}  # fmt: skip


def feature_of(instruction: Any) -> str:
    """The CPUID feature whose absence keeps well-made guests from an instruction, or ""."""
    name = instruction.mnemonic.split()[-1].removesuffix("64")
    if name in FEATURES_BY_NAME:
        return FEATURES_BY_NAME[name]
    groups = {instruction.group_name(group) for group in instruction.groups}
    for group, feature in FEATURES_BY_GROUP.items():
        if group in groups:
            return feature
    return ""


def emulation_bytes(data: tuple[int, ...]) -> bytes:
    """The instruction bytes that the kernel sent along, or none.

    `data` is kvm_run.internal.data: flags, then a length byte and 15 bytes.
    """
    if len(data) < 3 or not data[0] & _INSTRUCTION_BYTES:
        return b""
    packed = data[1].to_bytes(8, "little") + data[2].to_bytes(8, "little")
    return packed[1 : 1 + min(packed[0], 15)]


def internal_error_cause(
    suberror: int, data: tuple[int, ...], state: CpuState | None, read: Read, backend: str
) -> Cause:
    """Explain one internal error; `state` is None if the registers could not be read."""
    if suberror == _EMULATION:
        return _emulation(data, state, read, backend)
    if suberror == _SIMULTANEOUS:
        return Cause(
            "KVM met a second exception while it delivered a first one",
            details=(_vectoring(data[0]),) if data else (),
            advice=("look at the handlers and the stack of the exceptions below",),
        )
    if suberror == _DELIVERY:
        details = [_vectoring(data[0])] if data else []
        if len(data) > 1:
            details.append(f"the processor left the guest for reason {data[1] & 0xFFFF}")
        if len(data) > 3:
            details.append(f"guest-physical address {data[3]:#x}")
        return Cause(
            "the processor could not deliver an interrupt or exception: the IDT, the GDT or the "
            "stack is not in memory",
            details=tuple(details),
            advice=("put IDT, GDT and stack in RAM; addresses outside of it are devices",),
        )
    if suberror == _UNEXPECTED:
        reason = f" ({data[0]:#x})" if data else ""
        return Cause(
            f"the processor left the guest for a reason that KVM does not know{reason}",
            advice=("a newer kernel on the host may know it",),
        )
    return Cause(f"KVM reports internal error {suberror}")


def _vectoring(info: int) -> str:
    """Spec: Intel SDM vol. 3, "IDT-vectoring information field"; AMD's EXITINTINFO agrees."""
    kinds = {0: "interrupt", 2: "NMI", 3: "exception", 4: "software interrupt", 6: "int n"}
    return f"while delivering {kinds.get(info >> 8 & 7, 'event')} {vector_name(info & 0xFF)}"


def _emulation(data: tuple[int, ...], state: CpuState | None, read: Read, backend: str) -> Cause:
    sent = emulation_bytes(data)
    if state is None:
        return Cause(f"KVM could not emulate the instruction {sent.hex(' ')}".rstrip())
    seen, instruction = at_rip(state, read)
    if sent:
        instruction = decode(sent, state.rip, state.code_size)
    details: list[str] = []
    if sent and not seen.startswith(sent):
        details.append(f"KVM saw the bytes {sent.hex(' ')}")
    if instruction is None:
        fault = likely_fault(state, read)
        if fault.address is None and "where there is no memory" in fault.reason:
            return Cause(
                f"it jumped to {state.linear_rip:#x}, where there is no memory",
                details=(*details, fault.reason),
                advice=("look at where the address came from: a pointer, or a return address",),
            )
        why = f": {fault.reason}" if fault.reason else ""
        shown = (sent or seen)[:8].hex(" ")
        bytes_text = f" (bytes {shown})" if shown else ""
        return Cause(
            f"KVM could not emulate what is at RIP{bytes_text}{why}",
            details=tuple(details),
            advice=("look at how the guest came to this address",),
        )
    text = f"{instruction.mnemonic} {instruction.op_str}".strip()
    feature = feature_of(instruction)
    advice = []
    if feature:
        advice.append(f"hide the instruction from the guest: --cpu -{feature}")
    details.append(_why_emulated(state, backend))
    if backend == "kvm_pvm" and state.cpl == 0:
        advice.append(f"{'' if advice else 'do without it in ring 0, '}{_LAB}")
    elif not advice:
        advice.append(_OTHER_CODE)
    return Cause(
        f"KVM's instruction emulator does not know {instruction.mnemonic}",
        details=(f"the instruction: {text}", *details),
        advice=tuple(advice),
    )


def _why_emulated(state: CpuState, backend: str) -> str:
    if backend == "kvm_pvm" and state.cpl == 0:
        return "kvm_pvm runs all of ring 0 through KVM's emulator"
    if backend == "kvm_intel" and state.mode in ("real", "virtual-8086"):
        return "without unrestricted guest, kvm_intel runs real mode through KVM's emulator"
    return "the instruction touched memory outside of RAM, which KVM emulates"
