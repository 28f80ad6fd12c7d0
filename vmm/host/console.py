"""The guest's console as the host sees it: bytes out, bytes in.

Devices write to it and never wait for it. What comes from outside waits here until a device takes
it: a UART has room for sixteen bytes, a person types, a script pastes a kilobyte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from devices.records import Record

__all__ = ["Console", "Take"]

_KEPT = 1 << 20
"""How much output is remembered, in bytes."""

_INPUT_ENOUGH = 64 << 10
"""How much input may wait before `has_room` says no, in bytes."""

_OFFERED = 256
"""How much is offered to a taker at once: more than any of them has room for."""


Take = Callable[[bytes], int]
"""Takes from the front of some input on the guest's behalf; returns how many bytes."""


def _none() -> int:
    return 0


def _no() -> bool:
    return False


class _Taker(Record):
    take: Take
    unread: Callable[[], int]
    asking: Callable[[], bool]


class Console:
    """One console.

    Args:
        sink: gets output as it comes (a terminal's writer); it is remembered in any case.
        lock: the machine's device lock; held while a device is offered input.
    """

    def __init__(
        self, sink: Callable[[bytes], None] | None = None, *, lock: threading.RLock | None = None
    ) -> None:
        self._sinks: tuple[Callable[[bytes], None], ...] = () if sink is None else (sink,)
        self.lock = lock or threading.RLock()
        # Grown and cut in single steps of the interpreter: another thread may read it meanwhile.
        self._kept = bytearray()
        self._dropped = 0
        self._muted = False
        self._waiting = bytearray()
        self._takers: list[_Taker] = []
        self._arrived = threading.Condition(self.lock)
        self._on_room: Callable[[], None] | None = None
        self._asked = False
        self._unmade: list[Callable[[], object]] = []
        self.taken = 0
        """How many bytes of input the guest's devices have taken."""

    @property
    def output(self) -> bytes:
        """What the guest has written, the last MiB of it."""
        return bytes(self._kept[-_KEPT:])

    @property
    def written(self) -> int:
        """How many bytes the guest has written, remembered or not."""
        return self._dropped + len(self._kept)

    def since(self, count: int, most: int) -> tuple[bytes, int]:
        """The output behind the first `count` bytes, as far as it is remembered and at most
        `most` bytes of it; and how many bytes had been written at its end."""
        with self.lock:
            first = max(count - self._dropped, 0)
            found = bytes(self._kept[first : first + most])
            return found, self._dropped + min(first, len(self._kept)) + len(found)

    @property
    def text(self) -> str:
        """The output as text; bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")

    @property
    def waiting(self) -> int:
        """How many bytes of input no device has taken yet."""
        return len(self._waiting)

    @property
    def unsent(self) -> bytes:
        """The input that no device has taken yet."""
        return bytes(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether input should be sent now: what waits has a bound, but `send` has none."""
        return len(self._waiting) < _INPUT_ENOUGH

    @property
    def listening(self) -> bool:
        """Whether the guest seems to read its console: it has read all that was sent, or nothing
        was sent and it has asked for input."""
        with self.lock:
            self._make_takers()
            if self._waiting or any(taker.unread() for taker in self._takers):
                return False
            return self.taken > 0 or self._asked or any(taker.asking() for taker in self._takers)

    def when_room(self, callback: Callable[[], None]) -> bool:
        """Say whether input should be sent now; if not, `callback` is called once when it should.

        It is called with the machine's lock held, and must not block.
        """
        with self.lock:
            if not self.has_room:
                self._on_room = callback
            return self.has_room

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Take no output meanwhile: the guest says again what it has said already."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def write(self, data: bytes) -> None:
        """Take output from a device."""
        if self._muted:
            return
        self._kept += data
        if len(self._kept) > 2 * _KEPT:
            self._dropped += len(self._kept) - _KEPT
            del self._kept[:-_KEPT]
        for sink in self._sinks:
            sink(data)

    def tee(self, sink: Callable[[bytes], None]) -> None:
        """Have `sink` called with output as it comes, as well."""
        with self.lock:
            self._sinks = (*self._sinks, sink)

    def untee(self, sink: Callable[[bytes], None]) -> None:
        """Have `sink` called no more; nothing happens where it was not."""
        with self.lock:
            self._sinks = tuple(one for one in self._sinks if one != sink)

    def send(self, data: bytes | str) -> None:
        """Give the guest input: it is taken as fast as the guest reads."""
        with self.lock:
            self._waiting += data.encode() if isinstance(data, str) else data
            self._arrived.notify_all()
            self.offer()

    def wait_with(self, data: bytes) -> None:
        """Have `data` wait for the guest, and nothing else: as when a snapshot was taken."""
        with self.lock:
            self._waiting.clear()
            self.send(data)

    def get(self, timeout_s: float) -> int | None:
        """Take the next byte of input, waiting for it at most `timeout_s` seconds.

        The device lock is given up while it waits, so that a device may call this.
        """
        with self.lock:
            self._asked = True
            if not self._waiting and timeout_s > 0:
                self._arrived.wait(timeout_s)
            if not self._waiting:
                return None
            return self._remove(1)[0]

    def pause(self, seconds: float) -> None:
        """Wait without the device lock."""
        with self.lock:
            self._arrived.wait(seconds)

    def add_taker(
        self, take: Take, *, unread: Callable[[], int] = _none, asking: Callable[[], bool] = _no
    ) -> None:
        """Let a device take input.

        Args:
            take: called with what waits; returns how much of it was taken.
            unread: how many bytes were taken that the guest has not read yet.
            asking: whether the guest has asked to be told when there is input.
        """
        self._takers.append(_Taker(take, unread, asking))

    def add_late_taker(self, make: Callable[[], object]) -> None:
        """Have `make` called before anybody would hear of a taker: it makes a device that may add
        one."""
        self._unmade.append(make)

    def _make_takers(self) -> None:
        while self._unmade:
            self._unmade.pop(0)()

    def offer(self) -> None:
        """Offer what waits to the takers; a device that has room again calls this."""
        with self.lock:
            if self._waiting:
                self._make_takers()
            for taker in self._takers:
                while self._waiting:
                    count = taker.take(bytes(self._waiting[:_OFFERED]))
                    if not count:
                        break
                    self._remove(count)

    def _remove(self, count: int) -> bytes:
        """Take from the front of what waits; whoever held input back hears that there is room."""
        taken = bytes(self._waiting[:count])
        del self._waiting[:count]
        self.taken += count
        if self._on_room is not None and self.has_room:
            callback, self._on_room = self._on_room, None
            callback()
        return taken
