"""Who called: return addresses from the guest's stack.

Frame pointers are followed where they look sane: aligned, above RSP and rising, with a return
address behind a CALL. Where there are none, the top of the stack is searched for values that are
return addresses by their looks (in executable memory, right behind a CALL); such frames are
guesses, since a stack keeps what was left on it by calls that are over. The stack is the guest's:
nothing in it is believed, and everything is bounded.

16-bit code is left out: near return addresses of two bytes are like any number.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmm.cpustate import CpuState
from vmm.explain.disassembly import decode
from vmm.explain.names import name_of
from vmm.explain.page_walk import Read, read_linear, walk
from vmm.symbols import Symbols

__all__ = ["Frame", "callers", "frame_lines", "stack_trace"]

_MOST_FRAMES = 64
_MOST_SLOTS = 512
"""How much of the stack is searched, in return addresses."""
_LARGEST_FRAME = 1 << 20
_CALL_BYTES = 8
"""A CALL is two to seven bytes, with a prefix one more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One function on the stack. `address` is a RIP value: where it goes on."""

    address: int
    name: str
    guess: bool = False


def stack_trace(state: CpuState, read: Read, symbols: Symbols | None) -> list[Frame]:
    """The functions that are active, innermost first; the first is where RIP is."""

    def name(address: int) -> str:
        if symbols is None:
            return ""
        return symbols.behind(state.linear(state.cs, address)) or ""

    found = [Frame(state.rip, name_of(symbols, state, state.rip))]
    if state.code_size == 16:
        return found
    by_frames = _by_frame_pointers(state, read)
    if by_frames:
        top = _top(state, read)
        # RBP is still the caller's in front of a function's first PUSH, and where it has none.
        addresses = by_frames if top is None or top in by_frames else [top, *by_frames]
        return found + [Frame(address, name(address)) for address in addresses]
    return found + [Frame(a, name(a), guess=True) for a in _by_search(state, read)]


def callers(state: CpuState, read: Read, most: int) -> list[int]:
    """The RIP values that the innermost callers go on at, guesses included."""
    return [frame.address for frame in stack_trace(state, read, None)[1 : most + 1]]


def frame_lines(frames: list[Frame], digits: int) -> list[str]:
    """The trace as text, equal frames in a row once; addresses have so many digits."""
    lines = []
    number = 0
    while number < len(frames):
        frame, count = frames[number], 1
        while number + count < len(frames) and frames[number + count] == frame:
            count += 1
        text = f"{frame.address:0{digits}x}  {frame.name}".rstrip()
        text += "  (a guess: found on the stack)" if frame.guess else ""
        lines.append(text + (f"  ({count} times)" if count > 1 else ""))
        number += count
    return lines


def _slot(state: CpuState) -> int:
    return state.code_size // 8


def _top(state: CpuState, read: Read) -> int | None:
    """The return address on top of the stack, if there is one."""
    data = read_linear(state, read, state.linear_rsp, _slot(state))
    value = int.from_bytes(data, "little")
    return value if len(data) == _slot(state) and _is_return(state, read, value) else None


def _by_frame_pointers(state: CpuState, read: Read) -> list[int]:
    size = _slot(state)
    mask = (1 << 8 * size) - 1
    frame, last = state.rbp & mask, state.rsp & mask
    found: list[int] = []
    while len(found) < _MOST_FRAMES:
        if frame % size or not last <= frame <= last + _LARGEST_FRAME:
            break
        data = read_linear(state, read, state.linear(state.ss, frame), 2 * size)
        if len(data) < 2 * size:
            break
        address = int.from_bytes(data[size:], "little")
        if not _is_return(state, read, address):
            break
        found.append(address)
        frame, last = int.from_bytes(data[:size], "little"), frame + size
    return found


def _by_search(state: CpuState, read: Read) -> list[int]:
    size = _slot(state)
    data = read_linear(state, read, state.linear_rsp, _MOST_SLOTS * size)
    values = (
        int.from_bytes(data[at : at + size], "little")
        for at in range(0, len(data) - size + 1, size)
    )
    known: dict[int, bool] = {}
    found = []
    for value in values:
        if value not in known:
            known[value] = _is_return(state, read, value)
        if known[value]:
            found.append(value)
    return found


def _is_return(state: CpuState, read: Read, address: int) -> bool:
    """Whether `address` may be executed and lies right behind a CALL."""
    linear = state.linear(state.cs, address)
    if address < _CALL_BYTES or not walk(state, read, linear, "execute").ok:
        return False
    before = read_linear(state, read, state.linear(state.cs, address - _CALL_BYTES), _CALL_BYTES)
    if len(before) < _CALL_BYTES:
        return False
    for length in range(2, _CALL_BYTES):
        instruction = decode(before[-length:], address - length, state.code_size)
        if (
            instruction is not None
            and instruction.size == length
            and instruction.mnemonic.endswith("call")
        ):
            return True
    return False
