"""The application: what a user can do with the panes, by key and by mouse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.binding import Binding, BindingType
from textual.widgets import Input

from vmm.errors import VmmError
from vmm.tui import look
from vmm.tui.arrange import PANES
from vmm.tui.base import TICK_S
from vmm.tui.dialogs import Ask, Report, sections_text
from vmm.tui.help import help_text
from vmm.tui.marks import Mark, difference
from vmm.tui.panes.lines import Lines
from vmm.tui.panes.typed import TypedPane
from vmm.tui.seeking import SeekingApp
from vmm.tui.source import Source
from vmm.tui.stops import Stops

__all__ = ["DETACH", "END", "PROMPT", "ScreenApp"]

DETACH, END, PROMPT = "detach", "end", "prompt"

_SAID_S = 4.0


class ScreenApp(SeekingApp, inherit_bindings=False):
    """The screen.

    Args:
        source: what is shown.
        owner: the guest was started with this screen: leaving asks what becomes of it.
        view: what `view` gave the last time, to be shown again.

    The application's return value is `END`, `DETACH` or `PROMPT`: what the user wants of the guest.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_pane(1)", show=False),
        Binding("shift+tab", "next_pane(-1)", show=False),
        Binding("space", "pause", show=False),
        Binding("s", "step('step_exit')", show=False),
        Binding("i", "step('step')", show=False),
        Binding("b", "stops", show=False),
        Binding("p", "prompt", show=False),
        Binding("S", "save", show=False),
        Binding("x", "explain", show=False),
        Binding("w", "widen", show=False),
        Binding("f", "ask('filter')", show=False),
        Binding("slash", "ask('search')", show=False),
        Binding("n", "again(1)", show=False),
        Binding("N", "again(-1)", show=False),
        Binding("z", "freeze", show=False),
        Binding("m", "mark", show=False),
        Binding("question_mark,f1", "help", show=False),
        Binding("escape", "undo", show=False),
        Binding("q,ctrl+c,ctrl+q", "leave", show=False),
        Binding("ctrl+a", "console", show=False),
        Binding("left", "seek(-1)", show=False),
        Binding("right", "seek(1)", show=False),
        Binding("shift+left", "seek(-10)", show=False),
        Binding("shift+right", "seek(10)", show=False),
        Binding("0", "seek(-1000)", show=False),
        Binding("ctrl+end", "seek(1000)", show=False),
        Binding("comma", "seek_exit(-1)", show=False),
        Binding("full_stop", "seek_exit(1)", show=False),
        *(Binding(str(n), f"pane('{name}')", show=False) for n, name in enumerate(PANES, 1)),
    ]

    def __init__(
        self, source: Source, *, owner: bool = False, view: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(source)
        self.owner = owner
        self._view = view or {}
        self.left_view: Mapping[str, str] = {}
        """What was shown when the prompt was asked for."""
        self._left_console = ""
        self._explained = False
        self._asked = ""
        self._mark: Mark | None = None
        self._said_until = 0
        self._stands_at = ""

    def ticked(self, passed: int) -> None:
        """Play on, take a message away, tell of the end."""
        if self.playing:
            self.play(passed * TICK_S)
        if self._said_until and self.ticks >= self._said_until:
            self._said_until = 0
            self.footer.say("")
        self._tell_stop()
        if self.source.explanation and self.source.live and not self._explained:
            self._explained = True
            self.refresh_all()
            self.action_explain()

    def keys(self) -> Sequence[tuple[str, str, str]]:
        """What the keys do now."""
        if isinstance(self.focused, TypedPane) and self.source.live:
            return [("Ctrl-A", "leave the console; all other keys go to the guest", "console")]
        if self.source.live:
            paused = self.source.status.phase == "paused"
            keys = [("?", "help", "help"), ("space", "resume" if paused else "pause", "pause"),
                    ("s", "step exit", "step('step_exit')"),
                    ("i", "step instr.", "step('step')"), ("b", "stops", "stops")]  # fmt: skip
            if self.source.explanation:
                keys = [("?", "help", "help"), ("x", "why it ended", "explain")]
        else:
            keys = [("?", "help", "help"), ("space", "stand" if self.playing else "play", "pause"),
                    ("←→", "move", "seek(1)")]  # fmt: skip
        return [*keys, ("q", "quit", "leave"), ("f", "filter", "ask('filter')"),
                ("/", "search", "ask('search')"), ("z", "freeze", "freeze"),
                ("w", "widen", "widen"), ("<>", "sort", "sort"), ("m", "mark", "mark"),
                ("Tab", "next pane", "next_pane(1)"), ("5", "type", "pane('console')"),
                *([("p", "Python", "prompt")] if self.source.live else []),
                ("S", "save", "save")]  # fmt: skip

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show a line for a few seconds."""
        self.footer.say(text, bad=bad)
        self._said_until = self.ticks + int(_SAID_S / TICK_S)

    # -- the machine ------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Pause or resume; with a recording, play or stand."""
        if not self.source.live:
            self.playing = not self.playing
        elif self.source.status.phase == "paused":
            self._do("resume")
        else:
            self._do("pause")

    def action_step(self, command: str) -> None:
        """Run to the next exit, or one instruction."""
        if self.source.live:
            self._do(command)
        else:
            self.action_seek_exit(1)

    def action_stops(self) -> None:
        """Show the stops, to set and to remove some."""
        if self.source.live:
            self.push_screen(Stops(self.source))
        else:
            self.say("this is a recording")

    def _tell_stop(self) -> None:
        """Say where the guest was stopped, until a key is pressed."""
        status = self.source.status
        where = status.note if status.phase == "paused" else ""
        if where != self._stands_at:
            self._stands_at = where
            self.footer.say(f"stopped at {where}" if where else "")
            self._said_until = 0

    def action_save(self) -> None:
        """Save a recording."""
        self._do("save")

    def _do(self, command: str) -> None:
        if not self.source.live:
            self.say("this is a recording")
            return
        self._wait(self.source.do(command), self._done)

    def _done(self, answer: str) -> None:
        self.say(answer)
        self.refresh_all()

    def _wait(self, future: Future[Any], then: Callable[[Any], None]) -> None:
        async def wait() -> None:
            try:
                answer = await asyncio.wrap_future(future)
            except VmmError as error:
                answer = error
            if self.over:
                return
            if isinstance(answer, VmmError):
                self.say(str(answer), bad=True)
            else:
                then(answer)

        self.run_worker(wait(), exit_on_error=True)

    @on(TypedPane.Typed)
    def _typed(self, message: TypedPane.Typed) -> None:
        self.source.type(message.data)

    # -- looking ----------------------------------------------------------------------------

    @on(Lines.Chosen)
    def _chosen(self, message: Lines.Chosen) -> None:
        pane = message.pane
        if pane is self.log_pane and self.log_pane.chosen is not None:
            self._drill(self.log_pane.chosen)
        elif pane is self.reasons and self.reasons.chosen is not None:
            self._set_filter(self.reasons.chosen.name)
        elif pane is self.devices and self.devices.chosen is not None:
            row = self.devices.chosen
            self._set_filter(f"{row.where}".replace("out ", "").replace("in ", ""))

    def _drill(self, record: Any) -> None:
        entry = self.source.entry(record)
        title = f"{entry.kind} {entry.where} {entry.device}".strip()

        def show(sections: Any) -> None:
            self.push_screen(Report(title, sections_text(sections)))

        self._wait(self.source.detail(record), show)

    def action_explain(self) -> None:
        """Show how the run ended."""
        if not self.source.explanation:
            self.say("the guest has not ended")
            return
        bad = self.source.status.phase in ("died", "failed")
        self.push_screen(Report("how it ended", Text(self.source.explanation, look.PLAIN), bad=bad))

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Report("help", help_text(live=self.source.live)))

    def action_freeze(self) -> None:
        """Hold the view; what comes meanwhile is shown afterwards."""
        self.frozen = not self.frozen
        if not self.frozen:
            self.refresh_all()
        self.show_bars()

    def action_mark(self) -> None:
        """Mark a moment, or compare with the one that was marked."""
        span = self.source.span
        now = span.now_ns if span is not None else self.source.status.uptime_ns
        mark = Mark(now, self.source.totals())
        if self._mark is None:
            self._mark = mark
            if self.source.live:
                self.source.do("mark")
            self.say("marked; m again shows what happened since")
            return
        first, self._mark = self._mark, None
        if self.source.live:
            self.source.do("mark")
        self.push_screen(Report("between two marks", sections_text(difference(first, mark))))

    # -- filter and search ------------------------------------------------------------------

    def action_ask(self, what: str) -> None:
        """Ask for a filter or for something to search."""
        self._asked = what
        entry = self.entry
        entry.value = self.log_pane.filter if what == "filter" else self.log_pane.sought
        entry.placeholder = (
            "filter the log: com1 out -lsr · empty: all" if what == "filter" else "search the log"
        )
        entry.add_class("shown")
        entry.focus()

    @on(Input.Submitted)
    def _entered(self, message: Input.Submitted) -> None:
        self._close_entry()
        if self._asked == "filter":
            self._set_filter(message.value)
        elif message.value:
            self._search(message.value, 1)

    def _close_entry(self) -> None:
        self.entry.remove_class("shown")
        self._focus_pane("log")

    def _set_filter(self, text: str) -> None:
        self.log_pane.set_filter(text)
        if not self.log_pane.display:
            self.action_pane("log")
        self.show_bars()

    def action_again(self, step: int) -> None:
        """Search for the same again."""
        if self.log_pane.sought:
            self._search(self.log_pane.sought, step)

    def _search(self, text: str, step: int) -> None:
        if not self.log_pane.search(text, step):
            self.say(f"no exit in the log has {text!r}")

    # -- panes ------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        """Go to a pane; one that has no place gets the whole terminal."""
        if self.alone and self.alone != name:
            self.alone = ""
            self.arrange_panes()
        if not self.pane(name).display:
            self.alone = name
            self.arrange_panes()
            self.refresh_all()
        self._focus_pane(name)

    def _focus_pane(self, name: str) -> None:
        # A pane that has only just been given its place takes the focus after that.
        self.call_after_refresh(lambda: self.pane(name).focus())

    def action_next_pane(self, step: int) -> None:
        """Go to the next pane that is shown."""
        shown = [name for name in PANES if self.pane(name).display]
        now = self.focused.id if self.focused is not None else None
        at = shown.index(now) if now in shown else -step
        self._focus_pane(shown[(at + step) % len(shown)])

    def action_widen(self) -> None:
        """Give the focused pane the whole terminal, or take it back."""
        focused = self.focused.id if self.focused is not None else None
        self.alone = "" if self.alone or focused not in PANES else str(focused)
        self.arrange_panes()
        self.refresh_all()

    def action_undo(self) -> None:
        """Undo the last of: the entry, the single pane, the filter."""
        entry = self.entry
        if entry.has_class("shown"):
            self._close_entry()
        elif self.alone:
            self.action_widen()
        elif self.log_pane.sought:
            self.log_pane.search("")
        elif self.log_pane.filter:
            self._set_filter("")

    @on(TypedPane.Left)
    def _console_left(self, message: TypedPane.Left) -> None:
        self._left_console = str(message.pane.id)
        if not self.log_pane.display:
            self.alone = ""
            self.arrange_panes()
        self._focus_pane("log")

    def action_console(self) -> None:
        """Go to the console; right after it was left, send Ctrl-A."""
        if self._left_console and self.source.live:
            self.source.type(b"\x01")
        self.action_pane(self._left_console or "console")

    async def on_event(self, event: events.Event) -> None:
        """A key other than Ctrl-A after the console was left is not for the guest, and any key
        takes away where the guest was stopped."""
        if isinstance(event, events.Key):
            if event.key != "ctrl+a":
                self._left_console = ""
            if self._stands_at and not self._said_until:
                self.footer.say("")
        await super().on_event(event)

    # -- leaving ----------------------------------------------------------------------------

    @property
    def view(self) -> dict[str, str]:
        """What a screen that comes after this one may show again."""
        focused = self.focused.id if self.focused is not None else None
        return {
            "alone": self.alone,
            "filter": self.log_pane.filter,
            "pane": str(focused) if focused in PANES else "",
        }

    def on_mount(self) -> None:
        """Begin, where the last screen ended."""
        super().on_mount()
        self.alone = self._view.get("alone", "")
        self.log_pane.set_filter(self._view.get("filter", ""))
        self.arrange_panes()
        if self._view.get("pane"):
            self._focus_pane(self._view["pane"])

    def action_prompt(self) -> None:
        """Leave for a Python prompt, where the machine's process has this terminal."""
        if self.owner:
            self.left_view = self.view
            self.exit(PROMPT)
        elif self.source.live:
            self.say("the prompt is on the machine's own terminal: Ctrl-A p there, or --shell")
        else:
            self.say("this is a recording: vmm.trace.load(FILE) has it in Python")

    def action_leave(self) -> None:
        """Leave; ask what becomes of a guest that was started with this screen."""
        if not self.owner or self.source.explanation or self.source.status.phase == "gone":
            self.exit(DETACH)
            return
        question = Ask(
            "The guest still runs.",
            [("d", "detach: it goes on, with its console on this terminal"),
             ("e", "end it")],
        )  # fmt: skip
        self.push_screen(question, self._answered)

    def _answered(self, answer: str | None) -> None:
        if answer == "d":
            self.exit(DETACH)
        elif answer == "e":
            self.exit(END)
