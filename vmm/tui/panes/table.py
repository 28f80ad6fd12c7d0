"""Tables whose columns can be sorted and that leave out what has no room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.style import Style
from textual.binding import Binding, BindingType
from textual.message import Message

from vmm.tui import look
from vmm.tui.panes.lines import Lines, Parts

__all__ = ["Column", "Table"]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Args:
        title: its heading.
        width: in characters; of the column that takes what is left over, the least.
        text: a row's cell.
        key: what it is sorted by; None: it cannot be.
        rank: columns of a higher rank are left out first where there is no room.
        left: aligned to the left.
        grows: takes the room that is left over.
        style: of the cells.
        descending: which order is the first.
    """

    title: str
    width: int
    text: Callable[[Row, int], str]
    key: Callable[[Row], Any] | None = None
    rank: int = 0
    left: bool = False
    grows: bool = False
    style: Style = look.PLAIN
    descending: bool = True


class Table(Lines, Generic[Row]):
    """Rows under headings. A row keeps the cursor when the order changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("less_than_sign", "sort_by(-1)", "sort", show=False),
        Binding("greater_than_sign", "sort_by(1)", "sort", show=False),
        Binding("r", "reverse", "reverse", show=False),
    ]

    class Sorted(Message):
        """The order was changed."""

    has_heading = True

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        name_of: Callable[[Row], object],
        *,
        sort: str,
        id: str,
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._name_of = name_of
        self._sort = next(c for c in self._columns if c.title == sort)
        self._descending = self._sort.descending
        self._rows: list[Row] = []
        self._all: Sequence[Row] = ()
        self._fitted: tuple[int, list[tuple[Column[Row], int]]] = (-1, [])

    @property
    def sorted_by(self) -> str:
        """The title of the column that the rows are sorted by."""
        return self._sort.title

    @property
    def chosen(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor] if self.cursor < len(self._rows) else None

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows."""
        chosen = self.chosen
        kept = None if chosen is None else self._name_of(chosen)
        self._all = rows
        key = self._sort.key
        assert key is not None
        self._rows = sorted(rows, key=key, reverse=self._descending)
        if kept is not None and self.has_focus:
            for index, row in enumerate(self._rows):
                if self._name_of(row) == kept:
                    self.cursor = index
                    break
        self.redraw()

    def total(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def row(self, index: int) -> Row:
        """The row of a line."""
        return self._rows[index]

    def line(self, index: int, width: int) -> Parts:
        """A row's cells."""
        row = self._rows[index]
        parts = []
        for column, size in self._fit(width):
            text = column.text(row, size)[:size]
            text = text.ljust(size) if column.left else text.rjust(size)
            parts.append((text + " ", column.style))
        return parts

    def heading(self, width: int) -> Parts:
        """The titles; the one that is sorted by has an arrow."""
        parts = []
        for column, size in self._fit(width):
            mark, style = "", look.HEAD
            if column is self._sort:
                mark, style = ("▾" if self._descending else "▴"), look.ACCENT
            title = (column.title[: size - len(mark)] + mark)[:size]
            parts.append(((title.ljust(size) if column.left else title.rjust(size)) + " ", style))
        return parts

    def heading_clicked(self, x: int) -> None:
        """Sort by the column that was clicked; a second time: the other way round."""
        at = 0
        for column, size in self._fit(self.size.width):
            at += size + 1
            if x < at:
                if column is self._sort:
                    self.action_reverse()
                elif column.key is not None:
                    self._sort_by(column)
                return

    def action_sort_by(self, step: int) -> None:
        """Sort by the column to the left or to the right."""
        columns = [c for c, _ in self._fit(self.size.width) if c.key is not None]
        if self._sort in columns:
            self._sort_by(columns[(columns.index(self._sort) + step) % len(columns)])
        elif columns:
            self._sort_by(columns[0])

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._descending = not self._descending
        self._resort()

    def _sort_by(self, column: Column[Row]) -> None:
        self._sort = column
        self._descending = column.descending
        self._resort()

    def _resort(self) -> None:
        self.show(self._all)
        self.post_message(self.Sorted())

    def _fit(self, width: int) -> list[tuple[Column[Row], int]]:
        """The columns that have room, with their widths."""
        if self._fitted[0] == width:
            return self._fitted[1]
        columns = list(self._columns)

        def needed() -> int:
            return sum(column.width + 1 for column in columns) - 1

        while len(columns) > 1 and needed() > width:
            columns.remove(max(reversed(columns), key=lambda c: c.rank))
        left = max(width - needed(), 0)
        growing = [c for c in columns if c.grows]
        sizes = []
        for column in columns:
            extra = left // len(growing) if column.grows else 0
            sizes.append((column, column.width + extra))
        self._fitted = (width, sizes)
        return sizes
