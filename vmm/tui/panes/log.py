"""The log of exits: the newest at the bottom, or standing still where somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.message import Message

from kvm_bindings.exit_ring import HAS_RIP
from vmm.tui import look
from vmm.tui.format import duration
from vmm.tui.panes.lines import Lines, Parts
from vmm.tui.source import Entry

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Log"]

_CACHED = 4096
_KINDS = 1 << 17
_SEARCHED = 40_000
"""How many exits a search looks at: the log never has more of a machine that runs."""


class Log(Lines):
    """Exits, decoded when they are shown.

    Args:
        decode: makes an entry of a record.
    """

    class Moved(Message):
        """The cursor left the end of the log, or came back to it."""

    has_heading = True

    def __init__(self, decode: Callable[[Any], Entry]) -> None:
        super().__init__(id="log")
        self._decode = decode
        self._records: np.ndarray[Any, Any] | None = None
        self._picked: np.ndarray[Any, Any] | None = None
        self._cache: dict[bytes, Entry] = {}
        self.follows = True
        """The newest exit is shown as it comes."""
        self._passes: dict[int, bool] = {}
        self._rips = False
        self.filter = ""
        self.sought = ""

    # What is shown.

    def show(self, records: np.ndarray[Any, Any]) -> None:
        """Show these exits, the newest last, as far as the filter lets them through."""
        before = self.total()
        self._records = records
        self._rips = bool((records["flags"] & HAS_RIP).any())
        self._picked = self._pick(records) if self.filter else None
        if self.follows:
            self.cursor = self.total() - 1
            self.top = self.total() - self.rows
        elif self.total() < before:
            self.move_to(self.cursor)
        self.redraw()

    def set_filter(self, text: str) -> None:
        """Show only exits that have all of these words in them; "-word" for those without."""
        self.filter = text.strip().lower()
        self._passes = {}
        if self._records is not None:
            self.show(self._records)

    @property
    def chosen(self) -> Any | None:
        """The record under the cursor."""
        return self._at(self.cursor) if self.total() else None

    def total(self) -> int:
        """How many exits are shown."""
        if self._records is None:
            return 0
        return len(self._records) if self._picked is None else len(self._picked)

    def _at(self, index: int) -> Any:
        assert self._records is not None
        return self._records[index if self._picked is None else self._picked[index]]

    def _pick(self, records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The places of the exits that the filter lets through.

        Exits of one reason, place, direction and value are told alike, so each such kind is
        decoded once.
        """
        import numpy as np

        words = self.filter.split()
        wanted = [word for word in words if not word.startswith("-")]
        unwanted = [word[1:] for word in words if word.startswith("-") and len(word) > 1]
        kinds = _kinds(records)
        unique, first, which = np.unique(kinds, return_index=True, return_inverse=True)
        passes = np.zeros(len(unique), bool)
        known = self._passes if len(self._passes) < _KINDS else {}
        for number, (kind, index) in enumerate(zip(unique.tolist(), first.tolist(), strict=True)):
            passed = known.get(kind)
            if passed is None:
                text = self._decode(records[index]).text
                passed = all(word in text for word in wanted) and not any(
                    word in text for word in unwanted
                )
                known[kind] = passed
            passes[number] = passed
        self._passes = known
        return np.flatnonzero(passes[which])

    def entry(self, record: Any) -> Entry:
        """Decode a record, or remember how it was decoded."""
        raw = record.tobytes()
        found = self._cache.get(raw)
        if found is None:
            if len(self._cache) > _CACHED:
                self._cache.clear()
            found = self._cache[raw] = self._decode(record)
        return found

    def heading(self, width: int) -> Parts:
        """The titles."""
        layout = _Layout(width, rips=self._rips)
        return [(layout.row("time", " ", "exit", "where", "device",
                            "value", "meaning", "guest at", "handler"), look.HEAD)]  # fmt: skip

    def line(self, index: int, width: int) -> Parts:
        """One exit."""
        e = self.entry(self._at(index))
        layout = _Layout(width, rips=self._rips)
        found = bool(self.sought) and self.sought in e.text
        kind = look.MARK if found else look.STRONG
        parts = [
            (e.time.rjust(layout.time) + " ", look.DIM),
            ((f"{e.vcpu} " if layout.cpu else ""), look.DIM),
            (_cut(e.kind, layout.kind), kind),
            (_cut(e.where, layout.where), look.PLAIN),
            (_cut(e.device, layout.device), look.ACCENT),
            (_cut(e.value, layout.value), look.PLAIN),
            (_cut(e.meaning, layout.meaning), look.GOOD),
        ]
        if layout.rip:
            parts.append((_cut(e.rip, layout.rip), look.DIM))
        if layout.handler:
            parts.append((duration(e.handler_ns).rjust(layout.handler), look.DIM))
        return parts

    # Moving.

    def moved(self) -> None:
        """At the last line the log follows again."""
        follows = self.cursor >= self.total() - 1
        if follows != self.follows:
            self.follows = follows
            self.post_message(self.Moved())

    def search(self, text: str, step: int = 1) -> bool:
        """Put the cursor on the next exit (step 1: upwards, older; -1: newer) with `text`.

        Returns whether there is one.
        """
        self.sought = text.lower()
        if not self.sought or self._records is None:
            self.redraw()
            return False
        index = self.cursor
        for _ in range(min(self.total(), _SEARCHED)):
            index = (index - step) % self.total()
            if self.sought in self.entry(self._at(index)).text:
                self.move_to(index)
                return True
        self.redraw()
        return False


class _Layout:
    """The widths of the log's columns."""

    def __init__(self, width: int, *, rips: bool) -> None:
        self.time = 10
        self.cpu = width >= 100
        self.kind, self.where, self.device = 9, 7, 9
        self.value = 11
        self.handler = 7 if width >= 76 else 0
        left = width - self.time - 1 - 2 * self.cpu - 9 - 7 - 9 - 11 - self.handler - 5
        wide = left > 44
        self.where = 12 if wide else 7
        left -= 5 if wide else 0
        self.rip = left * 3 // 5 if rips and left >= 36 else 0
        self.meaning = max(left - self.rip - (1 if self.rip else 0), 0)

    def row(self, *cells: str) -> str:
        """A line of plain text in these columns."""
        time, cpu, kind, where, device, value, meaning, rip, handler = cells
        text = time.rjust(self.time) + " " + (cpu[:1] + " " if self.cpu else "")
        text += _cut(kind, self.kind) + _cut(where, self.where) + _cut(device, self.device)
        text += _cut(value, self.value) + _cut(meaning, self.meaning)
        text += _cut(rip, self.rip) if self.rip else ""
        return text + (handler.rjust(self.handler) if self.handler else "")


def _cut(text: str, width: int) -> str:
    """`text` in exactly `width` characters and a space; an ellipsis where it was longer."""
    if len(text) > width:
        text = text[: max(width - 1, 0)] + "…" if width else ""
    return text.ljust(width) + " "


def _kinds(records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A number for each exit that is the same for those that are told alike."""
    import numpy as np

    kinds = np.zeros(len(records), np.uint64)
    for name in ("reason", "address", "value", "rip", "size", "flags"):
        kinds = (kinds ^ records[name].astype(np.uint64)) * np.uint64(0x9E37_79B9_7F4A_7C15)
        kinds ^= kinds >> np.uint64(29)
    return kinds
