"""The explanation of a death: one sentence, the cause, what to try, and the evidence.

Text is plain and at most 100 columns wide, so that it reads well in a terminal, in a CI log and
aloud.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from vmm.cpustate import register_lines
from vmm.explain.cause import Cause
from vmm.explain.causes import find_cause
from vmm.explain.death import NEVER_STARTED, Death, OtherVcpu
from vmm.explain.facts import SHOWN_EXITS, Evidence, gather, to_facts
from vmm.explain.names import name_of
from vmm.explain.stack import frame_lines

__all__ = ["Explanation", "Section", "explain"]

_TITLES = {
    "shutdown": "guest died: triple fault",
    "fail_entry": "guest died: the processor refused to enter it",
    "internal_error": "guest died: KVM internal error",
    "memory_fault": "guest died: memory fault",
    "unclaimed_access": "guest stopped",
    "unhandled_exit": "guest stopped: an exit that is not handled",
    "timeout": "guest timed out",
    "max_exits": "the run reached its limit of exits",
    "stopped": "the run was stopped",
    "halt": "guest halted for good",
    "device_fault": "the VMM failed",
    "panic": "guest died: its kernel panicked",
}


@dataclass(frozen=True, slots=True)
class Section:
    """One block of evidence. `lines` are already laid out."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A death, explained."""

    headline: str
    """One sentence: what, where, in which mode, after how many exits, why."""
    cause: Cause
    sections: tuple[Section, ...]
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    """The evidence as plain values (see `vmm.explain.facts`)."""

    def sentence(self, width: int = 100) -> str:
        """The headline alone, as plain text."""
        return "\n".join(_wrap(self.headline, "", width - len("vmm: ")))

    def summary(self, width: int = 100) -> str:
        """The headline, why, and what to try; as plain text, without the evidence."""
        lines = [self.sentence(width)]  # the command puts its name there
        for detail in self.cause.details:
            lines += _wrap(detail, "  why: ", width)
        for advice in self.cause.advice:
            lines += _wrap(advice, "  try: ", width)
        return "\n".join(lines)

    def text(self, width: int = 100) -> str:
        """The whole explanation as plain text, without a final newline."""
        lines = [self.summary(width)]
        for section in self.sections:
            lines += ["", f"{section.title}:"]
            lines += [_clip(f"  {line}".rstrip(), width) for line in section.lines]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold; addresses are numbers."""
        return {
            "headline": self.headline,
            "cause": self.cause.sentence,
            "details": list(self.cause.details),
            "advice": list(self.cause.advice),
            **self.facts,
            "sections": {section.title: list(section.lines) for section in self.sections},
        }


def _clip(line: str, width: int) -> str:
    """A line of evidence is laid out already; what is too long (a mangled name) is cut."""
    return line if len(line) <= width else f"{line[: width - 2]}.."


def _wrap(text: str, front: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=front,
        subsequent_indent=" " * (len(front) or 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def explain(death: Death) -> Explanation:
    """Explain a death from what is known about it. Never raises."""
    cause = find_cause(death)
    evidence = gather(death)
    sections = tuple(_sections(death, evidence))
    return Explanation(_headline(death, cause), cause, sections, to_facts(death, evidence))


def _headline(death: Death, cause: Cause) -> str:
    words = [_TITLES[death.kind]]
    state = death.state
    if state is not None:
        where = "near" if death.state_was_reset and death.last_seen else "at"
        if not (death.state_was_reset and death.last_seen is None):
            name = name_of(death.symbols, state, state.rip)
            place = f"{state.location} {name}".rstrip()
            words.append(f"{where} {place} ({state.mode} mode)")
    if death.vcpu:
        words.append(f"on vCPU {death.vcpu}")
    if death.exits is not None:
        words.append(f"after {death.exits} exit{'' if death.exits == 1 else 's'}")
    if death.kind == "timeout" and death.seconds is not None:
        words.append(f"and {death.seconds:.1f} s")
    return f"{' '.join(words)}: {cause.sentence}"


def _sections(death: Death, evidence: Evidence) -> list[Section]:
    sections: list[Section] = []

    def add(title: str, lines: list[str]) -> None:
        if lines:
            sections.append(Section(title, tuple(lines)))

    add("notes", list(death.notes))
    add("other vCPUs", [_other(one, death) for one in death.others])
    shown = death.last_exits[-SHOWN_EXITS:]
    add("last exits, oldest first", _folded([one.text for one in shown]))
    state = death.state
    if state is not None:
        reset = death.state_was_reset
        when = "" if not reset else " after the reset" if death.last_seen is None else " last seen"
        add(f"registers of vCPU {death.vcpu}{when}", register_lines(state))
        add("code around RIP", evidence.code)
        if len(evidence.frames) > 1:
            add(
                "stack, innermost first",
                frame_lines(evidence.frames, 16 if state.code_size == 64 else 8),
            )
        for title, found in evidence.walks.items():
            add(title, found.lines())
    return sections


def _other(one: OtherVcpu, death: Death) -> str:
    if one.doing == NEVER_STARTED:
        return f"vCPU {one.index} {one.doing}"
    place = f"{one.cpu.location} {name_of(death.symbols, one.cpu, one.cpu.rip)}".rstrip()
    enabled = "enabled" if one.cpu.interrupts_enabled else "disabled"
    mode = f"{one.cpu.mode} mode, interrupts {enabled}"
    return f"vCPU {one.index} {one.doing} at {place} ({mode})"


def _folded(lines: list[str]) -> list[str]:
    """Say equal lines in a row once, with their number."""
    folded = []
    for line, same in groupby(lines):
        count = len(list(same))
        folded.append(f"{line}  ({count} times)" if count > 1 else line)
    return folded
