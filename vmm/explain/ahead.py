"""Following a guest's code from a state that is older than its death.

Only instructions whose effect is certain are followed: those that change nothing but RIP, and the
few that set registers from values at hand. The OUT that caused the exit of that state changes no
register either. Interrupts are taken not to have come.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from vmm.cpustate import CpuState, DescriptorTable
from vmm.explain.disassembly import at_rip
from vmm.explain.faults import likely_fault
from vmm.explain.operands import memory_operands, register_value
from vmm.explain.page_walk import Read, read_linear

__all__ = ["follow_code"]

_FARTHEST = 64
_NOTHING = frozenset({"nop", "pause", "endbr32", "endbr64", "fnop", "out", "cld", "cli", "std"})
"""They change no register that matters here. OUT may be one that a device answers by stopping the
guest for good; a guest that died did go on."""


def follow_code(state: CpuState, read: Read) -> tuple[CpuState, int | None]:
    """Go on from `state` until an instruction faults.

    Returns:
        The state in front of that instruction, and how many were followed to come there; None
        where an instruction in between has an effect that is not certain.
    """
    for steps in range(_FARTHEST):
        if likely_fault(state, read, certain=True).vector is not None:
            return state, steps
        _, instruction = at_rip(state, read)
        following = None if instruction is None else _after(state, read, instruction)
        if following is None:
            break
        state = following
    return state, None


def _after(state: CpuState, read: Read, instruction: Any) -> CpuState | None:
    """The state behind an instruction, or None."""
    name, operands = instruction.mnemonic, instruction.op_str
    behind = state.rip + instruction.size
    if name in _NOTHING:
        return replace(state, rip=behind)
    if name == "lidt":
        return _lidt(state, read, instruction, behind)
    if name in ("mov", "xor"):
        return _set_register(state, name, operands, behind)
    if name in ("jmp", "call") and not state.segmented:
        target = _target(state, operands)
        if target is None:
            return None
        if name == "jmp":
            return replace(state, rip=target)
        return replace(state, rip=target, rsp=state.rsp - state.code_size // 8)
    return None


def _set_register(state: CpuState, name: str, operands: str, behind: int) -> CpuState | None:
    """MOV of a constant or a register to a register of 32 or 64 bits, and XOR with itself."""
    target, _, source = (part.strip() for part in operands.partition(","))
    match = re.fullmatch(r"e([a-ds][ipx])|(r(?:[a-ds][ipx]|\d+))|(r\d+)d", target)
    if match is None or state.code_size == 16 or (name == "xor" and source != target):
        return None
    value = 0 if name == "xor" else _target(state, source)
    if value is None:
        return None
    wide = match[2] is not None
    register = match[2] or match[3] or f"r{match[1]}"
    changed: dict[str, Any] = {register: value & ((1 << (64 if wide else 32)) - 1)}
    return replace(state, rip=behind, **changed)


def _target(state: CpuState, operand: str) -> int | None:
    try:
        return int(operand, 0)
    except ValueError:
        return register_value(state, operand)


def _lidt(state: CpuState, read: Read, instruction: Any, behind: int) -> CpuState | None:
    """LIDT loads a table that still lies in memory."""
    touch = next(memory_operands(state, instruction), None)
    width = 8 if state.code_size == 64 else 4
    data = b"" if touch is None else read_linear(state, read, touch.linear, 2 + width)
    if len(data) < 2 + width:
        return None
    base, limit = int.from_bytes(data[2:], "little"), int.from_bytes(data[:2], "little")
    if state.code_size == 16:
        base &= 0xFF_FFFF
    return replace(state, rip=behind, idt=DescriptorTable(base, limit))
