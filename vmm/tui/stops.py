"""The stops of a machine, laid over the panes: set, listed and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from vmm.errors import VmmError
from vmm.tui import look
from vmm.tui.source import Source, Stopping

__all__ = ["Stops"]

_EXAMPLES = "reg=com1.THR=0x41 · port=0x80,write · rip=main · exits=1000 · slower=1ms"
_TIMES = {0: "not met yet", 1: "met once"}


class Stops(ModalScreen[None]):
    """Where the guest is stopped. Enter sets a stop, Delete removes the one chosen.

    Args:
        source: the machine.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "choose(-1)", show=False),
        Binding("down", "choose(1)", show=False),
        Binding("delete", "remove", show=False, priority=True),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._stops: Sequence[Stopping] = ()
        self._chosen = 0
        self._list = Static()
        self._entry = Input(placeholder=_EXAMPLES, id="condition")
        self._error = Static(id="refused")

    def compose(self) -> ComposeResult:
        """The list, and a line to type a condition."""
        box = VerticalScroll(self._list, self._entry, self._error, classes="box")
        box.border_title = "stops: the guest is paused where one is met"
        box.border_subtitle = "Enter sets one · ↑↓ Del removes · Esc closes"
        box.can_focus = False
        yield box

    def on_mount(self) -> None:
        """Ask for the list."""
        self._entry.focus()
        self._show()
        self._ask(None)

    @on(Input.Submitted)
    def _entered(self, message: Input.Submitted) -> None:
        message.stop()
        condition = message.value.strip()
        if condition:
            self._ask(self._source.do("stop_at", condition=condition))
        else:
            self.dismiss()

    @on(Input.Changed)
    def _typed(self) -> None:
        self._refuse("")

    def action_choose(self, step: int) -> None:
        """Choose another stop."""
        self._chosen = min(max(self._chosen + step, 0), max(len(self._stops) - 1, 0))
        self._show()

    def action_remove(self) -> None:
        """Remove the stop that is chosen."""
        if self._chosen < len(self._stops):
            self._ask(self._source.do("remove_stop", number=self._stops[self._chosen].number))

    def _ask(self, first: Future[Any] | None) -> None:
        """Have something done, and show what stops there are then."""

        async def ask() -> None:
            try:
                if first is not None:
                    await asyncio.wrap_future(first)
                    self._entry.value = ""
                self._stops = await asyncio.wrap_future(self._source.stops())
            except VmmError as error:
                self._refuse(str(error))
                return
            self.action_choose(0)

        self.run_worker(ask(), exit_on_error=True)

    def _refuse(self, why: str) -> None:
        self._error.update(Text(why, look.BAD))

    def _show(self) -> None:
        text = Text()
        status = self._source.status
        if status.phase == "paused" and status.note:
            text.append(f"it stands at {status.note}\n\n", look.WARN)
        if not self._stops:
            text.append("there is none; type a condition:\n", look.DIM)
        width = max((len(stop.condition) for stop in self._stops), default=0)
        for index, stop in enumerate(self._stops):
            style = look.SELECTED if index == self._chosen else look.PLAIN
            text.append(f" {stop.number:>2}  ", look.ACCENT + style)
            text.append(stop.condition.ljust(width), look.STRONG + style)
            times = _TIMES.get(stop.stopped, f"met {stop.stopped} times")
            text.append(f"  {times} \n", look.DIM + style)
        self._list.update(text)
