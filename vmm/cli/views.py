"""A machine's state as lines of text, for a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm import decode
from vmm.cpustate import CpuState
from vmm.explain import disassembly
from vmm.explain.names import name_of
from vmm.explain.page_walk import read_linear, walk

if TYPE_CHECKING:
    from vmm.exits import Exit
    from vmm.machine import Machine

__all__ = [
    "access_line",
    "code_lines",
    "dump_lines",
    "location",
    "location_line",
    "state_of",
    "walk_lines",
]

_LONGEST = 15


def state_of(machine: Machine, vcpu: int = 0) -> CpuState:
    """A vCPU's registers now, with those that were changed but not yet written back."""
    one = machine.vcpus[vcpu]
    return CpuState.from_kvm(one.regs.struct(), one.sregs.struct())


def location(machine: Machine, vcpu: int = 0) -> str:
    """RIP: "0000:7c05 (main+0x5)"."""
    state = state_of(machine, vcpu)
    name = name_of(machine.symbols, state, state.rip)
    return f"{state.location} ({name})" if name else state.location


def location_line(machine: Machine, vcpu: int = 0) -> str:
    """Where a vCPU stands: "vCPU 0 at 0000:7c05 (main+0x5)  e6 10  out 0x10, al"."""
    state = state_of(machine, vcpu)
    line = f"vCPU {vcpu} at {location(machine, vcpu)}"
    data, found = disassembly.at_rip(state, machine.memory.read)
    if found is not None:
        data = bytes(found.bytes)
        return f"{line}  {data.hex(' ')}  {found.mnemonic} {found.op_str}".rstrip()
    return f"{line}  {data[:8].hex(' ')}"


def access_line(machine: Machine, event: Exit) -> str:
    """An exit in the words of the device that it went to."""
    return decode.access_line(event, machine.pio, machine.mmio)


def code_lines(machine: Machine, address: int, count: int, vcpu: int = 0) -> list[str]:
    """`count` instructions from a linear address on."""
    state = state_of(machine, vcpu)
    data = read_linear(state, machine.memory.read, address, count * _LONGEST)
    lines = []
    for _ in range(count):
        if not data:
            lines.append(f"{address:#x}  (not in memory)")
            break
        found = disassembly.decode(data, address, state.code_size)
        if found is None:
            lines.append(f"{address:#x}  {data[:8].hex(' ')}  (no valid instruction)")
            break
        size = found.size
        text = f"{found.mnemonic} {found.op_str}".rstrip()
        lines.append(f"{address:#x}  {data[:size].hex(' '):<24}  {text}")
        address, data = address + size, data[size:]
    return lines


def dump_lines(machine: Machine, address: int, size: int, vcpu: int = 0) -> list[str]:
    """`size` bytes from a linear address on, as far as they are in memory."""
    data = read_linear(state_of(machine, vcpu), machine.memory.read, address, size)
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + start:#x}  {row.hex(' '):<47}  {text}")
    if len(data) < size:
        lines.append(f"{address + len(data):#x}  (not in memory)")
    return lines


def walk_lines(machine: Machine, address: int, vcpu: int = 0) -> list[str]:
    """The walk of the page tables for a linear address."""
    return walk(state_of(machine, vcpu), machine.memory.read, address).lines()
