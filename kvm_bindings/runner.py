"""KVM_RUN, as cheap as it can be: the innermost call of the run loop.

There are two runners with one behaviour. The compiled one (`kvm_bindings/_fastrun.c`) is built
where a C compiler is found at installation; the other goes through ctypes. The environment
variable GLASSVM_RUNNER=ctypes chooses the latter. The compiled one can go on by itself where an
exit is port I/O whose function is known.

Given a ring, a runner notes every exit in it (`kvm_bindings.exit_ring`): the loop above it pays
nothing for that, since the compiled runner does it between two system calls that cost a hundred
times as much.

Neither may go through `fcntl.ioctl`: from Python 3.14 it repeats a call that a signal
interrupted, so that a kick would never come back.

Spec: KVM API, KVM_RUN.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
from collections.abc import Callable
from functools import cache

from kvm_bindings import ioctls
from kvm_bindings.calls import libc_ioctl
from kvm_bindings.exit_ring import ExitRing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias

    from kvm_bindings.recording import Recorder

    Call: TypeAlias = tuple[bool, int, Callable[..., Any], int | None]
    """Who answers port I/O: write, size, function, offset; with no offset the function is called
    without one."""
    Run: TypeAlias = Callable[
        [dict[int, Call], Callable[[], object], Callable[[], object], int], int
    ]
else:
    Protocol = object

__all__ = ["Call", "CtypesRunner", "Runner", "make_runner", "runner_kind"]

_EXIT_REASON_WORD = 2
"""kvm_run.exit_reason is at byte 8."""

VERSION = 3
"""Of what the compiled runner takes and does. Rises with each change of `_fastrun.c`, so that one
which was built before it is left alone."""


class Runner(Protocol):
    """One vCPU's way into the guest."""

    exits: int
    """Exits that have been handled; whoever handles one counts it."""
    enter: Callable[[], int]
    """Enter the guest once; return the exit reason, or a negative errno. -ENOBUFS: the guest was
    not entered, the ring holds as many records as `limit` says."""
    finish: Callable[[], None]
    """The last exit has been handled: complete its record. `enter` does so itself."""

    run: Run | None
    """Where there is one: `run(calls, acquire, release, limit)` enters the guest again and again
    and carries out port I/O, with the lock held, as `calls` says; it returns as `enter` does, with
    an exit that it has not handled, or KVM_EXIT_IO when `exits` is `limit`. What a function raises
    it raises, before the exit is counted."""

    def set_limit(self, limit: int) -> None:
        """Have `enter` return -ENOBUFS when the ring's head has come to `limit`."""

    def deliver_rip(self, offset: int | None) -> None:
        """KVM puts RIP at `offset` of the vCPU's page with every exit (None: no more)."""

    def disarm(self) -> None:
        """Make `enter` return -EBADF from now on, and let go of the mapping."""


class CtypesRunner:
    """KVM_RUN through libc's ioctl."""

    def __init__(self, fd: int, index: int, mapping: mmap.mmap, ring: ExitRing | None) -> None:
        handle = self._handle = ctypes.c_int(fd)
        view = self._view = memoryview(mapping)
        words = self._words = view.cast("I")
        call, request, nothing = libc_ioctl, ioctls.KVM_RUN.as_ulong, ctypes.c_ulong(0)
        get_errno = ctypes.get_errno

        def enter() -> int:
            if call(handle, request, nothing):
                return -get_errno()
            return words[_EXIT_REASON_WORD]

        self.exits = 0
        self.run: Run | None = None
        self.enter: Callable[[], int] = enter
        self.finish: Callable[[], None] = _nothing
        self._recorder: Recorder | None = None
        if ring is not None:
            from kvm_bindings.recording import Recorder

            self._recorder = Recorder(enter, index, view, ring)
            self.enter, self.finish = self._recorder.enter, self._recorder.finish

    def set_limit(self, limit: int) -> None:
        """Have `enter` return -ENOBUFS when the ring's head has come to `limit`."""
        if self._recorder is not None:
            self._recorder.set_limit(limit)

    def deliver_rip(self, offset: int | None) -> None:
        """KVM puts RIP at `offset` of the vCPU's page with every exit (None: no more)."""
        if self._recorder is not None:
            self._recorder.deliver_rip(offset)

    def disarm(self) -> None:
        """Make `enter` return -EBADF from now on, and let go of the mapping."""
        self._handle.value = -1
        self.finish()
        self._words.release()
        self._view.release()
        if self._recorder is not None:
            self._recorder.close()


def _nothing() -> None:
    pass


@cache
def _import_fastrun() -> Any:
    try:
        found = importlib.import_module("kvm_bindings._fastrun")
    except ImportError:
        return None
    return found if getattr(found, "VERSION", 0) == VERSION else None


def _compiled() -> Any:
    return None if os.environ.get("GLASSVM_RUNNER") == "ctypes" else _import_fastrun()


def make_runner(
    fd: int, mapping: mmap.mmap, *, index: int = 0, ring: ExitRing | None = None
) -> Runner:
    """Make the best runner there is for the vCPU `fd` with its page mapped at `mapping`; it notes
    exits in `ring`, which must outlive it."""
    fastrun = _compiled()
    if fastrun:
        memory = () if ring is None else (ring.words, ring.records)
        compiled: Runner = fastrun.Runner(fd, index, mapping, *memory)
        return compiled
    return CtypesRunner(fd, index, mapping, ring)


def runner_kind() -> str:
    """Say which runner `make_runner` makes: "compiled" or "ctypes"."""
    return "compiled" if _compiled() else "ctypes"
