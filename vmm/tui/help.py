"""What `?` shows."""

from __future__ import annotations

from rich.text import Text

from vmm.tui import look

__all__ = ["help_text"]

_MACHINE = (
    ("space", "pause the guest; resume it"),
    ("s", "run to the next exit, and stand still there"),
    ("i", "run one instruction"),
    ("b", "stops: pause the guest where a condition is met, as rip=main or port=0x80"),
    ("p", "a Python prompt on the machine ('vmm run --tui'); Ctrl-D comes back here"),
    ("S", "save a recording of the last exits to a file"),
    ("x", "how the run ended, explained (when it has)"),
)
_RECORDING = (
    ("← →", "back and forward by a hundredth; with Shift by a tenth"),
    (", .", "to the exit before; to the next one"),
    ("0", "to the beginning; Ctrl-End to the end"),
    ("space", "play, at the speed of the guest; stand still"),
)
_LOOK = (
    ("1..7", "go to a pane: exits, devices, log, vCPU, console, kernel, screen"),
    ("Tab", "the next pane; Shift-Tab the one before"),
    ("w", "the pane alone, as wide as the terminal; again: all of them"),
    ("Enter", "look into a line: the exits of a row, or all about an exit"),
    ("↑ ↓ PgUp PgDn", "move; in the log, End follows the newest exit again"),
    ("< >", "sort a table by the column to the left, to the right"),
    ("r", "sort it the other way round"),
    ("f", "filter the log: words that all must be there, -word must not"),
    ("/", "search the log; n the next (older), N the one before"),
    ("z", "freeze what is shown; again: go on"),
    ("m", "mark this moment; the second mark shows the difference"),
    ("Esc", "undo: close, the filter, the single pane"),
    ("q", "leave; the guest goes on, or ends, as you choose"),
)
_CONSOLE = (
    ("(typing)", "every key goes to the guest, while its pane is focused"),
    ("Ctrl-A", "leave the console; Ctrl-A Ctrl-A sends Ctrl-A"),
)
_COLUMNS = (
    ("time", "the share of the run: the guest until the exit, and the handler after it"),
    ("g·p50 .. max", "how long the guest ran before an exit"),
    ("h·p50 .. max", "how long the exit took to handle, until the guest ran again"),
    ("last minute", "exits a second, one column a second, the newest at the right"),
)

_MOUSE = """
The mouse works too: headings sort, a double click looks into a line, the wheel
scrolls, and the keys in the last line can be clicked."""


def help_text(*, live: bool) -> Text:
    """The keys and the columns, for a machine or for a recording."""
    text = Text()
    blocks = [
        ("the machine", _MACHINE) if live else ("the time line", _RECORDING),
        ("looking", _LOOK),
        *([("the console", _CONSOLE)] if live else []),
        ("columns", _COLUMNS),
    ]
    for number, (title, keys) in enumerate(blocks):
        text.append(("\n" if number else "") + title + "\n", look.HEAD)
        for key, what in keys:
            text.append(f"  {key:<14}", look.ACCENT)
            text.append(what + "\n", look.PLAIN)
    text.append(_MOUSE, look.DIM)
    return text
