"""Which exception the instruction at RIP raises, as far as registers and memory tell.

KVM reports that a guest died of a triple fault, not of which exception. For exceptions that are
faults, RIP is still at the instruction that raised the first one; this module tries that
instruction on the state. It covers what kills kernels in practice; what it does not know it does
not guess.

Spec: AMD64 APM vol. 2, "Exceptions and Interrupts", "Vectors".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vmm.cpustate import CpuState
from vmm.explain.delivery import descriptor_problem, in_memory
from vmm.explain.disassembly import at_rip
from vmm.explain.operands import Touch, memory_operands, register_value
from vmm.explain.page_walk import Read, walk

__all__ = ["Fault", "likely_fault"]

_SEGMENT_REGISTERS = ("ds", "es", "fs", "gs", "ss")
# These end in #GP when the guest's CPUID or the value does not allow them.
_TOUCHY = ("wrmsr", "rdmsr", "xsetbv", "ltr", "lldt", "lidt", "lgdt", "swapgs")
_CPL0_ONLY = (
    "hlt", "lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "invd", "wbinvd", "invlpg", "wrmsr",
    "rdmsr", "swapgs", "sysret", "sysexit", "xsetbv", "monitor", "mwait",
)  # fmt: skip
_IOPL_ONLY = ("cli", "sti")
# Memory operands that must be aligned, by the start of the name: bytes.
_ALIGNED = {
    "cmpxchg16b": 16, "movaps": 16, "movapd": 16, "movdqa": 16, "movntdq": 16, "movntp": 16,
    "fxsave": 16, "fxrstor": 16, "xsave": 64, "xrstor": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception and the reason for it. `vector` is None if it is not known."""

    vector: int | None
    reason: str
    address: int | None = None
    """The linear address of a page fault."""


def likely_fault(state: CpuState, read: Read, *, certain: bool = False) -> Fault:
    """Work out what the next instruction would raise.

    With `certain` nothing is guessed: not that a value was refused, nor what CR2 is left from.
    """
    fetch = _fetch(state, read)
    if fetch is not None:
        return fetch
    data, instruction = at_rip(state, read)
    if data and not data.strip(b"\xff"):
        return Fault(6, "RIP is in memory of all ones: nothing was loaded there")
    zeros = "RIP is in zeroed memory: the guest ran off its code or jumped astray"
    if instruction is None:
        return (
            Fault(6, f"the bytes {data[:8].hex(' ')} are no instruction")
            if data
            else _stale(state, read, certain)
        )
    for check in (_by_name, _floating_point, _privilege, _far, _arithmetic):
        fault = check(state, read, instruction)
        if fault is not None:
            return fault
    for touch in memory_operands(state, instruction):
        fault = _access(state, read, touch, instruction)
        if fault is not None:
            if not data.strip(b"\0"):
                return Fault(fault.vector, f"{zeros}; {fault.reason}", fault.address)
            return fault
    if not certain and (instruction.mnemonic in _TOUCHY or _moves_to_control(instruction)):
        return Fault(13, f"{_said(instruction)} was refused: its value is not allowed here")
    stale = _stale(state, read, certain)
    if stale.vector is None and data and not data.strip(b"\0"):
        return Fault(None, zeros)
    return stale


def _said(instruction: Any) -> str:
    return f'"{instruction.mnemonic} {instruction.op_str}'.rstrip() + '"'


def _fetch(state: CpuState, read: Read) -> Fault | None:
    linear = state.linear_rip
    if state.code_size != 64 and state.rip > state.cs.limit:
        return Fault(13, f"RIP is behind the end of CS (limit {state.cs.limit:#x})")
    step = walk(state, read, linear, "execute")
    if step.gpa is None:
        vector = 13 if "canonical" in step.stop else 14
        return Fault(vector, f"the code at {linear:#x} cannot be fetched: {step.stop}", linear)
    if not in_memory(read, step.gpa):
        return Fault(None, f"RIP leads to guest-physical {step.gpa:#x}, where there is no memory")
    if state.paging != "off" and state.cr2 == linear and step.entries[-1].maps == 1 << 30:
        # Seen with kvm_pvm: PS in a PDPT entry is reserved without the CPUID bit pdpe1gb.
        reason = (
            f"the code at {linear:#x} is in a 1 GiB page, and the guest's processor has none "
            "(CPUID bit pdpe1gb); map it with 2 MiB pages"
        )
        return Fault(14, reason, linear)
    return None


def _by_name(state: CpuState, read: Read, instruction: Any) -> Fault | None:
    name = instruction.mnemonic
    if name in ("ud0", "ud1", "ud2"):
        return Fault(6, f"{_said(instruction)} is an invalid opcode on purpose")
    if name == "int3":
        return Fault(3, '"int3" is a breakpoint')
    if name == "int1":
        return Fault(1, '"int1" raises a debug exception')
    if name == "int":
        return Fault(instruction.operands[0].imm & 0xFF, f"{_said(instruction)} asked for it")
    if name in ("syscall", "sysret") and not state.efer & 1:
        return Fault(6, f'"{name}", but EFER.SCE is clear')
    return None


