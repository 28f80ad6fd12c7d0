"""A guest CPU's state as plain data, and what the processor makes of it.

The explanation of a death, the trace and the tests look at a `CpuState`; nothing here touches
KVM. Fields have KVM's names. The defaults are the state after RESET, so that a test names only
what differs.

Spec: AMD64 APM vol. 2, "Processor Initialization State"; "Determining the Processor's Mode of
Execution". KVM API, KVM_GET_REGS and KVM_GET_SREGS.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

__all__ = [
    "CR0_BITS",
    "CR4_BITS",
    "EFER_BITS",
    "CpuState",
    "DescriptorTable",
    "Paging",
    "Segment",
    "bit_words",
    "register_lines",
]

Paging = Literal["off", "32-bit", "PAE", "4-level", "5-level"]

RFLAGS_BITS = {
    0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF",
    14: "NT", 16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID",
}  # fmt: skip
CR0_BITS = {
    0: "PE", 1: "MP", 2: "EM", 3: "TS", 4: "ET", 5: "NE", 16: "WP", 18: "AM", 29: "NW",
    30: "CD", 31: "PG",
}  # fmt: skip
CR4_BITS = {
    0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE",
    9: "OSFXSR", 10: "OSXMMEXCPT", 11: "UMIP", 12: "LA57", 13: "VMXE", 14: "SMXE",
    16: "FSGSBASE", 17: "PCIDE", 18: "OSXSAVE", 19: "KL", 20: "SMEP", 21: "SMAP", 22: "PKE",
    23: "CET", 24: "PKS", 25: "UINTR", 28: "LAM_SUP",
}  # fmt: skip
EFER_BITS = {
    0: "SCE", 8: "LME", 10: "LMA", 11: "NXE", 12: "SVME", 13: "LMSLE", 14: "FFXSR", 15: "TCE",
    20: "AIBRSE", 21: "UAIE",
}  # fmt: skip


def bit_words(value: int, names: dict[int, str]) -> str:
    """Name the bits that are set in `value`, lowest first; bits without a name by number."""
    words = []
    for bit in range(value.bit_length()):
        if value >> bit & 1:
            # RFLAGS bit 1 always reads as one and says nothing.
            if bit == 1 and names is RFLAGS_BITS:
                continue
            words.append(names.get(bit, f"bit{bit}"))
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part. `limit` is the last offset, in bytes."""

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    type: int = 0x3
    present: int = 1
    dpl: int = 0
    db: int = 0
    s: int = 1
    l: int = 0  # noqa: E741 (the specification's name)
    g: int = 0
    avl: int = 0
    unusable: int = 0

    @classmethod
    def from_kvm(cls, segment: Any) -> Segment:
        """Copy a kvm_segment."""
        return cls(**{part.name: int(getattr(segment, part.name)) for part in fields(cls)})

    def describe(self) -> str:
        """Say in a few words what the hidden part allows: "code 32-bit, DPL 0"."""
        if self.unusable or not self.present:
            return "unusable" if self.unusable else "not present"
        if not self.s:
            kinds = {1: "TSS16", 2: "LDT", 3: "TSS16 busy", 9: "TSS", 11: "TSS busy"}
            return kinds.get(self.type, f"system type {self.type}")
        if self.type & 8:
            kind = "code 64-bit" if self.l else f"code {32 if self.db else 16}-bit"
        else:
            kind = "data" if self.type & 2 else "data read-only"
        return f"{kind}, DPL {self.dpl}"


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """GDTR or IDTR. `limit` is the offset of the table's last byte."""

    base: int = 0
    limit: int = 0xFFFF


