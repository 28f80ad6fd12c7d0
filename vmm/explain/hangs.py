"""Where a guest hangs: what it waits for, or where it loops."""

from __future__ import annotations

from itertools import pairwise

from vmm.cpustate import CpuState
from vmm.explain.cause import Cause
from vmm.explain.death import Death
from vmm.explain.disassembly import Line, around_rip
from vmm.explain.page_walk import Read

__all__ = ["find_loop", "halt_cause", "timeout_cause"]

_POLL = 4
"""So many equal exits in a row are polling."""
_REACH = 24
"""How many instructions before and behind RIP a loop is looked for in."""


def halt_cause(death: Death) -> Cause:
    """Explain a HLT that nothing will end."""
    state = death.cpu
    if state is None or state.interrupts_enabled:
        return Cause(
            "HLT waits for an interrupt, and nothing is set up to send one",
            advice=("program a timer or a device, or give the machine an irqchip (--irqchip)",),
        )
    return Cause(
        "HLT with interrupts disabled (RFLAGS.IF is clear): only an NMI or a reset could end it",
        advice=("enable interrupts with STI before HLT, if it was meant to go on",),
    )


def timeout_cause(death: Death) -> Cause:
    """Say what a guest was doing when its time was up."""
    state = death.cpu
    if state is None:
        return Cause("the registers could not be read")
    details: list[str] = []
    repeated = _repeated(death.last_exits)
    if repeated:
        details.append(f"the last {repeated[1]} exits are all: {repeated[0]}")
    loop = find_loop(state, death.read)
    if loop:
        first, last = loop[0], loop[-1]
        if len(loop) == 1:
            sentence = f"an endless loop of one instruction: {first.text}"
        else:
            sentence = (
                f"a loop of {len(loop)} instructions, from {first.address:#x} to {last.address:#x}"
            )
        if repeated:
            sentence = f"it polls ({repeated[0]}) in {sentence}"
        advice = "a longer --timeout helps only if something ends the loop"
        return Cause(sentence, tuple(details), (advice,))
    if repeated:
        return Cause(f"it polls: {repeated[0]}", tuple(details), (_DEVICE,))
    return Cause(
        f"it was still running in {state.mode} mode, ring {state.cpl}",
        tuple(details),
        ("give it a longer --timeout, or look at the code around RIP",),
    )


_DEVICE = "the device it waits for may be missing, or not answer as it expects"


def _repeated(last_exits: tuple[str, ...]) -> tuple[str, int] | None:
    """The line that the last exits all are, and how many they are."""
    if len(last_exits) < _POLL:
        return None
    last, count = last_exits[-1], 0
    for line in reversed(last_exits):
        if line != last:
            break
        count += 1
    return (last, count) if count >= _POLL else None


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
