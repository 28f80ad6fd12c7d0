"""Many workers, each with a machine that comes back to one snapshot for every task.

    with vmm.Pool("ready.snap", workers=4) as pool:
        found = list(pool.map(try_input, inputs))     # try_input(machine, data)

A pool is a `concurrent.futures.Executor` that gives a machine to each call as its first argument.
It makes processes by default; any other executor will do that can call a function somewhere, such
as Dask's (`client.get_executor(pure=False)`: else it takes equal calls for one): only the name of
the snapshot's file goes there, so workers have to see that.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context

from vmm.errors import ConfigError, SnapshotError
from vmm.from_snapshot import refuse_untrusted, restore
from vmm.lifecycle import Phase
from vmm.snapshot.file import read_snapshot, save_snapshot
from vmm.snapshot.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from vmm.machine import Machine

    T = TypeVar("T")
    Setup = Callable[[Machine], object] | None

__all__ = ["Pool"]

_MOST_KEPT = 4
"""Machines of different snapshots that one thread of a worker keeps."""


class Pool(Executor):
    """Calls functions with machines of one snapshot.

    A function gets its worker's machine, back at the snapshot, and what else it was submitted with.
    What it returns goes back, so that has to be picklable, as the function itself.

    Args:
        snapshot: the state to start from.
        workers: how many processes; as many as there are processors unless given.
        setup: called with each worker's new machine: adds functions and devices of your own.
        executor: what to run the calls on instead of processes of this pool's own. It is not shut
            down with the pool.
        trust: use what a snapshot out of a file names of the host, as for `vmm.restore`.

    Raises:
        SnapshotError: the snapshot cannot be read, or is not trusted with what it names.
        ConfigError: both `workers` and `executor` were given, or less than one worker.
    """

    def __init__(
        self,
        snapshot: Snapshot | str | os.PathLike[str],
        workers: int | None = None,
        *,
        setup: Setup = None,
        executor: Executor | None = None,
        trust: bool = False,
    ) -> None:
        if workers is not None and (executor is not None or workers < 1):
            raise ConfigError(f"workers={workers}: give 1 or more, or an executor instead")
        self._setup = setup
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._path, self._digest = self._file_of(snapshot, trust)
        self._own = executor is None
        self._shut = False
        self._pending: set[Future[Any]] = set()
        # Not forked: a worker opens KVM itself, and threads of this process are none of its.
        self._executor = executor or ProcessPoolExecutor(workers, get_context("spawn"))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn(machine, *args, **kwargs)` called by a worker.

        Raises:
            RuntimeError: the pool was shut down.
        """
        if self._shut:
            raise RuntimeError("the pool was shut down")
        # Plain arguments: an executor may look into them, as Dask's does to tell calls apart.
        future = self._executor.submit(
            _call, self._path, self._digest, self._setup, fn, args, kwargs
        )
        self._pending.add(future)
        future.add_done_callback(self._done)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes when those that were taken are done.

        Args:
            wait: return when they are done.
            cancel_futures: drop those that have not begun.
        """
        self._shut = True
        if self._own:
            self._executor.shutdown(wait, cancel_futures=cancel_futures)
        else:
            pending = list(self._pending)
            if cancel_futures:
                for future in pending:
                    future.cancel()
            for future in pending if wait else ():
                with suppress(CancelledError):
                    future.exception()
        self._clean_up()

    def _done(self, future: Future[Any]) -> None:
        self._pending.discard(future)
        if self._shut:
            self._clean_up()

    def _clean_up(self) -> None:
        """Remove what was made for the workers, once no call needs it any more."""
        if self._folder is not None and not self._pending:
            self._folder.cleanup()

    def _file_of(self, snapshot: Snapshot | str | os.PathLike[str], trust: bool) -> tuple[str, str]:
        if not isinstance(snapshot, Snapshot):
            with read_snapshot(snapshot) as read:
                if not trust:
                    refuse_untrusted(read)
                return os.path.abspath(snapshot), read.digest
        if snapshot.path is not None:
            return os.path.abspath(snapshot.path), snapshot.digest
        self._folder = tempfile.TemporaryDirectory(prefix="vmm-pool-")
        path = os.path.join(self._folder.name, "pool.snap")
        with save_snapshot(snapshot, path) as saved:
            return path, saved.digest


class _Worker(threading.local):
    """The machines of one thread of a worker, by the checksums of their snapshots; those that were
    used last."""

    def __init__(self) -> None:
        self.machines: dict[str, tuple[Machine, Snapshot]] = {}

    def get(self, digest: str) -> tuple[Machine, Snapshot] | None:
        """The machine of a snapshot, if there is one that can go on; it is then the newest."""
        found = self.machines.pop(digest, None)
        if found is None:
            return None
        if found[0].phase in (Phase.STOPPED, Phase.FAILED):
            _let_go(found)
            return None
        self.machines[digest] = found
        return found

    def keep(self, digest: str, made: tuple[Machine, Snapshot]) -> None:
        """Keep a machine instead of the one that was not used for longest."""
        self.machines[digest] = made
        while len(self.machines) > _MOST_KEPT:
            _let_go(self.machines.pop(next(iter(self.machines))))


_worker = _Worker()
_open: dict[int, Machine] = {}
"""The machines of all threads, which are closed when the process ends."""


def _let_go(kept: tuple[Machine, Snapshot]) -> None:
    machine, snapshot = kept
    _open.pop(id(machine), None)
    machine.close()
    snapshot.close()


@atexit.register
def _close_all() -> None:
    for machine in list(_open.values()):
        machine.close()


def _call(
    path: str,
    digest: str,
    setup: Setup,
    function: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    """Call a function with this worker's machine, back at the snapshot."""
    found = _worker.get(digest)
    if found is None:
        snapshot = read_snapshot(path, verify=False, trusted=True)  # the pool has looked at it
        if snapshot.digest != digest:
            snapshot.close()
            raise SnapshotError(f"{path}: replaced while a pool works with it")
        machine = restore(snapshot)
        _open[id(machine)] = machine
        found = machine, snapshot
        try:
            if setup is not None:
                setup(machine)
        except BaseException:
            _let_go(found)
            raise
        _worker.keep(digest, found)
    machine, snapshot = found
    machine.reset_to(snapshot)
    return function(machine, *args, **kwargs)
