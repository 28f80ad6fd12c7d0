"""A thread that serves one queue of a device whose requests may take long."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

__all__ = ["QueueWorker"]


class QueueWorker:
    """Serves a queue whenever its eventfd is signalled, by KVM or by `kick`, or there is input.

    The thread starts with the first kick. Whoever has paused the worker knows that no request is
    under way, and none begins; what is signalled meanwhile is served afterwards.

    Args:
        name: the thread's.
        serve: carries out what waits; says whether more has come meanwhile.
        fail: called with what `serve` raised; the thread then ends.
        input_fd: asked behind each pass for a file that is another reason to serve the queue once
            it is readable; -1: none.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[], bool],
        fail: Callable[[BaseException], None],
        input_fd: Callable[[], int] = lambda: -1,
    ) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._name = name
        self._serve = serve
        self._fail = fail
        self._input_fd = input_fd
        # Reentrant: a machine that is paused for a reset resets its devices, which want it as well.
        self._serving = threading.RLock()
        self._turn = threading.RLock()
        """Who waits for `serving` holds this, or a busy worker would take it again and again."""
        self._thread: threading.Thread | None = None
        self._closing = False

    def kick(self) -> None:
        """Have the queue served."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        os.eventfd_write(self.fd, 1)

    def pause(self) -> None:
        """Return when no request is under way; none begins until `resume`, on this same thread."""
        self._turn.acquire()
        self._serving.acquire()

    def resume(self) -> None:
        """Undo one `pause`."""
        self._serving.release()
        self._turn.release()

    def close(self) -> None:
        """End the thread behind the request that is under way, and close the eventfd."""
        self._closing = True
        if self._thread is not None and self._thread is not threading.current_thread():
            os.eventfd_write(self.fd, 1)
            self._thread.join()
        os.close(self.fd)

    def _loop(self) -> None:
        try:
            while True:
                self._wait()
                with self._turn:
                    pass
                with self._serving:
                    if self._closing:
                        return
                    more = self._serve()
                if more:
                    os.eventfd_write(self.fd, 1)
        except BaseException as error:
            self._fail(error)

    def _wait(self) -> None:
        """Return when there is a reason to serve the queue."""
        also = self._input_fd()
        if also >= 0:
            poll = select.poll()
            poll.register(self.fd, select.POLLIN)
            poll.register(also, select.POLLIN)
            if self.fd not in dict(poll.poll()):
                return
        os.eventfd_read(self.fd)
