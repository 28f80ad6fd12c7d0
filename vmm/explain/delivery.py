"""Can an exception reach its handler? Every step from the IDT entry to the pushed frame.

Left out: task gates (only named) and the error code's own checks.

Spec: AMD64 APM vol. 2, "Exceptions and Interrupts", "Interrupt Control Transfers" of real,
legacy protected and long mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState
from vmm.explain.page_walk import Read, read_linear, walk
from vmm.explain.vectors import vector_name

__all__ = ["Failure", "delivery_failure", "descriptor_problem", "in_memory"]

_TS, _NP, _SS, _GP, _PF = 10, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an exception cannot reach its handler. `text` names it: "no IDT entry for #UD ..."."""

    text: str
    raises: int | None = None
    """The exception that this raises in turn; None where that is not known."""
    delivered: bool = False
    """The frame is pushed, and what fails is the handler's first instruction."""


def in_memory(read: Read, gpa: int) -> bool:
    """Whether there is guest memory at `gpa`."""
    try:
        read(gpa, 1)
    except GuestAddressError:
        return False
    return True


def delivery_failure(state: CpuState, read: Read, vector: int) -> Failure | None:
    """Say why `vector` cannot be delivered, or None if nothing stands in its way."""
    width = 16 if state.long_mode else 8 if state.cr0 & 1 else 4
    name = vector_name(vector)
    first, last = vector * width, vector * width + width - 1
    if last > state.idt.limit:
        limit = f"the IDT's limit {state.idt.limit:#x} is below {last:#x}"
        return Failure(f"no IDT entry for {name}: {limit}", _GP)
    where = state.idt.base + first
    data = read_linear(state, read, where, width)
    if len(data) < width:
        return Failure(
            f"the IDT entry for {name} at {where:#x} is in memory that is not there",
            _absent(state),
        )
    if width == 4:
        return _real_mode(read, name, data)
    return _gate(state, read, name, int.from_bytes(data, "little"))


def _absent(state: CpuState) -> int | None:
    """What an access to memory that is not there raises: without paging nothing, on a PC."""
    return None if state.paging == "off" else _PF


def _real_mode(read: Read, name: str, data: bytes) -> Failure | None:
    offset = int.from_bytes(data[:2], "little")
    segment = int.from_bytes(data[2:], "little")
    handler = (segment << 4) + offset
    if not data.strip(b"\0"):
        return Failure(f"the interrupt vector for {name} is empty (0000:0000)")
    if not in_memory(read, handler):
        return Failure(f"the handler of {name} at {segment:04x}:{offset:04x} is not in memory")
    return None


def _gate(state: CpuState, read: Read, name: str, gate: int) -> Failure | None:
    kind = gate >> 40 & 0x1F
    is_gate = kind in ((0xE, 0xF) if state.long_mode else (0x5, 0x6, 0x7, 0xE, 0xF))
    if not gate >> 47 & 1:
        empty = " (it is all zero)" if not gate else ""
        # The processor looks at the type first, and an empty entry has none.
        return Failure(f"the IDT entry for {name} is not present{empty}", _NP if is_gate else _GP)
    if kind == 0x5 and is_gate:
        return None  # A task gate: what it does depends on a TSS, which is not followed.
    if not is_gate:
        return Failure(f"the IDT entry for {name} is not a gate (type {kind:#x})", _GP)
    selector = gate >> 16 & 0xFFFF
    problem, descriptor = descriptor_problem(state, read, selector, code=True)
    if problem:
        return Failure(
            f"the IDT entry for {name} names code selector {selector:#x}: {problem}",
            _NP if problem.endswith("not present") else _GP,
        )
    offset = (gate & 0xFFFF) | (gate >> 48 & 0xFFFF) << 16
    if kind in (0x6, 0x7):
        offset &= 0xFFFF
    if state.long_mode:
        offset |= (gate >> 64 & 0xFFFF_FFFF) << 32
        handler = offset
    else:
        handler = (_base(descriptor) + offset) & 0xFFFF_FFFF
    conforming = descriptor >> 42 & 1
    ring = state.cpl if conforming else descriptor >> 45 & 3
    step = walk(state, read, handler, "execute", cpl=ring)
    cannot = f"the handler of {name} at {handler:#x} cannot be executed: {step.stop}"
    if "canonical" in step.stop:
        return Failure(cannot, _GP)
    stack = _stack(state, read, name, ring, gate >> 32 & 7 if state.long_mode else 0, kind)
    if stack is not None:
        return stack
    if step.gpa is None:
        return Failure(cannot, _PF, delivered=True)
    if not in_memory(read, step.gpa):
        return Failure(f"the handler of {name} at {handler:#x} is not in memory")
    return None


