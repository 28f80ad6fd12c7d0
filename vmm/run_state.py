"""A run, from its beginning to what it came to: what all who take part in it look at.

There is one run at a time, and of the things that end it the first counts. How long it may last is
measured in time that the guest could use.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums: 15 µs of a run
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from kvm_bindings import signals
from vmm.endings import Ending
from vmm.errors import LifecycleError
from vmm.lifecycle import Lifecycle, Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.vcpu import Vcpu

__all__ = ["RunState"]

_HEARTBEAT_NS = 50_000_000
_FOREVER_S = 1e9
_SIGINT = int(signal.SIGINT)
_NO_VCPU = 0xFF  # vmm.trace.journal, which is not imported where no journal is kept


class _Until:
    """Something that holds until its `with` statement is left.

    A generator under `contextmanager` takes three times the instructions, and thousands of runs a
    second are asked for.
    """

    __slots__ = ("_undo",)

    def __init__(self, undo: Callable[[], object]) -> None:
        self._undo = undo

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self._undo()


class RunState:
    """Whether the vCPUs of a machine run, until when, and what has ended it."""

    def __init__(self) -> None:
        self.vcpus: Sequence[Vcpu] = ()
        self.lifecycle = Lifecycle()
        self.lock = threading.RLock()
        """That of `changed`, whose own `with` is a call in Python."""
        self.changed = threading.Condition(self.lock)
        """Held while something changes that a thread may wait for, and notified then."""
        self.busy = False
        """Whether a run is in progress, its threads included."""
        self.ending: Ending | None = None
        """How the last run ended, or the one in progress is about to."""
        self._fault: BaseException | None = None
        self._interrupted_by_user = False
        self._deadline_ns: int | None = None
        self._main = threading.get_ident()
        self._own_beat: signals.Heartbeat | None = None
        """The heartbeat of the thread that made the machine."""
        self._began_ns = 0
        self.exits_before = 0
        """The exits of all vCPUs before the run began."""

    # -- the beginning and the end --------------------------------------------------------

    def begin(self, timeout: float | None) -> None:
        """Begin a run that lasts `timeout` seconds at most.

        Raises:
            LifecycleError: there is one, or the machine cannot run any more.
        """
        for vcpu in self.vcpus:
            if vcpu.running:
                raise LifecycleError("the machine is in a run already, which is paused; resume it")
        self.lifecycle.to(Phase.RUNNING)
        self.busy = True
        self.ending = self._fault = None
        self._interrupted_by_user = False
        self._began_ns, self.exits_before = time.monotonic_ns(), self.exits
        self._deadline_ns = None
        if timeout is not None:
            self._deadline_ns = self._began_ns + int(min(timeout, _FOREVER_S) * 1e9)

    def end(self, ending: Ending) -> None:
        """End the run, if nothing has ended it yet. From any thread, also out of a device."""
        with self.lock:
            if self.ending is None:
                self.ending = ending
            self.changed.notify_all()
        self.kick()

    def fail(self, error: BaseException) -> None:
        """End the run because something of ours raised; `finish` raises it again."""
        self._fault = error
        self.end(Ending("stopped", detail=str(error)))

    def finish(self) -> Ending:
        """What the run came to, now that no vCPU runs any more.

        Raises:
            BaseException: what was given to `fail`. The machine is then FAILED.
            KeyboardInterrupt: Ctrl-C. The machine is then PAUSED.
        """
        with self.lock:
            self.busy = False
            self.changed.notify_all()
        if self._fault is not None:
            if self.lifecycle.phase is Phase.PAUSED:
                self.lifecycle.to(Phase.RUNNING)
            self.lifecycle.to(Phase.FAILED)
            raise self._fault
        if self.lifecycle.phase is Phase.RUNNING:
            self.lifecycle.to(Phase.PAUSED)
        if self._interrupted_by_user:
            raise KeyboardInterrupt
        assert self.ending is not None
        return self.ending

    def ctrl_c(self) -> _Until:
        """For a `with` statement: turn Ctrl-C into an ending, so that it never strikes between an
        exit and its handling.

        Only on the main thread, and only where the program has no handler of its own.
        """
        if (
            threading.current_thread() is not threading.main_thread()
            or _signal.getsignal(_SIGINT) is not signal.default_int_handler
        ):
            return _Until(_nothing)

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._interrupted_by_user = True
            self.end(Ending("stopped"))

        _signal.signal(_SIGINT, interrupt)
        return _Until(_restore_ctrl_c)

    # -- the vCPUs ------------------------------------------------------------------------

    def kick(self, but: Vcpu | None = None) -> None:
        """Have all vCPUs, or all but one, come out of the guest."""
        for vcpu in self.vcpus:
            if vcpu is not but:
                vcpu.kick()

    def refuse_own_thread(self, what: str) -> None:
        """Refuse to wait for the vCPUs on the thread of one of them.

        Raises:
            LifecycleError: called by a device.
        """
        if any(vcpu.on_this_thread for vcpu in self.vcpus):
            raise LifecycleError(f"a device cannot {what} the machine that it runs in; end the run")

    @property
    def exits(self) -> int:
        """The exits of all vCPUs since the machine was made."""
        exits = 0
        for vcpu in self.vcpus:  # a plain loop: this is asked for several times a run
            exits += vcpu.runner.exits
        return exits

    @property
    def exits_of_run(self) -> int:
        """The exits of all vCPUs in the last run, or so far in the one in progress."""
        return self.exits - self.exits_before

    def current_exit(self) -> tuple[int, int]:
        """The number of the exit that is being handled on the calling thread, and its vCPU."""
        for vcpu in self.vcpus:
            if vcpu.on_this_thread and vcpu.ring is not None:
                return vcpu.ring.exits, vcpu.index
        return 0, _NO_VCPU

    # -- the time ------------------------------------------------------------------------

    def heartbeat(self) -> _Until:
        """For a `with` statement: interrupt the calling thread's vCPU when the deadline has come,
        and twenty times a second."""
        first = _HEARTBEAT_NS
        if self._deadline_ns is not None:
            first = max(min(self._deadline_ns - time.monotonic_ns(), _HEARTBEAT_NS), 1)
        own = threading.get_ident() == self._main
        beat = self._own_beat if own else None
        if beat is None:
            beat = signals.Heartbeat()
        if own:  # kept from run to run: who makes thousands of short ones pays for one timer
            self._own_beat = beat
        beat.start(first, _HEARTBEAT_NS)
        return _Until(beat.stop if own else beat.close)

    def close(self) -> None:
        """Give the timer back."""
        if self._own_beat is not None:
            self._own_beat.close()
            self._own_beat = None

    @property
    def seconds(self) -> float:
        """How long ago the last run began."""
        return (time.monotonic_ns() - self._began_ns) / 1e9

    def timed_out(self) -> bool:
        """Whether the deadline has come."""
        return self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns

    def now_ns(self) -> int:
        """The time, for `prolong_since`."""
        return time.monotonic_ns()

    def prolong_since(self, began_ns: int) -> None:
        """Put the deadline off: the guest could not use the time since then."""
        if self._deadline_ns is not None:
            self._deadline_ns += time.monotonic_ns() - began_ns


def _nothing() -> None:
    pass


def _restore_ctrl_c() -> None:
    _signal.signal(_SIGINT, signal.default_int_handler)
