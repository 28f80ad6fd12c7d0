"""Where the parts of a boot lie in guest memory: claimed, checked, and found room for.

Every loader builds its plan through one `Placement`, so that the rules hold for all of them:
nothing lies outside of RAM and no two things overlap.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from vmm.errors import BootError
from vmm.layout import FOUR_GIB
from vmm.loader.e820 import RAM, e820
from vmm.loader.plan import START_TABLES_SIZE, BootOptions, Write

__all__ = ["Placement", "c_string"]

_FIRST_PAGE_END = 0x1000
"""Room is never found in page 0: the interrupt vectors and BIOS data are there, and a pointer
of 0 means "nothing" in most boot protocols."""


def c_string(text: str, what: str, name: str) -> bytes:
    """Return `text` as the NUL-terminated string that a guest reads.

    Raises:
        BootError: it has a NUL inside or cannot be encoded.
    """
    try:
        # A command line argument that was not UTF-8 comes with surrogates and goes out as it came.
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BootError(f"{name}: {what} {text!r} cannot be written as UTF-8") from None
    if 0 in data:
        raise BootError(f"{name}: {what} has a NUL character inside")
    return data + b"\0"


class Placement:
    """Who has which bytes of guest memory.

    With `start_tables` the last 32 KiB of low RAM are set aside for the GDT and the page tables
    of a start in protected or long mode.

    Raises:
        BootError: there is no room for the start tables.
    """

    def __init__(self, options: BootOptions, *, start_tables: bool) -> None:
        self._layout = options.layout
        self._name = options.name
        self._taken: list[tuple[int, int, str]] = []
        self._writes: list[Write] = []
        self.start_tables = options.layout.low_end
        """Where the start tables begin; without them, where low RAM ends."""
        if start_tables:
            if self._layout.low_end <= START_TABLES_SIZE:
                raise BootError(
                    f"{self._name}: memory of {self._layout.size} bytes is too small: a start in "
                    f"protected or long mode needs {START_TABLES_SIZE} bytes for its tables"
                )
            self.start_tables -= START_TABLES_SIZE
            self.claim(self.start_tables, START_TABLES_SIZE, "the machine's start tables")

    @property
    def writes(self) -> tuple[Write, ...]:
        """Everything that was put, in the order it was put."""
        return tuple(self._writes)

    def put(self, gpa: int, data: bytes | memoryview, what: str, *, zeros_after: int = 0) -> None:
        """Claim the room for `data` and `zeros_after` zero bytes at `gpa`, and plan the write.

        Raises:
            BootError: it is not RAM, or something else lies there.
        """
        write = Write(gpa, data, what, zeros_after)
        if write.size:
            self.claim(gpa, write.size, what)
            self._writes.append(write)

    def claim(self, gpa: int, size: int, what: str) -> None:
        """Mark `size` bytes (more than 0) from `gpa` as taken by `what`.

        Raises:
            BootError: it is not RAM, or something else lies there.
        """
        end = gpa + size
        if not self._layout.contains(gpa, size):
            reach = " and ".join(f"{r.start:#x}..{r.end:#x}" for r in self._layout.ranges)
            raise BootError(
                f"{self._name}: {what} of {size} bytes at {gpa:#x} ends at {end:#x}, outside of "
                f"memory ({reach}); give the machine more with --memory"
            )
        at = bisect_left(self._taken, (gpa, 0, ""))
        for other_start, other_end, other in self._taken[max(at - 1, 0) : at + 1]:
            if gpa < other_end and other_start < end:
                raise BootError(
                    f"{self._name}: {what} at {gpa:#x}..{end:#x} overlaps {other} at "
                    f"{other_start:#x}..{other_end:#x}"
                )
        insort(self._taken, (gpa, end, what))

    def allocate(self, size: int, what: str, *, align: int = 1, prefer: int = 0) -> int:
        """Find room for `size` bytes below 4 GiB, from `prefer` upwards if possible.

        The room is not claimed; `put` or `claim` does that.

        Raises:
            BootError: there is no such room.
        """
        for floor in (prefer, 0):
            gpa = self.find(size, align=align, floor=floor)
            if gpa is not None:
                return gpa
        raise BootError(
            f"{self._name}: no room for {what} of {size} bytes in memory of "
            f"{self._layout.size} bytes; give the machine more with --memory"
        )

    def find(
        self,
        size: int,
        *,
        align: int = 1,
        floor: int = 0,
        ceiling: int = FOUR_GIB,
        highest: bool = False,
    ) -> int | None:
        """Return the lowest (or `highest`) aligned address of `size` free bytes of usable RAM.

        All of them lie at or above `floor` and below `ceiling`. None: there is no such room.
        """
        best = None
        for start, end in self._gaps(max(floor, _FIRST_PAGE_END), ceiling):
            lowest_start = -(-start // align) * align
            if lowest_start + size > end:
                continue
            if not highest:
                return lowest_start
            best = (end - size) // align * align
        return best

    def _gaps(self, floor: int, ceiling: int) -> Iterator[tuple[int, int]]:
        """Yield the free pieces of usable RAM between two addresses, ascending."""
        for entry in e820(self._layout):
            if entry.type != RAM:
                continue
            cursor, end = max(entry.start, floor), min(entry.end, ceiling)
            for taken_start, taken_end, _ in self._taken:
                if taken_end <= cursor:
                    continue
                if taken_start >= end:
                    break
                if taken_start > cursor:
                    yield cursor, taken_start
                cursor = taken_end
            if cursor < end:
                yield cursor, end
