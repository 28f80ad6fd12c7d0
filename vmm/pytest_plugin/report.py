"""What the report of a failed test shows of a machine: how it ended, the last exits, registers,
code, and the end of its console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmm.autopsy import Autopsy
from vmm.endings import Ending
from vmm.errors import LifecycleError
from vmm.lifecycle import Phase
from vmm.machine import Machine

__all__ = ["console_tail", "sections_of"]

_CONSOLE_LINES = 30
_PATIENCE_S = 2.0
_HOLD = "report"

Section = tuple[str, str]
"""A title and text."""


def sections_of(machine: Machine) -> Iterator[Section]:
    """What there is to say about a machine, in pieces; the first one says how it ended."""
    if machine.phase is Phase.STOPPED:
        result = machine.last_result
        yield "", "the machine was closed" if result is None else result.report()
    else:
        with _standing(machine) as stands:
            if stands:
                yield from _explained(machine)
            else:
                yield "", "the machine runs, and did not stand still to be looked at"
    if machine.console.written:
        yield "console", console_tail(machine.console.text, _CONSOLE_LINES)


@contextmanager
def _standing(machine: Machine) -> Iterator[bool]:
    """Whether the machine's registers can be read; a run on another thread is held for that."""
    try:
        _ = machine.regs
    except LifecycleError:
        try:
            yield machine.pause(_PATIENCE_S, hold=_HOLD)
        finally:
            machine.resume(hold=_HOLD)
    else:
        yield True


def _explained(machine: Machine) -> Iterator[Section]:
    in_a_run = machine.phase is Phase.RUNNING
    result = None if in_a_run else machine.last_result
    if result is not None and result.reason == "max_exits":
        result = machine.explain()
    # A test that stops a guest knows why; what it was about to do is no hang.
    autopsy = None if result is None else result.autopsy
    if autopsy is not None:
        yield "", autopsy.explanation.summary()
    else:
        # An ordinary end leaves the same evidence as a death.
        autopsy = Autopsy(machine, Ending("stopped"), 0, 0.0)
        ran = "it is in a run" if in_a_run else "it has not run"
        yield "", ran if result is None else result.summary()
    for section in autopsy.explanation.sections:
        yield section.title, "\n".join(section.lines)


def console_tail(text: str, most: int) -> str:
    """The last lines of a console, without what would move a terminal's cursor."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    kept = lines[-most:]
    if len(kept) < len(lines):
        kept.insert(0, f"({len(lines) - len(kept)} lines before)")
    return "\n".join("".join(map(_printable, line)) for line in kept)


def _printable(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")
