"""Where a guest hangs: what it waits for, or where it loops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from vmm.cpustate import CpuState
from vmm.explain.bios_wait import bios_wait
from vmm.explain.cause import Cause
from vmm.explain.death import Death, SeenExit
from vmm.explain.disassembly import Line, around_rip, decode
from vmm.explain.names import name_of, named
from vmm.explain.operands import Touch, memory_operands
from vmm.explain.page_walk import Read, read_linear
from vmm.explain.stack import callers
from vmm.explain.waiting import waiting_cause

__all__ = ["find_loop", "halt_cause", "timeout_cause"]

_POLL = 4
"""So many equal exits in a row are polling."""
_PERIODS = range(1, 9)
"""How many different exits a loop of polling may make."""
_REACH = 24
"""How many instructions before and behind RIP a loop is looked for in."""
_LOOK_UP = 3
"""In how many callers one is looked for."""
_TEST = re.compile(r"(?:test|and) (?:[er]?a[lx]), (0x[0-9a-f]+|\d+)")
_DEVICE = "the device it waits for may be missing, or not answer as it expects"
_NO_DEVICE = "nothing answers there, as on a PC without that device: it reads as all ones"
_LONGER = "more time or exits (--timeout, --max-exits) help only if something ends the loop"


def halt_cause(death: Death) -> Cause:
    """Explain a HLT that nothing will end."""
    state = death.cpu
    if state is not None and not state.interrupts_enabled:
        return Cause(
            "HLT with interrupts disabled (RFLAGS.IF is clear): only an NMI or a reset could end "
            "it",
            advice=("enable interrupts with STI before HLT, if it was meant to go on",),
        )
    if death.interrupts is not None:
        return waiting_cause(death.interrupts)
    return Cause(
        "HLT waits for an interrupt, and nothing is set up to send one",
        advice=("program a timer or a device, or give the machine an irqchip (--irqchip)",),
    )


def timeout_cause(death: Death) -> Cause:
    """Say what a guest was doing when its time was up, or it was stopped."""
    state = death.cpu
    if state is None:
        return Cause("the registers could not be read")
    if death.halted:
        return halt_cause(death)
    in_bios = bios_wait(state, death.read) if death.bios else None
    if in_bios is not None:
        return in_bios
    loop = _loop(state, death)
    polled = _polled(death.last_exits)
    if polled is not None:
        return _polling(death, polled, loop)
    if loop is None:
        return Cause(
            f"it was still running in {state.mode} mode, ring {state.cpl}",
            advice=("give it a longer --timeout, or look at the code around RIP",),
        )
    waits = _memory_wait(state, death, loop)
    if waits is not None:
        return waits
    return Cause(_told(death, state, loop, "an endless loop"), advice=(_LONGER,))


# -- loops ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loop:
    lines: list[Line]
    calls: int
    """How many calls deeper the vCPU was."""


def _loop(state: CpuState, death: Death) -> _Loop | None:
    lines = find_loop(state, death.read)
    if lines:
        return _Loop(lines, 0)
    for depth, rip in enumerate(callers(state, death.read, most=_LOOK_UP), 1):
        lines = find_loop(replace(state, rip=rip), death.read)
        if lines:
            return _Loop(lines, depth)
    return None


def _told(death: Death, state: CpuState, loop: _Loop, front: str) -> str:
    """ "an endless loop of 3 instructions in main+0x4, from 0x1000 to 0x1008"."""
    lines = loop.lines
    name = name_of(death.symbols, state, lines[0].address)
    where = f" in {name}" if name else ""
    if len(lines) == 1:
        return f"{front} of one instruction{where}: {lines[0].text}"
    ends = f"from {lines[0].address:#x} to {lines[-1].address:#x}"
    deeper = f", {loop.calls} call{'s' if loop.calls > 1 else ''} deeper now" if loop.calls else ""
    return f"{front} of {len(lines)} instructions{where}, {ends}{deeper}"


def find_loop(state: CpuState, read: Read) -> list[Line]:
    """The innermost loop around RIP: from a jump's target, at or before RIP, to that jump.

    Empty if there is none within a few instructions, or no disassembler.
    """
    lines = around_rip(state, read, before=_REACH, after=_REACH)
    here = next((n for n, line in enumerate(lines) if line.current), None)
    if here is None:
        return []
    for number in range(here, len(lines)):
        words = lines[number].text.split()
        if words and words[0].startswith(("ret", "iret", "ud2")):
            break
        if not words or not words[0].startswith(("j", "loop")) or len(words) != 2:
            continue
        try:
            target = int(words[1], 0)
        except ValueError:
            continue
        starts = [n for n in range(here + 1) if lines[n].address == target]
        if starts:
            body = lines[starts[0] : number + 1]
            # An invalid instruction in between means that the guess about boundaries was wrong.
            return body if all(b.address > a.address for a, b in pairwise(body)) else []
    return []


# -- polling --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Polled:
    exits: tuple[SeenExit, ...]
    """The exits that come again and again, in their order."""
    count: int
    """How many of the last exits were these."""


def _polled(exits: tuple[SeenExit, ...]) -> _Polled | None:
    """The shortest sequence that the last exits repeat."""
    for period in _PERIODS:
        count = period
        while count < len(exits) and exits[-count - 1] == exits[-count - 1 + period]:
            count += 1
        if count >= max(_POLL, 2 * period + 1):
            return _Polled(exits[-period:], count)
    return None


def _polling(death: Death, polled: _Polled, loop: _Loop | None) -> Cause:
    state = death.cpu
    assert state is not None
    details = [] if loop is None else [_told(death, state, loop, "it is in a loop")]
    if len(polled.exits) > 1:
        details += [f"again and again: {one.text}" for one in polled.exits]
        reads = {one.place for one in polled.exits if one.place and not one.write}
        where = f", and reads {' and '.join(sorted(reads))}" if 0 < len(reads) < 3 else ""
        number = len(polled.exits)
        return Cause(f"it repeats the same {number} exits{where}", tuple(details), (_DEVICE,))
    one = polled.exits[0]
    details.append(f"the last {polled.count} exits are all: {one.text}")
    if not one.place:
        return Cause(f"it exits again and again: {one.text}", tuple(details), (_DEVICE,))
    if one.write:
        return Cause(
            f"it writes {one.value:#x} to {one.place} again and again", tuple(details), (_LONGER,)
        )
    meaning = f" ({one.meaning})" if one.meaning else ""
    waited = _waited_bits(one, loop)
    sentence = f"it polls {one.place}, which always reads {one.value:#x}{meaning}{waited}"
    advice = _NO_DEVICE if one.place.endswith("(no device)") else _DEVICE
    return Cause(sentence, tuple(details), (advice, _LONGER))


def _waited_bits(one: SeenExit, loop: _Loop | None) -> str:
    """What the loop tests of what it reads: ": it waits for DR to be set"."""
    for line in () if loop is None or loop.calls else loop.lines:
        match = _TEST.fullmatch(line.text)
        if match is None:
            continue
        mask = int(match[1], 0)
        names = [name for bit, name in one.bits.items() if bit & mask]
        alone = f"bit {mask.bit_length() - 1}" if mask.bit_count() == 1 else f"a bit of {mask:#x}"
        what = "|".join(names) or alone
        return f": it waits for {what} to be {'cleared' if one.value & mask else 'set'}"
    return ""


# -- waiting for memory -----------------------------------------------------------------------


def _memory_wait(state: CpuState, death: Death, loop: _Loop) -> Cause | None:
    """A loop that only looks at memory waits for somebody else to change it."""
    if loop.calls:
        return None
    touches = list(_touches(state, loop.lines))
    if not touches or any(touch.access != "read" for touch in touches):
        return None
    if len({touch.linear for touch in touches}) > 1:
        return None
    touch = touches[0]
    data = read_linear(state, death.read, touch.linear, touch.size)
    now = f", which is {int.from_bytes(data, 'little'):#x}" if len(data) == touch.size else ""
    where = named(death.symbols, touch.linear)
    sentence = f"it waits for memory at {where}{now}, to change"
    advice = "see who was to write there: an interrupt handler, another processor, a device"
    loop_told = _told(death, state, loop, "it is in a loop")
    if death.cpus == 1 and not state.interrupts_enabled:
        sentence += ", with interrupts disabled (RFLAGS.IF is clear): no handler can run"
        advice = "enable interrupts with STI before the loop, if a handler is to write there"
    return Cause(sentence, (loop_told,), (advice,))


def _touches(state: CpuState, lines: list[Line]) -> Iterator[Touch]:
    for line in lines:
        instruction = decode(line.data, line.address, state.code_size)
        if instruction is not None:
            yield from memory_operands(state, instruction)
