"""HLT with interrupts enabled that nothing ends: which line is masked, and where."""

from __future__ import annotations

from collections.abc import Iterator

from vmm.explain.cause import Cause
from vmm.interrupts import Interrupts, irq_name

__all__ = ["masked_lines", "waiting_cause"]

_IN_THE_PIC = "unmask the line in the PIC (OCW1, ports 0x21 and 0xa1)"


def waiting_cause(found: Interrupts) -> Cause:
    """Say why no interrupt comes."""
    sentence, *advice = _why(found)
    return Cause(sentence, tuple(masked_lines(found)), tuple(advice))


def _why(found: Interrupts) -> tuple[str, ...]:
    waits = "HLT waits for an interrupt that"
    blocked = found.requested & found.masked & ~(1 << 2)
    if blocked:
        line = (blocked & -blocked).bit_length() - 1
        where = f"{irq_name(line)} asks, but the PIC masks it (IMR {_imr(found, line)})"
        return f"{waits} is masked: {where}", _IN_THE_PIC
    if found.requested & ~found.masked and found.in_service:
        owner = irq_name((found.in_service & -found.in_service).bit_length() - 1)
        return (
            f"{waits} is held back: the handler of {owner} sent no end of interrupt to the PIC",
            "let every handler write 0x20 to port 0x20, and to 0xa0 too for IRQ 8 to 15",
        )
    if found.requested & ~found.masked and not found.pic_connected:
        return (
            f"{waits} is masked: the PIC asks, but the local APIC's LINT0 does not let it through",
            "set LINT0 of the local APIC to ExtINT, or use the IOAPIC",
        )
    if found.apic_requested and found.apic_requested[0] >> 4 <= found.priority >> 4:
        return _held_in_apic(found, waits)
    pins = found.open_in_ioapic()
    lines = found.open_in_pic() if found.pic_connected else ()
    if not pins and not lines and not found.apic_timer_open:
        return (
            f"{waits} is masked: every line is, in the PIC, in the IOAPIC and in the local APIC",
            "unmask the line of the device that is waited for before HLT",
        )
    if 0 in (*lines, *pins) and not found.pit_runs:
        return (
            "HLT waits for an interrupt: the timer's line is open, but the PIT is not programmed",
            "program channel 0 of the PIT (ports 0x43 and 0x40)",
        )
    names = [irq_name(n) for n in sorted({*lines, *pins})]
    shown = ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")
    source = f"open are {shown}" if names else "only the local APIC's timer is open"
    return (
        f"HLT waits for an interrupt, and none came: {source}",
        "look at whether the device was told to interrupt, or wait longer with --timeout",
    )


def _held_in_apic(found: Interrupts, waits: str) -> tuple[str, ...]:
    held = f"{waits} is held back: vector {found.apic_requested[0]:#x} waits in the local APIC"
    if found.apic_in_service:
        first = f"{found.apic_in_service[0]:#x}"
        return (
            f"{held} behind {first}, whose handler sent no end of interrupt",
            "let every handler write 0 to the local APIC's EOI register (offset 0xb0)",
        )
    return (
        f"{held}, below the task priority {found.priority:#x}",
        "lower the task priority (TPR, CR8), or choose a higher vector",
    )


def _imr(found: Interrupts, line: int) -> str:
    return f"{found.masked >> (8 if line > 7 else 0) & 0xFF:#x}"


def masked_lines(found: Interrupts) -> Iterator[str]:
    """The controllers in words, one each."""
    masked, lines = found.masked, found.open_in_pic()
    opened = ", ".join(irq_name(n) for n in lines) if lines else "nothing"
    yield f"PIC: IMR {masked & 0xFF:#x} and {masked >> 8:#x}, open are {opened}"
    pins = found.open_in_ioapic()
    listed = ", ".join(map(str, pins)) if pins else "nothing"
    yield f"IOAPIC: open pins are {listed}"
    if not found.apic_on:
        yield "local APIC: off"
        return
    if not found.apic_enabled:
        yield f"local APIC: not enabled by software (SVR), LINT0 {_lint0(found)}"
    else:
        timer = "runs" if found.apic_timer_open else "is masked or not running"
        yield f"local APIC: its timer {timer}, LINT0 {_lint0(found)}"
    if not found.pit_runs:
        yield "PIT: channel 0 was never programmed"


def _lint0(found: Interrupts) -> str:
    return "lets the PIC through" if found.pic_connected else "is closed to the PIC"