def _floating_point(state: CpuState, read: Read, instruction: Any) -> Fault | None:
    """What FPU, SSE and AVX instructions need switched on.

    Spec: AMD64 APM vol. 2, "SSE Media and x87 Programming", "Determining Support and Enabling".
    """
    groups = {instruction.group_name(group) for group in instruction.groups}
    said = _said(instruction)
    vector = re.search(r"\b[xyz]mm\d|mxcsr", f"{instruction.mnemonic} {instruction.op_str}")
    vex = instruction.mnemonic.startswith("v") and bool(groups & {"avx", "avx2", "fma", "f16c"})
    sse = bool(vector) and not vex
    fpu = bool(groups & {"fpu", "mmx"})
    if vex and not state.cr4 >> 18 & 1:
        return Fault(6, f"{said} is an AVX instruction, and CR4.OSXSAVE is clear")
    if sse and not state.cr4 >> 9 & 1:
        return Fault(6, f"{said} is an SSE instruction, and CR4.OSFXSR is clear")
    if (sse or vex) and state.cr0 >> 2 & 1:
        return Fault(6, f"{said} is an SSE instruction, and CR0.EM is set")
    if fpu and state.cr0 >> 2 & 1:
        return Fault(7, f"{said} needs the FPU, and CR0.EM is set")
    if (fpu or sse or vex) and state.cr0 >> 3 & 1:
        return Fault(7, f"{said} needs the FPU, and CR0.TS is set")
    return None


def _privilege(state: CpuState, read: Read, instruction: Any) -> Fault | None:
    name = instruction.mnemonic.split()[-1]
    ring = state.cpl
    if ring and (name in _CPL0_ONLY or _moves_to_control(instruction)):
        return Fault(13, f"{_said(instruction)} is for ring 0, and this is ring {ring}")
    if ring > state.rflags >> 12 & 3 and name in _IOPL_ONLY:
        return Fault(13, f"{_said(instruction)} in ring {ring} with IOPL below it")
    return None


def _moves_to_control(instruction: Any) -> bool:
    target = instruction.op_str.split(",")[0].strip()
    return instruction.mnemonic == "mov" and target[:2] in ("cr", "dr")


def _far(state: CpuState, read: Read, instruction: Any) -> Fault | None:
    """Loading a segment register from a descriptor that is not there."""
    if not state.cr0 & 1 or state.mode == "virtual-8086":
        return None
    name, operands = instruction.mnemonic, instruction.operands
    if name == "ljmp" and len(operands) == 2:
        selector, code = operands[0].imm & 0xFFFF, True
    elif name == "mov" and instruction.op_str.split(",")[0] in _SEGMENT_REGISTERS:
        value = register_value(state, instruction.op_str.split(",")[1].strip())
        if value is None:
            return None
        selector, code = value & 0xFFFF, False
    else:
        return None
    problem, _ = descriptor_problem(state, read, selector, code=code)
    vector = 11 if problem.endswith("not present") else 13
    said = f"{_said(instruction)} loads selector {selector:#x}, but {problem}"
    return Fault(vector, said) if problem else None


def _arithmetic(state: CpuState, read: Read, instruction: Any) -> Fault | None:
    if instruction.mnemonic in ("div", "idiv") and register_value(state, instruction.op_str) == 0:
        return Fault(0, f"{_said(instruction)} divides by zero")
    return None


def _access(state: CpuState, read: Read, touch: Touch, instruction: Any) -> Fault | None:
    verb = {"read": "reads", "write": "writes", "execute": "runs"}[touch.access]
    said = f"{_said(instruction)} {verb} {touch.linear:#x}"
    segment = touch.segment
    checked = state.code_size != 64
    violation = 12 if touch.segment_name == "ss" else 13
    if checked and state.cr0 & 1 and (segment.unusable or not segment.present):
        return Fault(violation, f"{said} through {touch.segment_name.upper()}, which is not usable")
    expand_up = segment.type & 8 or not segment.type & 4
    if checked and expand_up and touch.offset + touch.size - 1 > segment.limit:
        return Fault(
            violation,
            f"{said}, behind the end of {touch.segment_name.upper()} (limit {segment.limit:#x})",
        )
    name = instruction.mnemonic.split()[-1]
    for start, alignment in _ALIGNED.items():
        if name.startswith(start) and touch.linear % alignment:
            return Fault(13, f"{said}, which is not a multiple of {alignment}")
    step = walk(state, read, touch.linear, touch.access)
    if step.gpa is not None:
        return None
    if "canonical" in step.stop:
        return Fault(violation, f"{said}: {step.stop}")
    return Fault(14, f"{said}: {step.stop}", touch.linear)


def _stale(state: CpuState, read: Read, certain: bool) -> Fault:
    """Nothing is wrong with the instruction: CR2 may still tell of a page fault."""
    if not certain and state.paging != "off" and state.cr2:
        step = walk(state, read, state.cr2, "read", cpl=0)
        if not step.mapped:
            return Fault(14, f"CR2 tells of a page fault at {state.cr2:#x}: {step.stop}", state.cr2)
    return Fault(None, "")
