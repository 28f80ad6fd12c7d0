"""The target descriptions: which registers GDB is told of, in 16, 32 and 64-bit mode.

GDB has one architecture at a time, and reads code, stacks and registers by it. So there are three
descriptions, and GDB is given that of the mode which the processor is in when it asks. It asks when
it attaches, and again after `unset tdesc filename`, which the script beside this file does at each
stop.

The instruction pointer that GDB sees is the linear address, base of CS included: that is what it
takes breakpoints and code to be at. Register `ip` has the offset.

Spec: GDB manual, "Target Description Format", "i386 Features".
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.cpustate import CR0_BITS, CR4_BITS, EFER_BITS, RFLAGS_BITS, CpuState

__all__ = ["LAYOUTS", "Layout", "Register", "layout_of"]


class Register(NamedTuple):
    """One register of a description."""

    name: str
    bits: int
    type: str
    feature: str

    @property
    def size(self) -> int:
        """In bytes."""
        return self.bits // 8


_CORE, _SSE = "org.gnu.gdb.i386.core", "org.gnu.gdb.i386.sse"
_SEGMENTS, _SYSTEM = "org.gnu.gdb.i386.segments", "org.glassvm.x86.system"

_X87 = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")

_FLAGS = {
    "x86_rflags": (4, RFLAGS_BITS),
    "x86_cr0": (8, CR0_BITS),
    "x86_cr4": (8, CR4_BITS),
    "x86_efer": (8, EFER_BITS),
}
_VECTOR = """\
<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
"""


def _flags(name: str) -> str:
    size, names = _FLAGS[name]
    fields = "".join(
        f'<field name="{text}" start="{bit}" end="{bit}"/>' for bit, text in names.items()
    )
    return f'<flags id="{name}" size="{size}">{fields}</flags>\n'


class Layout:
    """One description, and the order in which registers stand in packets.

    Args:
        bits: 16, 32 or 64.
        architecture: as GDB calls it.
        general: the general registers, in GDB's order.
        vectors: how many XMM registers there are.
    """

    def __init__(self, bits: int, architecture: str, general: str, vectors: int) -> None:
        self.bits = bits
        self.architecture = architecture
        wide = bits == 64
        size = 64 if wide else 32
        *names, pc = general.split()
        self.pc = pc
        """What it calls the instruction pointer."""
        pointers = ("rsp", "rbp", "esp", "ebp")

        def kind(name: str) -> str:
            return "data_ptr" if name in pointers else f"int{size}"

        found = [Register(name, size, kind(name), _CORE) for name in names]
        found.append(Register(pc, size, "code_ptr", _CORE))
        found.append(Register("eflags", 32, "x86_rflags", _CORE))
        found += [Register(name, 32, "int32", _CORE) for name in _SELECTORS]
        found += [Register(f"st{n}", 80, "i387_ext", _CORE) for n in range(8)]
        found += [Register(name, 32, "int", _CORE) for name in _X87]
        found += [Register(f"xmm{n}", 128, "vec128", _SSE) for n in range(vectors)]
        found.append(Register("mxcsr", 32, "int", _SSE))
        bases = ["cs_base", "ss_base", "ds_base", "es_base"]
        if wide:
            found += [Register(name, 64, "int64", _SEGMENTS) for name in ("fs_base", "gs_base")]
        else:
            bases += ["fs_base", "gs_base"]
        found.append(Register("ip", 64, "int64", _SYSTEM))
        for name in (*bases, "gdt_base", "idt_base", "tr_base", "ldt_base", "cr2", "cr3", "cr8"):
            found.append(Register(name, 64, "int64", _SYSTEM))
        for name in ("gdt_limit", "idt_limit", "tr", "ldt"):
            found.append(Register(name, 32, "int32", _SYSTEM))
        for name in ("cr0", "cr4", "efer"):
            found.append(Register(name, 64, f"x86_{name}", _SYSTEM))
        self.registers = tuple(found)

    def xml(self) -> str:
        """The description, as GDB reads it."""
        # A file that was given to GDB for its symbols may be of the other size: a 64-bit kernel
        # that starts in 32-bit mode.
        others = "".join(
            f"<compatible>{layout}</compatible>\n"
            for layout in ("i386:x86-64", "i386", "i8086")
            if layout != self.architecture
        )
        parts = [
            '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n',
            f'<target version="1.0">\n<architecture>{self.architecture}</architecture>\n',
            f"<osabi>none</osabi>\n{others}",
        ]
        for feature in dict.fromkeys(register.feature for register in self.registers):
            parts.append(f'<feature name="{feature}">\n')
            of_it = [register for register in self.registers if register.feature == feature]
            if feature == _SSE:
                parts.append(_VECTOR)
            parts += [_flags(name) for name in _FLAGS if any(r.type == name for r in of_it)]
            parts += [
                f'<reg name="{r.name}" bitsize="{r.bits}" type="{r.type}"'
                + (' group="system"' if feature == _SYSTEM else "")
                + "/>\n"
                for r in of_it
            ]
            parts.append("</feature>\n")
        parts.append("</target>\n")
        return "".join(parts)


_32 = "eax ecx edx ebx esp ebp esi edi eip"
_64 = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip"

LAYOUTS = {
    16: Layout(16, "i8086", _32, 8),
    32: Layout(32, "i386", _32, 8),
    64: Layout(64, "i386:x86-64", _64, 16),
}


def layout_of(state: CpuState) -> Layout:
    """The description for the mode that a processor is in."""
    return LAYOUTS[state.code_size]
