"""The way of the guest's output to a terminal, a pipe or a file, without ever waiting for it.

Devices write under the machine's lock, so nothing here blocks. What the reader does not take
waits in a buffer; where much waits, the machine is held until there is room again.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.host.events import HostEvents

__all__ = ["OutputBuffer"]

_FLUSH_AFTER_S = 0.005
_FLUSH_SIZE = 4096
_PIPE_CHUNK, _TERMINAL_CHUNK = 4096, 512
"""How much something that is writable takes without waiting (Spec: pipe(7), "PIPE_BUF")."""
_FULL = 256 << 10
_ROOM = 64 << 10
_LOOK_AGAIN_MS = 100


def _ignore() -> None:
    pass


class OutputBuffer:
    """Batches output without holding back a prompt.

    A terminal gets each line at once. Everything else goes out in pieces of 4 KiB, and after 5 ms
    at the latest.

    Args:
        fd: where it goes.
        events: the thread that writes what is left over.
        on_closed: called once with the error when output cannot be written; it is thrown away
            from then on.
        on_full: called on the thread of host events when more than 256 KiB wait.
        on_room: called there when there is room again.
        raw: the terminal is in raw mode: a newline needs a carriage return before it.
    """

    def __init__(
        self,
        fd: int,
        events: HostEvents,
        *,
        on_closed: Callable[[OSError], None],
        on_full: Callable[[], object] = _ignore,
        on_room: Callable[[], None] = _ignore,
        raw: bool = False,
    ) -> None:
        self._fd = fd
        self._events = events
        self._on_closed = on_closed
        self._on_full = on_full
        self._on_room = on_room
        self._raw = raw
        self._by_line = os.isatty(fd)
        self._chunk = _TERMINAL_CHUNK if self._by_line else _PIPE_CHUNK
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._due = self._watching = self._full = self._closed = self._given_up = False
        self._last = 0

    def write(self, data: bytes) -> None:
        """Take output. Never blocks and never raises."""
        with self._lock:
            if self._closed or self._given_up:
                return
            self._buffer += self._cooked(data) if self._raw else data
            if self._watching:
                self._check_full()
            elif len(self._buffer) >= _FLUSH_SIZE or (self._by_line and b"\n" in data):
                self._push()
            elif not self._due:
                self._due = True
                self._events.call_later(_FLUSH_AFTER_S, self._flush)

    def drain(self, patience_s: float | None = None) -> int:
        """Write out everything, waiting for the reader; return how many bytes were given up.

        Waits for ever, or until the reader has taken nothing for `patience_s` seconds. Ends early
        at `give_up`.
        """
        looks = 0
        left = -1
        while True:
            with self._lock:
                self._push(watch=False)
                looks = looks + 1 if len(self._buffer) == left else 0
                left = len(self._buffer)
                if not left:
                    return 0
                if patience_s is not None and looks * _LOOK_AGAIN_MS >= patience_s * 1000:
                    self._buffer.clear()
                    return left
            self._poll.poll(_LOOK_AGAIN_MS)

    def give_up(self) -> None:
        """Throw away what waits and what comes. Safe in a signal handler."""
        self._given_up = True

    def stop(self) -> None:
        """Write nothing any more on the thread of host events."""
        with self._lock:
            if self._watching:
                self._watching = False
                self._events.unwatch_writable(self._fd)

    def _flush(self) -> None:
        with self._lock:
            self._due = False
            self._push()

    def _push(self, *, watch: bool = True) -> None:
        """Write what can be written without waiting; have the rest written later."""
        if self._given_up:
            self._buffer.clear()
        try:
            while self._buffer and self._poll.poll(0):
                del self._buffer[: os.write(self._fd, self._buffer[: self._chunk])]
        except BlockingIOError:
            pass  # somebody made it non-blocking, and it is full after all
        except OSError as error:
            self._buffer.clear()
            if not self._closed:
                self._closed = True
                self._on_closed(error)
        if self._buffer and watch and not self._watching:
            self._watching = True
            self._events.watch_writable(self._fd, self._writable)

    def _check_full(self) -> None:
        if not self._full and len(self._buffer) > _FULL:
            self._full = True
            # Whoever holds the machine waits for its vCPUs, and this one is in here.
            self._events.call_later(0, self._hold)

    def _hold(self) -> None:
        if self._full:
            self._on_full()

    def _writable(self) -> None:
        with self._lock:
            self._push()
            if not self._buffer and self._watching:
                self._watching = False
                self._events.unwatch_writable(self._fd)
            room = self._full and len(self._buffer) < _ROOM
            if room:
                self._full = False
        if room:
            self._on_room()

    def _cooked(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if byte == 0x0A and self._last != 0x0D:
                out.append(0x0D)
            out.append(byte)
            self._last = byte
        return bytes(out)