def _data() -> Segment:
    return Segment()


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuState:
    """One vCPU's registers, unsigned; without FPU, MSRs and debug registers."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0xFFF0
    rflags: int = 0x2
    cs: Segment = field(default_factory=lambda: Segment(0xF000, 0xFFFF_0000, type=0xB))
    ds: Segment = field(default_factory=_data)
    es: Segment = field(default_factory=_data)
    fs: Segment = field(default_factory=_data)
    gs: Segment = field(default_factory=_data)
    ss: Segment = field(default_factory=_data)
    tr: Segment = field(default_factory=lambda: Segment(type=0xB, s=0))
    ldt: Segment = field(default_factory=lambda: Segment(type=0x2, s=0))
    gdt: DescriptorTable = field(default_factory=DescriptorTable)
    idt: DescriptorTable = field(default_factory=DescriptorTable)
    cr0: int = 0x6000_0010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0xFEE0_0900

    @classmethod
    def from_kvm(cls, regs: Any, sregs: Any) -> CpuState:
        """Copy a kvm_regs and a kvm_sregs (or kvm_sregs2), or anything with their fields."""
        values: dict[str, Any] = {name: int(getattr(regs, name)) for name in _GENERAL}
        for name in _SEGMENTS:
            values[name] = Segment.from_kvm(getattr(sregs, name))
        for name in ("gdt", "idt"):
            table = getattr(sregs, name)
            values[name] = DescriptorTable(int(table.base), int(table.limit))
        for name in _CONTROL:
            values[name] = int(getattr(sregs, name))
        return cls(**values)

    @property
    def mode(self) -> str:
        """The execution mode: "real", "virtual-8086", "protected 16-bit", "protected 32-bit",
        "long 64-bit", "long compatibility 32-bit" or "long compatibility 16-bit"."""
        if not self.cr0 & 1:
            return "real"
        if self.long_mode:
            return "long 64-bit" if self.cs.l else f"long compatibility {self.code_size}-bit"
        if self.rflags >> 17 & 1:
            return "virtual-8086"
        return f"protected {self.code_size}-bit"

    @property
    def long_mode(self) -> bool:
        """Whether long mode is active (EFER.LMA), 64-bit or compatibility."""
        return bool(self.cr0 & 1 and self.efer >> 10 & 1)

    @property
    def segmented(self) -> bool:
        """Whether addresses are told as segment:offset (real and virtual-8086 mode)."""
        return self.mode in ("real", "virtual-8086")

    @property
    def paging(self) -> Paging:
        """How linear addresses are translated.

        Spec: AMD64 APM vol. 2, "Page Translation Overview".
        """
        if not self.cr0 >> 31 & 1:
            return "off"
        if not self.cr4 >> 5 & 1:
            return "32-bit"
        if not self.efer >> 10 & 1:
            return "PAE"
        return "5-level" if self.cr4 >> 12 & 1 else "4-level"

    @property
    def code_size(self) -> Literal[16, 32, 64]:
        """The default operand size of code, in bits; what a disassembler needs to know."""
        if self.long_mode and self.cs.l:
            return 64
        if self.cr0 & 1 and not self.rflags >> 17 & 1 and self.cs.db:
            return 32
        # Real mode runs 32-bit code too, while CS still holds a 32-bit descriptor.
        return 32 if not self.cr0 & 1 and self.cs.db else 16

    @property
    def cpl(self) -> int:
        """The current privilege level, 0 to 3.

        SS.DPL holds it; CS.RPL does not between setting CR0.PE and the far jump.
        """
        if not self.cr0 & 1:
            return 0
        return 3 if self.mode == "virtual-8086" else self.ss.dpl

    @property
    def linear_rip(self) -> int:
        """The linear address of the next instruction."""
        return self.linear(self.cs, self.rip)

    @property
    def linear_rsp(self) -> int:
        """The linear address of the top of the stack."""
        size = 64 if self.code_size == 64 else 32 if self.ss.db else 16
        return self.linear(self.ss, self.rsp & ((1 << size) - 1))

    def linear(self, segment: Segment, offset: int) -> int:
        """The linear address of `offset` in `segment`; 64-bit code has FS and GS bases only."""
        if self.code_size == 64:
            base = segment.base if segment in (self.fs, self.gs) else 0
            return (base + offset) & 0xFFFF_FFFF_FFFF_FFFF
        return (segment.base + (offset & 0xFFFF_FFFF)) & 0xFFFF_FFFF

    @property
    def location(self) -> str:
        """RIP as a debugger tells it: "0000:7c05" or "ffffffff81000000"."""
        if self.segmented:
            return f"{self.cs.selector:04x}:{self.rip:04x}"
        return f"{self.rip:016x}" if self.code_size == 64 else f"{self.rip:08x}"

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return bool(self.rflags >> 9 & 1)

    @property
    def flags(self) -> str:
        """The set flags by name: "ZF IF"."""
        return bit_words(self.rflags, RFLAGS_BITS)

    @property
    def is_reset_state(self) -> bool:
        """Whether this is what RESET or INIT leaves behind, at the first instruction.

        Spec: AMD64 APM vol. 2, "Processor Initialization State".
        """
        # RDX holds the processor's signature; INIT keeps CR0.CD and CR0.NW as they were.
        cleared = not any(getattr(self, n) for n in _GENERAL if n not in ("rip", "rflags", "rdx"))
        return (
            cleared
            and self.rip == 0xFFF0
            and self.cs.base == 0xFFFF_0000
            and self.cr0 & ~0x6000_0000 == 0x10
        )


_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
)  # fmt: skip


def register_lines(state: CpuState) -> list[str]:
    """Lay out a state for reading: at most 100 columns, values in hexadecimal."""
    # 32-bit names only while no upper half would be hidden.
    wide = state.code_size == 64 or any(getattr(state, name) >> 32 for name in _GENERAL)
    names = _GENERAL[:16] if wide else _GENERAL[:8]
    digits = 16 if wide else 8

    def shown(name: str) -> str:
        title = name if wide else name.replace("r", "e", 1)
        return f"{title:>3} {getattr(state, name):0{digits}x}"

    lines = ["  ".join(shown(n) for n in names[i : i + 4]) for i in range(0, len(names), 4)]
    lines.append(f"{shown('rip')}  {'' if wide else 'e'}flags {state.rflags:08x} [{state.flags}]")
    for name in _SEGMENTS:
        s = getattr(state, name)
        lines.append(
            f"{name:>3} {s.selector:04x}  base {s.base:0{digits}x}  limit {s.limit:08x}  "
            f"{s.describe()}"
        )
    for name in ("gdt", "idt"):
        table = getattr(state, name)
        lines.append(f"{name:>3}       base {table.base:0{digits}x}  limit {table.limit:08x}")
    lines.append(f"cr0 {state.cr0:08x} [{bit_words(state.cr0, CR0_BITS)}]")
    lines.append(f"cr2 {state.cr2:0{digits}x}  cr3 {state.cr3:0{digits}x}  cr8 {state.cr8:x}")
    lines.append(f"cr4 {state.cr4:08x} [{bit_words(state.cr4, CR4_BITS)}]")
    lines.append(f"efer {state.efer:08x} [{bit_words(state.efer, EFER_BITS)}]")
    lines.append(f"{state.mode} mode, ring {state.cpl}, paging {state.paging}")
    return lines
