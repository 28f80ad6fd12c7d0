"""What is laid over the panes: help, a report, a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from vmm.tui import look
from vmm.tui.source import Section

__all__ = ["Ask", "Report", "sections_text"]


def sections_text(sections: Sequence[Section]) -> Text:
    """Sections as text: titles in blue, lines as they are."""
    text = Text(no_wrap=False)
    for number, section in enumerate(sections):
        if number:
            text.append("\n")
        if section.title:
            text.append(section.title + "\n", look.ACCENT)
        for line in section.lines:
            arrow = line.lstrip().startswith("->")
            text.append(f"  {line}\n" if section.title else f"{line}\n",
                        look.STRONG if arrow else look.PLAIN)  # fmt: skip
    return text


class Report(ModalScreen[None]):
    """Some text to be read and scrolled; Escape, Enter or q closes it.

    Args:
        title: above it.
        text: what it says.
        bad: it tells of a death.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark", "dismiss", "close"),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("pageup", "scroll(-15)", show=False),
        Binding("pagedown,space", "scroll(15)", show=False),
        Binding("home", "scroll(-100000)", show=False),
        Binding("end", "scroll(100000)", show=False),
    ]

    def __init__(self, title: str, text: Text, *, bad: bool = False) -> None:
        super().__init__()
        self._heading = title
        self._body = Static(text)
        self._bad = bad

    def compose(self) -> ComposeResult:
        """A box with the text in it."""
        box = VerticalScroll(self._body, classes="box" + (" bad" if self._bad else ""))
        box.border_title = self._heading
        box.border_subtitle = "↑↓ scroll · Esc close"
        box.can_focus = False
        yield box

    def update(self, text: Text) -> None:
        """Say something else."""
        self._body.update(text)

    def action_scroll(self, by: int) -> None:
        """Scroll by lines."""
        box = self.query_one(VerticalScroll)
        box.scroll_to(y=box.scroll_y + by, animate=False)


class Ask(ModalScreen[str]):
    """A question with answers, each a key.

    Args:
        question: what is asked.
        answers: for each its key, and what it means. Escape is "".
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "answer('')", "cancel")]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        """A small box."""
        text = Text()
        text.append(self._question + "\n\n", look.STRONG)
        for key, what in self._answers:
            text.append(f"  {key}  ", look.ACCENT)
            text.append(what + "\n", look.PLAIN)
        text.append("  Esc  ", look.ACCENT)
        text.append("go on watching", look.PLAIN)
        yield Static(text, classes="box small")

    def on_key(self, event: object) -> None:
        """Take an answer."""
        key = getattr(event, "key", "")
        if any(key == answer for answer, _ in self._answers):
            self.dismiss(key)

    def action_answer(self, answer: str) -> None:
        """Answer."""
        self.dismiss(answer)
