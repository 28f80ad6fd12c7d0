"""The thread of host events: it waits for files and timers, and calls who asked.

It is started when the first file is registered or the first timer set, so that a machine without
a terminal has no such thread.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from collections.abc import Callable

__all__ = ["HostEvents"]

Callback = Callable[[], None]

_READ = 0x001
"""EPOLLIN."""
_WRITE = 0x004
"""EPOLLOUT."""
_LONGEST_WAIT_S = 3600
"""epoll counts milliseconds in 32 bits."""


class HostEvents:
    """One epoll loop on a thread of its own.

    A file descriptor may be watched for reading and for writing at the same time. A callback may
    still come once, on the thread, after its file descriptor was unwatched.

    Args:
        on_error: called, once, with what a callback raised; the loop then ends.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._epoll = select.epoll()
        self._watched: dict[int, dict[int, Callback]] = {}
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Callback]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ask(self._wake_fd, {_READ: self._woken})
        self._closing = False

    def watch(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable.

        Raises:
            PermissionError: it cannot be watched: a regular file, /dev/null.
            OSError: it is not open.
        """
        self._add(fd, _READ, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd` for reading; nothing happens where it is not watched."""
        self._remove(fd, _READ)

    def watch_writable(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be written to.

        Raises:
            PermissionError: it cannot be watched: a regular file, /dev/null.
            OSError: it is not open.
        """
        self._add(fd, _WRITE, callback)

    def unwatch_writable(self, fd: int) -> None:
        """Stop watching `fd` for writing; nothing happens where it is not watched."""
        self._remove(fd, _WRITE)

    def call_later(self, seconds: float, callback: Callback) -> None:
        """Call `callback` once, `seconds` from now. From any thread."""
        with self._lock:
            if self._closing:
                return
            due = (time.monotonic() + seconds, next(self._numbers), callback)
            heapq.heappush(self._timers, due)
            self._start()
            # A timer behind the first one changes nothing for a thread that waits.
            if self._timers[0] is due:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the thread. What is due later is not called any more."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self._thread is not None and self._thread is not threading.current_thread():
            os.eventfd_write(self._wake_fd, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._wake_fd)

    def _add(self, fd: int, event: int, callback: Callback) -> None:
        with self._lock:
            if self._closing:
                return
            watched = self._watched.get(fd, {})
            self._ask(fd, {**watched, event: callback})
            self._start()

    def _remove(self, fd: int, event: int) -> None:
        with self._lock:
            watched = {} if self._closing else self._watched.get(fd, {})
            if event in watched:
                self._ask(fd, {e: callback for e, callback in watched.items() if e != event})

    def _ask(self, fd: int, wanted: dict[int, Callback]) -> None:
        """Have epoll wait for the events in `wanted`, and no others, of `fd`."""
        if fd not in self._watched:
            self._epoll.register(fd, sum(wanted))
        elif wanted:
            self._epoll.modify(fd, sum(wanted))
        else:
            with contextlib.suppress(OSError):  # it was closed by now, and is gone
                self._epoll.unregister(fd)
        if wanted:
            self._watched[fd] = wanted
        else:
            self._watched.pop(fd, None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="host-events", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:
            self._on_error(error)

    def _turn(self) -> None:
        with self._lock:
            due = self._timers[0][0] if self._timers else None
        wait = None if due is None else min(max(due - time.monotonic(), 0), _LONGEST_WAIT_S)
        for fd, events in self._poll(wait):
            # A file that was closed by its other end is ready for all that it is watched for.
            ready = events | (_READ | _WRITE if events & ~(_READ | _WRITE) else 0)
            for event, callback in self._watched.get(fd, {}).items():
                if ready & event:
                    callback()
        while not self._closing:
            with self._lock:
                if not self._timers or self._timers[0][0] > time.monotonic():
                    return
                _, _, callback = heapq.heappop(self._timers)
            callback()

    def _poll(self, wait_s: float | None) -> list[tuple[int, int]]:
        try:
            return self._epoll.poll(wait_s)
        except InterruptedError:
            return []

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
