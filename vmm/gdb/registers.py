"""A vCPU's registers under the names of the target descriptions.

Spec: KVM API, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_FPU; Intel SDM vol. 1, "x87 FPU Tag Word".
"""

from __future__ import annotations

from typing import Any

from vmm.cpustate import CpuState
from vmm.gdb.target_xml import Layout, Register
from vmm.vcpu import Vcpu

__all__ = ["pack", "read", "state_of", "unpack", "write"]

_EXTENDED = {f"e{name}": f"r{name}" for name in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")}
_PLAIN = frozenset(_EXTENDED.values()) | {f"r{n}" for n in range(8, 16)}
_SELECTORS = frozenset({"cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"})
_TABLES = frozenset({"gdt", "idt"})
_CONTROL = frozenset({"cr0", "cr2", "cr3", "cr4", "cr8", "efer"})
_FPU = {"fctrl": "fcw", "fstat": "fsw", "fop": "last_opcode", "mxcsr": "mxcsr"}
_FPU_POINTERS = {"fioff": ("last_ip", 0), "fiseg": ("last_ip", 32),
                 "fooff": ("last_dp", 0), "foseg": ("last_dp", 32)}  # fmt: skip


def state_of(vcpu: Vcpu) -> CpuState:
    """The vCPU's state, while it stands still."""
    return CpuState.from_kvm(vcpu.regs, vcpu.sregs)


def read(vcpu: Vcpu) -> dict[str, int]:
    """All registers of all descriptions, by name, while the vCPU stands still."""
    state = state_of(vcpu)
    found = {name: getattr(state, name) for name in _PLAIN | _CONTROL}
    found |= {short: getattr(state, long) for short, long in _EXTENDED.items()}
    found |= {"eflags": state.rflags, "ip": state.rip}
    found["rip"] = found["eip"] = state.linear_rip
    for name in _SELECTORS:
        found[name] = getattr(state, name).selector
        found[f"{name}_base"] = getattr(state, name).base
    for name in _TABLES:
        found[f"{name}_base"] = getattr(state, name).base
        found[f"{name}_limit"] = getattr(state, name).limit
    fpu = vcpu.kvm.get_fpu()
    for number in range(8):
        found[f"st{number}"] = int.from_bytes(bytes(fpu.fpr[number])[:10], "little")
    for number in range(16):
        found[f"xmm{number}"] = int.from_bytes(bytes(fpu.xmm[number]), "little")
    found |= {name: getattr(fpu, field) for name, field in _FPU.items()}
    for name, (field, shift) in _FPU_POINTERS.items():
        found[name] = getattr(fpu, field) >> shift & 0xFFFF_FFFF
    found["ftag"] = _full_tags(fpu)
    return found


def write(vcpu: Vcpu, name: str, value: int) -> bool:
    """Give a register a value, while the vCPU stands still; say whether there is such a one that
    can be written."""
    if name in _EXTENDED:
        name = _EXTENDED[name]
    if name in _PLAIN:
        setattr(vcpu.regs, name, value)
    elif name == "eflags":
        vcpu.regs.rflags = value
    elif name == "ip":
        vcpu.regs.rip = value
    elif name in ("rip", "eip"):
        state = state_of(vcpu)
        base = 0 if state.code_size == 64 else state.cs.base
        vcpu.regs.rip = value - base & (0xFFFF_FFFF_FFFF_FFFF if name == "rip" else 0xFFFF_FFFF)
    elif name in _CONTROL:
        setattr(vcpu.sregs, name, value)
    elif name in _SELECTORS:
        _load_segment(vcpu, name, value & 0xFFFF)
    elif name.endswith("_base") and name[:-5] in _SELECTORS | _TABLES:
        getattr(vcpu.sregs, name[:-5]).base = value
    elif name.endswith("_limit"):
        getattr(vcpu.sregs, name[:-6]).limit = value & 0xFFFF
    else:
        return _write_fpu(vcpu, name, value)
    return True


def pack(layout: Layout, values: dict[str, int]) -> str:
    """Registers as they stand in a packet, in hexadecimal; one that holds more than the description
    has room for is told as unavailable."""
    return "".join(pack_one(register, values[register.name]) for register in layout.registers)


def pack_one(register: Register, value: int) -> str:
    """One register as it stands in a packet."""
    if value >> register.bits:
        return "x" * (2 * register.size)
    return value.to_bytes(register.size, "little").hex()


def unpack(layout: Layout, data: bytes) -> dict[str, int]:
    """The values of as many registers as are there whole."""
    found, at = {}, 0
    for register in layout.registers:
        if at + register.size > len(data):
            break
        found[register.name] = int.from_bytes(data[at : at + register.size], "little")
        at += register.size
    return found


def _load_segment(vcpu: Vcpu, name: str, selector: int) -> None:
    """Change a selector; in real and virtual-8086 mode its base goes with it."""
    segment = getattr(vcpu.sregs, name)
    if segment.selector == selector:
        return
    segment.selector = selector
    if state_of(vcpu).segmented:
        segment.base = selector << 4


def _write_fpu(vcpu: Vcpu, name: str, value: int) -> bool:
    fpu = vcpu.kvm.get_fpu()
    if name in _FPU:
        setattr(fpu, _FPU[name], value)
    elif name in _FPU_POINTERS:
        field, shift = _FPU_POINTERS[name]
        keep = getattr(fpu, field) & ~(0xFFFF_FFFF << shift)
        setattr(fpu, field, keep | value << shift)
    elif name == "ftag":
        fpu.ftwx = sum(1 << n for n in range(8) if value >> 2 * n & 3 != 3)
    elif name[:2] == "st":
        fpu.fpr[int(name[2:])][:10] = list(value.to_bytes(10, "little"))
    elif name[:3] == "xmm":
        fpu.xmm[int(name[3:])][:] = list(value.to_bytes(16, "little"))
    else:
        return False
    vcpu.kvm.set_fpu(fpu)
    return True


def _full_tags(fpu: Any) -> int:
    """The tag word, two bits a register, of the one that has only whether it is empty."""
    top, tags = fpu.fsw >> 11 & 7, 0
    for number in range(8):
        value = int.from_bytes(bytes(fpu.fpr[number - top & 7])[:10], "little")
        exponent, fraction = value >> 64 & 0x7FFF, value & (1 << 64) - 1
        if not fpu.ftwx >> number & 1:
            tag = 3  # empty
        elif exponent in (0, 0x7FFF):
            tag = 2 if fraction or exponent else 1  # special; zero
        else:
            tag = 0 if fraction >> 63 else 2  # valid; unnormal
        tags |= tag << 2 * number
    return tags
