"""Can an exception reach its handler? Every step from the IDT entry to the pushed frame.

Left out: task gates (only named) and the error code's own checks.

Spec: AMD64 APM vol. 2, "Exceptions and Interrupts", "Interrupt Control Transfers" of real,
legacy protected and long mode.
"""

from __future__ import annotations

from devices.protocols import GuestAddressError
from vmm.cpustate import CpuState
from vmm.explain.page_walk import Read, read_linear, walk
from vmm.explain.vectors import vector_name

__all__ = ["delivery_problem", "descriptor_problem", "in_memory"]


def in_memory(read: Read, gpa: int) -> bool:
    """Whether there is guest memory at `gpa`."""
    try:
        read(gpa, 1)
    except GuestAddressError:
        return False
    return True


def delivery_problem(state: CpuState, read: Read, vector: int) -> str:
    """Say why `vector` cannot be delivered, or "" if nothing stands in its way.

    The text names the vector: "no IDT entry for #UD (vector 6): ...".
    """
    width = 16 if state.long_mode else 8 if state.cr0 & 1 else 4
    name = vector_name(vector)
    first, last = vector * width, vector * width + width - 1
    if last > state.idt.limit:
        return f"no IDT entry for {name}: the IDT's limit {state.idt.limit:#x} is below {last:#x}"
    where = state.idt.base + first
    data = read_linear(state, read, where, width)
    if len(data) < width:
        return f"the IDT entry for {name} at {where:#x} is in memory that is not there"
    if width == 4:
        return _real_mode(state, read, name, data)
    return _gate(state, read, name, int.from_bytes(data, "little"))


def _real_mode(state: CpuState, read: Read, name: str, data: bytes) -> str:
    offset = int.from_bytes(data[:2], "little")
    segment = int.from_bytes(data[2:], "little")
    handler = (segment << 4) + offset
    if not data.strip(b"\0"):
        return f"the interrupt vector for {name} is empty (0000:0000)"
    if not in_memory(read, handler):
        return f"the handler of {name} at {segment:04x}:{offset:04x} is not in memory"
    return ""


def _gate(state: CpuState, read: Read, name: str, gate: int) -> str:
    kind = gate >> 40 & 0x1F
    if not gate >> 47 & 1:
        empty = " (it is all zero)" if not gate else ""
        return f"the IDT entry for {name} is not present{empty}"
    if kind == 0x5 and not state.long_mode:
        return ""  # A task gate: what it does depends on a TSS, which is not followed.
    if kind not in ((0xE, 0xF) if state.long_mode else (0x6, 0x7, 0xE, 0xF)):
        return f"the IDT entry for {name} is not a gate (type {kind:#x})"
    selector = gate >> 16 & 0xFFFF
    problem, descriptor = descriptor_problem(state, read, selector, code=True)
    if problem:
        return f"the IDT entry for {name} names code selector {selector:#x}: {problem}"
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
    if step.gpa is None:
        return f"the handler of {name} at {handler:#x} cannot be executed: {step.stop}"
    if not in_memory(read, step.gpa):
        return f"the handler of {name} at {handler:#x} is not in memory"
    return _stack(state, read, name, ring, gate >> 32 & 7 if state.long_mode else 0, kind)


def _stack(state: CpuState, read: Read, name: str, ring: int, ist: int, kind: int) -> str:
    """Check the stack that the frame is pushed on: the current one, or one out of the TSS."""
    if ist or ring < state.cpl:
        size = 8 if state.long_mode else 4
        offset = 0x24 + 8 * (ist - 1) if ist else 4 + 8 * ring
        which = f"IST{ist}" if ist else f"the ring {ring} stack"
        if state.tr.selector & ~3 == 0 and state.tr.base == 0:
            return f"{name} needs {which}, but no TSS is loaded (TR is {state.tr.selector:#x})"
        if offset + size - 1 > state.tr.limit:
            return f"{name} needs {which}, but the TSS ends before it (limit {state.tr.limit:#x})"
        data = read_linear(state, read, state.tr.base + offset, size)
        if len(data) < size:
            return f"{name} needs {which}, but the TSS at {state.tr.base:#x} is not in memory"
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
        return f"{which} for {name} at {pushed:#x} cannot be written: {step.stop}"
    if not in_memory(read, step.gpa):
        return f"{which} for {name} at {pushed:#x} is not in memory"
    return ""


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
