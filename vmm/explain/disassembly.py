"""The instructions around RIP.

Capstone is imported when it is first needed (it takes 0.1 s); where it is not installed the
bytes are shown in hexadecimal.

Code before RIP has no certain boundaries: x86 instructions can only be decoded forwards. We
start at the furthest of the bytes before RIP from which decoding meets RIP exactly, meets no
invalid instruction, and the fewest that begin with a zero byte (in front of code is often zeroed
memory, and the tail of a constant). x86 code falls into step within a few instructions, so the
ones shown are nearly always right; other data in front of code can be read as instructions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vmm.cpustate import CpuState
from vmm.explain.page_walk import Read, read_linear

__all__ = [
    "Line",
    "Name",
    "around_rip",
    "at_rip",
    "available",
    "decode",
    "lines_around_rip",
    "no_name",
]

Name = Callable[[int], str]
"""Says what a RIP value is called; "" where nobody knows."""

_BRANCH = re.compile(r"(?:call|j[a-z]+|loop[a-z]*) (0x[0-9a-f]+)")
_LONGEST = 15
"""No x86 instruction is longer, in bytes."""


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction. `address` is a RIP value: the offset in CS, not the linear address."""

    address: int
    data: bytes
    text: str
    current: bool = False


def no_name(rip: int) -> str:
    """Where there are no symbols."""
    return ""


@lru_cache(maxsize=3)
def _decoder(bits: int) -> Any:
    """Capstone for 16, 32 or 64-bit code; None if it is not installed."""
    try:
        import capstone
    except ImportError:
        return None
    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    return decoder


def decode(data: bytes, address: int, bits: int) -> Any | None:
    """Decode the instruction at the start of `data` as a capstone CsInsn.

    None if capstone is missing or the bytes are no instruction.
    """
    decoder = _decoder(bits)
    if decoder is None:
        return None
    return next(decoder.disasm(data[:_LONGEST], address, 1), None)


def available(bits: int = 64) -> bool:
    """Whether there is a disassembler."""
    return _decoder(bits) is not None


def at_rip(state: CpuState, read: Read) -> tuple[bytes, Any | None]:
    """The bytes at RIP (up to 15) and the instruction that they make, as capstone's CsInsn."""
    data = read_linear(state, read, state.linear_rip, _LONGEST)
    return data, decode(data, state.rip, state.code_size)


def _sweep(data: bytes, address: int, bits: int) -> tuple[list[Line], int]:
    """Decode as far as possible: the lines, and how many bytes they took."""
    lines: list[Line] = []
    position = 0
    decoder = _decoder(bits)
    if decoder is not None:
        for at, size, mnemonic, operands in decoder.disasm_lite(data, address):
            taken = data[position : position + size]
            lines.append(Line(at, taken, f"{mnemonic} {operands}".strip()))
            position += size
    return lines, position


def _before(data: bytes, rip: int, bits: int, count: int) -> list[Line]:
    best: list[Line] = []
    fewest = len(data)
    for start in range(len(data)):
        lines, taken = _sweep(data[start:], rip - len(data) + start, bits)
        zeros = sum(line.data[0] == 0 for line in lines)
        if taken == len(data) - start and zeros < fewest:
            best, fewest = lines, zeros
    return best[-count:] if count else []


def around_rip(state: CpuState, read: Read, before: int = 4, after: int = 8) -> list[Line]:
    """Return up to `before` instructions in front of RIP, the one at RIP, and `after` behind."""
    bits, rip, linear = state.code_size, state.rip, state.linear_rip
    if not available(bits):
        return _hex_lines(state, read)
    # Read backwards byte ranges only as far as they are mapped.
    back = min(before * 6 + _LONGEST, rip, linear)
    while back and len(read_linear(state, read, linear - back, back)) < back:
        back //= 2
    lines = _before(read_linear(state, read, linear - back, back), rip, bits, before)
    data = read_linear(state, read, linear, (after + 1) * _LONGEST)
    following, taken = _sweep(data, rip, bits)
    following = following[: after + 1]
    if not following and data:
        following = [Line(rip, data[:8], "(no valid instruction)")]
    elif len(following) <= after and len(data) - taken >= _LONGEST:
        following.append(Line(rip + taken, data[taken : taken + 8], "(no valid instruction)"))
    if following:
        first = following[0]
        following[0] = Line(first.address, first.data, first.text, current=True)
    return lines + following


def _hex_lines(state: CpuState, read: Read) -> list[Line]:
    data = read_linear(state, read, state.linear_rip, 48)
    return [
        Line(state.rip + n, data[n : n + 8], "(capstone is not installed)", current=n == 0)
        for n in range(0, len(data), 8)
    ]


def _hex(data: bytes) -> str:
    """At most ten bytes, so that lines stay short; ".." stands for the rest."""
    return data.hex(" ") if len(data) <= 10 else f"{data[:10].hex(' ')} .."


def lines_around_rip(
    state: CpuState, read: Read, before: int = 4, after: int = 8, name: Name = no_name
) -> list[str]:
    """The same as text; "->" marks RIP. Addresses are as in `CpuState.location`.

    `name` says what a RIP value is called: functions that begin and the targets of jumps get
    their names. Zeroed memory before the code is left out, and behind it cut short.
    """
    lines = around_rip(state, read, before, after)
    while lines and not lines[0].current and not lines[0].data.strip(b"\0"):
        del lines[0]
    for number, line in enumerate(lines[:-1]):
        if not line.current and not line.data.strip(b"\0"):
            # Zeroed memory decodes as ADD; one line of it says enough.
            del lines[number + 1 :]
            break
    digits = 4 if state.segmented else 16 if state.code_size == 64 else 8
    front = f"{state.cs.selector:04x}:" if state.segmented else ""
    shown: list[str] = []
    for line in lines:
        label = name(line.address)
        if label and (not shown or "+" not in label):
            shown.append(f"{label}:")
        shown.append(
            f"{'->' if line.current else '  '} {front}{line.address:0{digits}x}  "
            f"{_hex(line.data):<24}  {line.text}{_target(line.text, name)}"
        )
    return shown


def _target(text: str, name: Name) -> str:
    """What a jump's or call's target is called: " <main>"."""
    match = _BRANCH.fullmatch(text)
    found = name(int(match[1], 16)) if match else ""
    return f" <{found}>" if found else ""