def _stack(
    state: CpuState, read: Read, name: str, ring: int, ist: int, kind: int
) -> Failure | None:
    """Check the stack that the frame is pushed on: the current one, or one out of the TSS."""
    if ist or ring < state.cpl:
        size = 8 if state.long_mode else 4
        offset = 0x24 + 8 * (ist - 1) if ist else 4 + 8 * ring
        which = f"IST{ist}" if ist else f"the ring {ring} stack"
        needs = f"{name} needs {which}, but"
        if state.tr.selector & ~3 == 0 and state.tr.base == 0:
            return Failure(f"{needs} no TSS is loaded (TR is {state.tr.selector:#x})", _TS)
        if offset + size - 1 > state.tr.limit:
            return Failure(f"{needs} the TSS ends before it (limit {state.tr.limit:#x})", _TS)
        data = read_linear(state, read, state.tr.base + offset, size)
        if len(data) < size:
            text = f"{needs} the TSS at {state.tr.base:#x} is not in memory"
            return Failure(text, _absent(state))
        top, which = int.from_bytes(data, "little"), f"{which} of the TSS"
    else:
        top, which = state.linear_rsp, "the stack"
    slot = 8 if state.long_mode else 4 if kind >= 0xE else 2
    pushed = top - slot
    if state.long_mode:
        pushed = (top & ~0xF) - slot
    pushed &= 0xFFFF_FFFF_FFFF_FFFF if state.long_mode else 0xFFFF_FFFF
    step = walk(state, read, pushed, "write", cpl=ring)
    if step.gpa is None:
        return Failure(
            f"{which} for {name} at {pushed:#x} cannot be written: {step.stop}",
            _SS if "canonical" in step.stop else _PF,
        )
    if not in_memory(read, step.gpa):
        return Failure(f"{which} for {name} at {pushed:#x} is not in memory")
    return None


def _base(descriptor: int) -> int:
    return (descriptor >> 16 & 0xFF_FFFF) | (descriptor >> 56 & 0xFF) << 24


def descriptor_problem(
    state: CpuState, read: Read, selector: int, *, code: bool
) -> tuple[str, int]:
    """Check the segment descriptor of `selector`: what is wrong with it, and its 8 bytes.

    `code` says that CS is to be loaded with it, otherwise a data segment register.
    """
    if selector & ~3 == 0:
        # Data segments may be null; they fault when they are used.
        return ("it is the null selector", 0) if code else ("", 0)
    table, limit = (
        (state.ldt.base, state.ldt.limit) if selector & 4 else (state.gdt.base, state.gdt.limit)
    )
    name = "LDT" if selector & 4 else "GDT"
    offset = selector & ~7
    if offset + 7 > limit:
        return f"the {name} ends before it (limit {limit:#x})", 0
    data = read_linear(state, read, table + offset, 8)
    if len(data) < 8:
        return f"its descriptor at {table + offset:#x} is in memory that is not there", 0
    value = int.from_bytes(data, "little")
    what = f"the {name} entry at {table + offset:#x}"
    if not value:
        return f"{what} is all zero", value
    if not value >> 44 & 1:
        return f"{what} is a system descriptor", value
    if code and not value >> 43 & 1:
        return f"{what} is a data segment", value
    if not value >> 47 & 1:
        return f"{what} is not present", value
    if code and state.long_mode and value >> 53 & 1 and value >> 54 & 1:
        return f"{what} has both L and D set", value
    return "", value
