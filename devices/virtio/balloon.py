"""A balloon: the guest gives memory back to the host when it is asked to, and reports what it has
free.

Modelled: inflating and deflating, statistics, DEFLATE_ON_OOM, and free page reporting. Left out:
free page hinting, which only migration needs, and page poisoning.

What a page that was given back holds afterwards is not defined, and the guest must not care.

Spec: virtio 1.2, "Traditional Memory Balloon Device".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from devices.records import Record
from devices.registers import Register, RegisterTable
from devices.states import require, require_unsigned
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import Chain
from devices.wiring import GuestAddressError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State
    from devices.virtio.queue import Queue

__all__ = ["STATISTICS", "Balloon", "BalloonState"]

PAGE_SIZE = 4096

STATS_VQ = 1 << 1
DEFLATE_ON_OOM = 1 << 2
REPORTING = 1 << 5

INFLATE, DEFLATE, STATS, REPORT = range(4)
"""Queues. Reporting is the fourth one where hinting is not offered: that is how drivers and other
devices count, whatever the specification's list says."""

STATISTICS = (
    *("swap_in", "swap_out", "major_faults", "minor_faults", "free", "total"),
    *("available", "disk_caches", "hugetlb_allocations", "hugetlb_failures"),
)
"""What the guest may tell of its memory, by tag: bytes, and counts of events."""
_STATISTIC = struct.Struct("<HQ")
_MOST_PAGES = 1 << 14
"""Pages of one inflation that are looked at: more than any driver sends, and bounded work."""


class BalloonState(Record):
    """How large the balloon is to be and is, in pages of 4 KiB, and which buffer for statistics
    waits until the guest is asked (-1: none)."""

    kind: ClassVar[str] = "virtio-balloon"
    version: ClassVar[int] = 1

    target: int
    actual: int
    waiting: int


class Balloon(VirtioDevice):
    """The balloon of one guest.

    Args:
        discard: gives a piece of guest memory back to the host.
    """

    device_id = 5
    name = "virtio-balloon"
    queue_sizes = (128, 128, 16, 128)
    features = STATS_VQ | DEFLATE_ON_OOM | REPORTING
    config = RegisterTable(
        Register("num_pages", 0, size=4, access="r", doc="How large the balloon is to be."),
        Register("actual", 4, size=4, doc="How large it is, says the driver."),
        Register("free_page_hint_cmd_id", 8, size=4, access="r"),
        Register("poison_val", 12, size=4),
    )

    def __init__(self, discard: Callable[[memoryview], None]) -> None:
        super().__init__()
        self._discard = discard
        self._waiting: Chain | None = None
        """The buffer with the last statistics."""
        self.statistics: dict[str, int] = {}
        """What the guest last said of its memory, by the names of STATISTICS."""
        self.on_statistics: Callable[[], None] = lambda: None
        """Called when there are new ones."""
        self.reported_bytes = 0
        """How much free memory was reported and given back, so far."""

    @property
    def target_bytes(self) -> int:
        """How much the guest is asked to give."""
        return self.values["num_pages"] * PAGE_SIZE

    @property
    def actual_bytes(self) -> int:
        """How much it says it has given."""
        return self.values["actual"] * PAGE_SIZE

    def resize(self, size: int) -> None:
        """Ask the guest to have given `size` bytes in all, rounded down to pages."""
        self.values["num_pages"] = min(size // PAGE_SIZE, 0xFFFF_FFFF)
        if self.transport is not None:
            self.transport.config_changed()

    def ask_for_statistics(self) -> bool:
        """Have the guest tell of its memory; say whether it can be asked now."""
        chain, self._waiting = self._waiting, None
        if chain is None or self.transport is None:
            return False
        queue = self.transport.queues[STATS]
        queue.push(chain, 0)
        self.transport.used(queue)
        return True

    def serve(self, queue: Queue) -> None:
        """Take what the guest gives, takes back, tells and reports."""
        for chain in queue:
            if queue.index == STATS:
                self._told(chain)
                continue  # it goes back when the guest is asked again
            if queue.index == INFLATE:
                self._inflate(chain)
            elif queue.index == REPORT:
                for piece in chain.writable:
                    self._discard(piece)
                    self.reported_bytes += len(piece)
            queue.push(chain, 0)

    def reset(self) -> None:
        """Forget what the driver did: the balloon is empty."""
        self.values |= {"actual": 0, "poison_val": 0}
        self._waiting = None
        self.statistics = {}

    def save(self) -> BalloonState:
        """Return the balloon's size, and what waits."""
        return BalloonState(
            target=self.values["num_pages"],
            actual=self.values["actual"],
            waiting=-1 if self._waiting is None else self._waiting.head,
        )

    def load(self, state: State) -> None:
        """Become the balloon that `state` was saved from.

        Raises:
            StateError: it is of something else.
        """
        state = require(state, BalloonState)
        require_unsigned(state, target=32, actual=32)
        if type(state.waiting) is not int or not -1 <= state.waiting < self.queue_sizes[STATS]:
            raise StateError("'virtio-balloon' field waiting: no descriptor of that queue")
        self.values |= {"num_pages": state.target, "actual": state.actual}
        # Only its number is needed to give it back.
        self._waiting = None if state.waiting < 0 else Chain(state.waiting, [], [])

    def _inflate(self, chain: Chain) -> None:
        assert self.transport is not None
        data = chain.read(4 * _MOST_PAGES)
        for first, count in _runs(data):
            with suppress(GuestAddressError):  # not memory: there is nothing to give
                gpa, size = first * PAGE_SIZE, count * PAGE_SIZE
                self._discard(self.transport.memory.dma(gpa, size, write=True))

    def _told(self, chain: Chain) -> None:
        told = chain.read(_STATISTIC.size * 64)
        whole = len(told) - len(told) % _STATISTIC.size
        for tag, value in _STATISTIC.iter_unpack(told[:whole]):
            if tag < len(STATISTICS):
                self.statistics[STATISTICS[tag]] = value
        self._waiting = chain
        if told:
            self.on_statistics()


def _runs(numbers: bytes) -> Iterator[tuple[int, int]]:
    """Page numbers (32 bits each), as runs of neighbours: first and count.

    They are sorted first: a driver gives pages as its allocator finds them, often downwards.
    """
    first = last = -2
    pages = sorted({page for (page,) in struct.iter_unpack("<I", numbers[: len(numbers) & ~3])})
    for page in pages:
        if page == last + 1:
            last = page
            continue
        if last >= 0:
            yield first, last - first + 1
        first = last = page
    if last >= 0:
        yield first, last - first + 1
