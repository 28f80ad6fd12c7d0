"""Panes that are typed into: every key goes to the guest while they are focused.

Ctrl-A leaves them, and Ctrl-A once more comes back and sends it.
"""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.message import Message
from textual.widget import Widget

__all__ = ["TypedPane", "key_bytes"]

_KEYS = {
    "enter": b"\r", "tab": b"\t", "shift+tab": b"\x1b[Z", "escape": b"\x1b", "backspace": b"\x7f",
    "up": b"\x1b[A", "down": b"\x1b[B", "right": b"\x1b[C", "left": b"\x1b[D",
    "home": b"\x1b[H", "end": b"\x1b[F", "pageup": b"\x1b[5~", "pagedown": b"\x1b[6~",
    "insert": b"\x1b[2~", "delete": b"\x1b[3~", "space": b" ",
    "f1": b"\x1bOP", "f2": b"\x1bOQ", "f3": b"\x1bOR", "f4": b"\x1bOS", "f5": b"\x1b[15~",
    "f6": b"\x1b[17~", "f7": b"\x1b[18~", "f8": b"\x1b[19~", "f9": b"\x1b[20~",
    "f10": b"\x1b[21~", "f11": b"\x1b[23~", "f12": b"\x1b[24~",
    "ctrl+@": b"\0", "ctrl+space": b"\0", "ctrl+backslash": b"\x1c",
    "ctrl+right_square_bracket": b"\x1d", "ctrl+circumflex_accent": b"\x1e",
    "ctrl+underscore": b"\x1f",
}  # fmt: skip
"""What a terminal sends for a key.

Spec: ECMA-48, Control functions (CUU, CUD, CUF, CUB); xterm control sequences, PC-Style Function
Keys.
"""


def key_bytes(key: str, character: str | None) -> bytes:
    """The bytes for a key by Textual's name; none for keys that a terminal has no bytes for."""
    if key in _KEYS:
        return _KEYS[key]
    letter = key.removeprefix("ctrl+")
    if letter != key and len(letter) == 1 and letter.isalpha():
        return bytes([ord(letter.lower()) & 0x1F])
    return (character or "").encode()


class TypedPane(Widget, can_focus=True):
    """A pane whose keys are the guest's."""

    ALLOW_SELECT = False
    HELP: ClassVar[str] = "keys go to the guest · Ctrl-A leaves"

    class Typed(Message):
        """Input for the guest."""

        def __init__(self, data: bytes) -> None:
            super().__init__()
            self.data = data

    class Left(Message):
        """Ctrl-A was pressed."""

        def __init__(self, pane: TypedPane) -> None:
            super().__init__()
            self.pane = pane

    typing = True
    """Whether there is somebody to type to."""

    def typed(self) -> None:
        """Something is sent to the guest."""

    def on_key(self, event: events.Key) -> None:
        """Send a key to the guest."""
        # A key typed right behind Ctrl-A may come here yet, and is not for the guest.
        if not self.typing or self.screen.focused is not self:
            return
        event.stop()
        event.prevent_default()
        if event.key == "ctrl+a":
            self.screen.set_focus(None)
            self.post_message(self.Left(self))
            return
        data = key_bytes(event.key, event.character)
        if data:
            self.typed()
            self.post_message(self.Typed(data))

    def on_paste(self, event: events.Paste) -> None:
        """Send what was pasted to the guest."""
        event.stop()
        if self.typing and event.text:
            self.typed()
            self.post_message(self.Typed(event.text.replace("\n", "\r").encode()))
