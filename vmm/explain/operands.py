"""What an instruction would touch: registers by name, and the addresses of memory operands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vmm.cpustate import CpuState, Segment
from vmm.explain.page_walk import Access

__all__ = ["Touch", "memory_operands", "register_value"]

_LEGACY = {"a": "rax", "b": "rbx", "c": "rcx", "d": "rdx"}
_SEGMENT_NAMES = ("cs", "ds", "es", "fs", "gs", "ss")
_CS_AC_READ, _CS_AC_WRITE = 1, 2
_CS_OP_MEM = 3
# Instructions whose memory operand is computed or hinted at, but never accessed.
_NO_ACCESS = ("lea", "nop", "prefetch", "invlpg", "clflush", "clwb", "cldemote", "bnd")


def register_value(state: CpuState, name: str) -> int | None:
    """The value of a general register by any of its names ("al", "r8d", "esi"), or None."""
    if match := re.fullmatch(r"(r\d+)([dwb]?)", name):
        bits = {"": 64, "d": 32, "w": 16, "b": 8}[match[2]]
        value = getattr(state, match[1], None)
        return None if value is None else value & ((1 << bits) - 1)
    if match := re.fullmatch(r"([abcd])([lh])", name):
        return int(getattr(state, _LEGACY[match[1]])) >> (8 if match[2] == "h" else 0) & 0xFF
    if match := re.fullmatch(r"([re]?)(ax|bx|cx|dx|si|di|bp|sp|ip)(l?)", name):
        bits = 8 if match[3] else {"r": 64, "e": 32, "": 16}[match[1]]
        return int(getattr(state, f"r{match[2]}")) & ((1 << bits) - 1)
    return None


@dataclass(frozen=True, slots=True)
class Touch:
    """One access to memory: `size` bytes at `offset` in a segment, `linear` in all."""

    access: Access
    segment_name: str
    segment: Segment
    offset: int
    linear: int
    size: int


def memory_operands(state: CpuState, instruction: Any) -> Iterator[Touch]:
    """The memory that a decoded instruction (capstone's CsInsn) would access, stack included."""
    prefix, _, mnemonic = instruction.mnemonic.rpartition(" ")
    if prefix.startswith("rep") and not state.rcx:
        return
    if not mnemonic.startswith(_NO_ACCESS):
        for operand in instruction.operands:
            if operand.type == _CS_OP_MEM:
                yield from _memory(state, instruction, operand)
    yield from _stack(state, mnemonic)


def _memory(state: CpuState, instruction: Any, operand: Any) -> Iterator[Touch]:
    parts = operand.mem
    offset = parts.disp
    base = instruction.reg_name(parts.base) if parts.base else ""
    for name, factor in (
        (base, 1),
        (instruction.reg_name(parts.index) if parts.index else "", parts.scale),
    ):
        if name in ("rip", "eip"):
            offset += instruction.address + instruction.size
        elif name:
            value = register_value(state, name)
            if value is None:
                return
            offset += value * factor
    bits = 8 * instruction.addr_size
    offset &= (1 << bits) - 1
    default = "ss" if base.endswith(("bp", "sp")) and len(base) > 1 else "ds"
    name = instruction.reg_name(parts.segment) if parts.segment else default
    if name not in _SEGMENT_NAMES:
        return
    segment: Segment = getattr(state, name)
    if state.code_size == 64 and name not in ("fs", "gs"):
        linear = offset
    else:
        mask = 0xFFFF_FFFF_FFFF_FFFF if state.code_size == 64 else 0xFFFF_FFFF
        linear = (segment.base + offset) & mask
    access: Access = "write" if operand.access & _CS_AC_WRITE else "read"
    yield Touch(access, name, segment, offset, linear, max(operand.size, 1))


def _stack(state: CpuState, mnemonic: str) -> Iterator[Touch]:
    pushes = mnemonic.startswith(("push", "call", "lcall", "enter"))
    pops = mnemonic.startswith(("pop", "ret", "lret", "iret", "leave"))
    if mnemonic.startswith("popcnt") or not (pushes or pops):
        return
    size = {64: 8, 32: 4, 16: 2}[state.code_size]
    stack_bits = 64 if state.code_size == 64 else 32 if state.ss.db else 16
    # LEAVE takes its stack pointer from the frame pointer.
    pointer = state.rbp if mnemonic.startswith("leave") else state.rsp
    offset = (pointer - (size if pushes else 0)) & ((1 << stack_bits) - 1)
    if state.code_size == 64:
        linear = offset
    else:
        linear = (state.ss.base + offset) & 0xFFFF_FFFF
    yield Touch("write" if pushes else "read", "ss", state.ss, offset, linear, size)
