"""A vCPU's registers, mode, paging and interrupt state."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.cpustate import CR0_BITS, CR4_BITS, EFER_BITS, CpuState, bit_words
from vmm.tui import look
from vmm.tui.panes.lines import Lines, Parts
from vmm.tui.source import CpuView

__all__ = ["CpuPane"]

_PAIRS = (
    ("rax", "rbx"), ("rcx", "rdx"), ("rsi", "rdi"), ("rbp", "rsp"),
    ("r8", "r9"), ("r10", "r11"), ("r12", "r13"), ("r14", "r15"),
)  # fmt: skip


class CpuPane(Lines):
    """One vCPU after the other. Values that changed since the last look stand out."""

    has_cursor = False

    def __init__(self) -> None:
        super().__init__(id="cpu")
        self._lines: list[Parts] = []
        self._before: dict[int, CpuState] = {}
        self._now: dict[int, CpuState] = {}

    def show(self, views: Sequence[CpuView]) -> None:
        """Show these vCPUs."""
        for view in views:
            if view.state is not None and view.state is not self._now.get(view.index):
                self._before[view.index] = self._now.get(view.index, view.state)
                self._now[view.index] = view.state
        self._lines = []
        for view in views:
            self._lines += self._describe(view, many=len(views) > 1)
        if not self._lines:
            self._lines = [[("no registers yet: pause (space) or wait", look.DIM)]]
        self.redraw()

    def total(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def line(self, index: int, width: int) -> Parts:
        """One of them."""
        return self._lines[index]

    def _describe(self, view: CpuView, *, many: bool) -> list[Parts]:
        state = view.state
        if state is None:
            return [[(f"vCPU {view.index}  ", look.HEAD), (view.activity, look.DIM)]]
        before = self._before.get(view.index, state)
        wide = state.code_size == 64

        def pair(*names: str) -> Parts:
            parts = []
            for name in names:
                now, then = getattr(state, name), getattr(before, name)
                title = name if wide else name.replace("r", "e", 1)
                parts.append((f"{title:>3} ", look.DIM))
                digits = 16 if wide else 8
                style = look.WARN if now != then else look.PLAIN
                parts.append((f"{now:0{digits}x}  ", style))
            return parts

        enabled = ("IF on", look.GOOD) if state.interrupts_enabled else ("IF off", look.WARN)
        title = f"vCPU {view.index}  " if many else ""
        lines: list[Parts] = [
            [
                (title, look.HEAD),
                (state.mode, look.STRONG),
                (f"  ring {state.cpl}  paging {state.paging}  ", look.PLAIN),
                enabled,
            ],
            [
                ("rip ", look.DIM),
                (state.location, look.ACCENT),
                (f"  {view.location}" if view.location else "", look.PLAIN),
                (f"  {view.instruction}" if view.instruction else "", look.GOOD),
            ],
        ]
        if view.activity:
            lines.append([(view.activity, look.DIM)])
        lines += [pair(*names) for names in (_PAIRS if wide else _PAIRS[:4])]
        lines.append([("flags ", look.DIM), (f"{state.rflags:08x} ", look.PLAIN),
                      (state.flags, look.GOOD)])  # fmt: skip
        for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr"):
            segment = getattr(state, name)
            lines.append([
                (f"{name:>3} ", look.DIM),
                (f"{segment.selector:04x} base {segment.base:08x} ", look.PLAIN),
                (segment.describe(), look.DIM),
            ])  # fmt: skip
        lines.append([("cr0 ", look.DIM), (bit_words(state.cr0, CR0_BITS), look.PLAIN)])
        lines.append([("cr4 ", look.DIM), (bit_words(state.cr4, CR4_BITS) or "0", look.PLAIN)])
        lines.append([("efer ", look.DIM), (bit_words(state.efer, EFER_BITS) or "0", look.PLAIN)])
        lines.append([("cr3 ", look.DIM), (f"{state.cr3:x}", look.PLAIN), ("  cr2 ", look.DIM),
                      (f"{state.cr2:x}", look.PLAIN)])  # fmt: skip
        tables = []
        for name in ("gdt", "idt"):
            table = getattr(state, name)
            tables += [(f"{name:>3} ", look.DIM), (f"{table.base:x}+{table.limit:x}  ", look.PLAIN)]
        lines.append(tables)
        if many:
            lines.append([])
        return lines
