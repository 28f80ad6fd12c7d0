"""Running vCPUs: on the caller's thread or one thread each, with a deadline, Ctrl-C and a gate.

A machine with one vCPU runs on the thread that called `run`; several vCPUs get a thread each.
Either way the same three things come in from outside, and all of them by a kick: an ending, a
pause, and the heartbeat (a timer of the vCPU's own thread, twenty times a second) by which
deadlines and processors that sleep for good are noticed.
"""

from __future__ import annotations

import signal
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from kvm_bindings import signals
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault, FaultChoice, LifecycleError
from vmm.exits import Exit
from vmm.lifecycle import Lifecycle, Phase
from vmm.stepping import one_instruction
from vmm.vcpu import Vcpu

if TYPE_CHECKING:
    from queue import SimpleQueue

    _Feed = SimpleQueue[tuple[Exit | None, threading.Semaphore | None]]

__all__ = ["RunControl"]


_BATCH = 256
"""After so many exits they are harvested; a ring holds that many, long strings included."""

_HEARTBEAT_NS = 50_000_000
_FOREVER_S = 1e9
_USERS = "user"
"""The hold that `pause` takes unless it is told another."""


class RunControl:
    """What the vCPUs of one machine have in common while they run."""

    def __init__(self) -> None:
        self.vcpus: Sequence[Vcpu] = ()
        self.lifecycle = Lifecycle()
        self.interrupted_by_user = False
        self.harvest: Callable[[Vcpu, int], None] | None = None
        """Called with a vCPU and a count after at most `_BATCH` exits: its last `count` exits
        have not been seen yet."""
        self.on_device_fault: Callable[[DeviceFault], FaultChoice] | None = None
        """Asked what becomes of an access whose device raised, while all vCPUs stand still."""
        self.on_held: Callable[[], None] | None = None
        """Called on the thread of a vCPU that has come to the gate, without locks."""
        self.held_by = ""
        """Why the run is held, where somebody said so."""
        self._changed = threading.Condition()
        self._ending: Ending | None = None
        self._fault: BaseException | None = None
        self._deadline_ns: int | None = None
        self._asleep: set[int] = set()
        self._census: dict[int, bool] = {}
        self._parked: set[int] = set()
        self._permits: dict[int, Callable[[Vcpu], Ending | None]] = {}
        """What a vCPU may do though the run is held: run for one exit, or one instruction."""
        self._stepping: set[int] = set()
        """Those that are at it."""
        self._holds: set[str] = set()
        """Who wants the run to stand still."""
        self._asking: Vcpu | None = None
        self._single = False
        self._busy = False
        self._steps: weakref.ref[Generator[Exit | Ending, None, None]] | None = None

    # -- from any thread ------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """End the run, if nothing has ended it yet. From any thread, also out of a device."""
        with self._changed:
            if self._ending is None:
                self._ending = ending
            self._changed.notify_all()
        for vcpu in self.vcpus:
            vcpu.kick()

    def shut(self) -> None:
        """End whatever runs and return when nothing does.

        Raises:
            LifecycleError: called by a device on a vCPU's own thread, which would wait for itself.
        """
        if any(vcpu.on_this_thread for vcpu in self.vcpus):
            raise LifecycleError("a device cannot close the machine that it runs in; end the run")
        self.end(Ending("stopped"))
        steps = None if self._steps is None else self._steps()
        if steps is not None:
            # An iteration that stands still is left; one that is at work sees the ending.
            with suppress(ValueError):
                steps.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    def fail(self, error: BaseException) -> None:
        """End the run because something of ours raised; `run` raises it again."""
        self._fault = error
        self.end(Ending("stopped", detail=str(error)))

    def pause(self, timeout_s: float | None = None, *, hold: str = _USERS) -> bool:
        """Hold all vCPUs between two instructions and return when they stand still.

        Args:
            timeout_s: how long to wait for that; None for as long as it takes.
            hold: what this hold is called: the run goes on when every one is let go of, so that
                nobody who only looks undoes a user's pause, or that of a stop.

        Returns:
            Whether they do; False where a vCPU did not come out within `timeout_s` (it will
            stop when it does), or where there is nothing that runs.

        Raises:
            LifecycleError: called by a device on a vCPU's own thread, which would wait for itself.
        """
        phase = self.lifecycle.phase
        if phase is not Phase.RUNNING and not (phase is Phase.PAUSED and self._busy):
            return False
        if any(vcpu.on_this_thread for vcpu in self.vcpus):
            raise LifecycleError("a device cannot pause the machine that it runs in; end the run")
        self.pause_soon(hold=hold)
        with self._changed:
            parked = self._changed.wait_for(self._all_parked, timeout_s)
            self._hold()
            return parked and self._ending is None

    def pause_soon(self, why: str = "", *, hold: str = _USERS) -> None:
        """Hold all vCPUs between two instructions, without waiting for it: also out of a hook on
        a vCPU's own thread, which then stops behind the exit that it has just handled.

        The machine is paused when the last vCPU has come to the gate; `held_by` then says `why`.
        """
        with self._changed:
            if self._ending is None:
                self._holds.add(hold)
                self.held_by = self.held_by or why
        for vcpu in self.vcpus:
            vcpu.kick()

    def resume(self, *, hold: str = _USERS) -> None:
        """Let go of a hold; without any, paused vCPUs go on."""
        with self._changed:
            if hold in self._holds:
                self._holds.remove(hold)
                if hold == _USERS:
                    self.held_by = ""
                if self._holds:
                    return
                if self._ending is None and self.lifecycle.phase is Phase.PAUSED:
                    self.lifecycle.to(Phase.RUNNING)
                self._changed.notify_all()

    def step_exit(self, index: int = 0, timeout_s: float | None = None) -> bool:
        """Let one vCPU of a paused run go on for one exit; return when it stands still again.

        Returns:
            Whether there was an exit: False where the guest ran for `timeout_s` without one (it
            is held again), or the run ended.

        Raises:
            LifecycleError: the machine is not held in a run.
        """
        vcpu = self.vcpus[index]
        before = vcpu.exits
        self._permit(vcpu, lambda vcpu: vcpu.execute(vcpu.exits + 1), timeout_s)
        return vcpu.exits > before

    def step_instruction(
        self, index: int, flags: int, halts: Callable[[int], bool], timeout_s: float | None = None
    ) -> bool:
        """Let one vCPU of a paused run go on for one instruction (`vmm.stepping`); return when it
        stands still again.

        Returns:
            False where it did not come to the end of the instruction in `timeout_s`.

        Raises:
            LifecycleError: the machine is not held in a run.
        """

        def step(vcpu: Vcpu) -> Ending | None:
            self._single = True
            try:
                return one_instruction(vcpu, flags, halts)[1]
            finally:
                self._single = False

        return self._permit(self.vcpus[index], step, timeout_s)

    def _permit(
        self, vcpu: Vcpu, step: Callable[[Vcpu], Ending | None], timeout_s: float | None
    ) -> bool:
        """Let a vCPU that stands at the gate do something; say whether it came back by itself."""
        index = vcpu.index
        with self._changed:
            if not (self._holds and self._busy and index in self._parked):
                raise LifecycleError("there is no run that is paused")
            self._permits[index] = step
            self.held_by = ""
            self._changed.notify_all()
            back = self._changed.wait_for(lambda: self._is_back(index), timeout_s)
            self._permits.pop(index, None)
        if not back:
            vcpu.kick()
            with self._changed:
                self._changed.wait_for(lambda: self._is_back(index))
        return back

    def _is_back(self, index: int) -> bool:
        return self._ending is not None or (index in self._parked and index not in self._permits)

    @property
    def ending(self) -> Ending | None:
        """How the last run ended, or the one in progress is about to."""
        return self._ending

    def in_guest(self, vcpu: Vcpu) -> bool:
        """Whether the vCPU may be in the guest: it runs, and is not standing at the gate."""
        return vcpu.running and vcpu.index not in self._parked

    # -- asked by the vCPUs ---------------------------------------------------------------

    def interrupted(self, vcpu: Vcpu) -> bool:
        """A vCPU came out of the guest: look why, wait while paused, say whether to leave."""
        stepping, permitted = vcpu.index in self._stepping, vcpu.index in self._permits
        if stepping and (not permitted or self._asking is not None):
            return True  # given up, or all are wanted at the gate
        if self._gate_closed and not stepping:
            with self._at_gate(vcpu):
                if self.on_held is not None:
                    self.on_held()
            if vcpu.index in self._permits:
                return True
        if self._ending is not None:
            return True
        if self._single and vcpu.asleep:
            return True  # only the others could wake it, or time
        if self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns:
            self.end(Ending("timeout", vcpu.index))
            return True
        if vcpu.asleep_for_good():
            self._asleep.add(vcpu.index)
        else:
            self._asleep.discard(vcpu.index)
        if self._census or len(self._asleep) == len(self.vcpus):
            self._take_census(vcpu)
        return self._ending is not None

    def device_failed(self, vcpu: Vcpu, fault: DeviceFault) -> FaultChoice:
        """A device raised at an access of `vcpu`, on whose thread this is: ask what becomes of it.

        Raises:
            ConfigError: whoever was asked gave an answer that is none.
        """
        if self.on_device_fault is None:
            return "raise"
        with self._at_gate(vcpu):
            with self._changed:
                self._changed.wait_for(lambda: self._asking is None)  # one fault after the other
                self._asking = vcpu
            try:
                for other in self.vcpus:
                    if other is not vcpu:
                        other.kick()
                with self._changed:
                    self._changed.wait_for(self._all_parked)
                choice = self.on_device_fault(fault)
            finally:
                with self._changed:
                    self._asking = None
                    self._changed.notify_all()
        if choice not in ("retry", "skip", "raise"):
            raise ConfigError(f"on_device_fault gave {choice!r}: give retry, skip or raise")
        return choice

    # -- running --------------------------------------------------------------------------

    def run(self, timeout: float | None, max_exits: int | None) -> Ending:
        """Run all vCPUs until something ends the run.

        Raises:
            DeviceFault: a device model raised. The machine is then FAILED.
            KeyboardInterrupt: Ctrl-C on the main thread. The machine is then PAUSED.
        """
        self._begin(timeout)
        goal = None if max_exits is None else self._total() + max_exits
        try:
            with self._ctrl_c():
                if len(self.vcpus) == 1:
                    self._run_one(self.vcpus[0], goal)
                else:
                    self._run_all(goal)
        except BaseException as error:
            self.fail(error)
        return self._finish()

    def steps(
        self, timeout: float | None, max_exits: int | None
    ) -> Generator[Exit | Ending, None, None]:
        """Run all vCPUs and hand out every exit after it was handled, then the ending."""
        made = self._make_steps(timeout, max_exits)
        # Weak: an iteration that nobody holds any more must end.
        self._steps = weakref.ref(made)
        return made

    def _make_steps(
        self, timeout: float | None, max_exits: int | None
    ) -> Generator[Exit | Ending, None, None]:
        self._begin(timeout)
        goal = None if max_exits is None else self._total() + max_exits
        try:
            if len(self.vcpus) == 1:
                while self._ending is None:
                    with self._ctrl_c():
                        event = self._step(self.vcpus[0], goal)
                    if event is not None:
                        yield event
            else:
                yield from self._steps_of_all(goal)
        finally:
            # Whoever stops iterating stops the guest.
            self.end(Ending("stopped"))
            ending = self._finish()
        yield ending

    def one_instruction(
        self, vcpu: Vcpu, flags: int, halts: Callable[[int], bool]
    ) -> tuple[Exit | None, Ending | None]:
        """Run one instruction of one vCPU while the others stand still (`vmm.stepping`).

        Raises:
            DeviceFault: a device model raised. The machine is then FAILED.
            KeyboardInterrupt: Ctrl-C on the main thread. The machine is then PAUSED.
        """
        self._begin(None)
        self._single = True
        before = vcpu.exits
        event = None
        try:
            with self._ctrl_c(), signals.Heartbeat() as heartbeat:
                heartbeat.start(_HEARTBEAT_NS, _HEARTBEAT_NS)
                event, ending = one_instruction(vcpu, flags, halts)
            if ending is not None:
                self.end(ending)
        except BaseException as error:
            self.fail(error)
        finally:
            self._single = False
        if self.harvest is not None:
            self.harvest(vcpu, vcpu.exits - before)
        ended = self._ending
        self.end(Ending("max_exits", vcpu.index))
        self._finish()
        return event, ended

    def _steps_of_all(self, goal: int | None) -> Iterator[Exit]:
        """The exits of several vCPUs, each of which waits until its exit was looked at."""
        from queue import SimpleQueue

        feed: _Feed = SimpleQueue()
        workers = self._start_workers(lambda vcpu: self._feed(vcpu, goal, feed))
        running = len(workers)
        taken: threading.Semaphore | None = None
        try:
            while running:
                with self._ctrl_c():
                    event, taken = feed.get()
                if taken is None:
                    running -= 1
                    continue
                if event is not None:
                    yield event
                taken.release()
                taken = None
        finally:
            self.end(Ending("stopped"))
            if taken is not None:
                taken.release()
            while running:
                _, taken = feed.get()
                if taken is None:
                    running -= 1
                else:
                    taken.release()
            for worker in workers:
                worker.join()

    def _begin(self, timeout: float | None) -> None:
        if any(vcpu.running for vcpu in self.vcpus):
            raise LifecycleError("the machine is in a run already, which is paused; resume it")
        self.lifecycle.to(Phase.RUNNING)
        self._busy = True
        self._ending = self._fault = None
        self.interrupted_by_user = False
        self._holds.clear()
        self.held_by = ""
        self._permits.clear()
        self._asleep.clear()
        self._census.clear()
        self._deadline_ns = None
        if timeout is not None:
            self._deadline_ns = time.monotonic_ns() + int(min(timeout, _FOREVER_S) * 1e9)

    def _finish(self) -> Ending:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
        if self._fault is not None:
            if self.lifecycle.phase is Phase.PAUSED:
                self.lifecycle.to(Phase.RUNNING)
            self.lifecycle.to(Phase.FAILED)
            raise self._fault
        if self.lifecycle.phase is Phase.RUNNING:
            self.lifecycle.to(Phase.PAUSED)
        if self.interrupted_by_user:
            raise KeyboardInterrupt
        assert self._ending is not None
        return self._ending

    def _run_one(self, vcpu: Vcpu, goal: int | None) -> None:
        """Run one vCPU on the calling thread until the run has ended."""
        with signals.Heartbeat() as heartbeat:
            heartbeat.start(self._first_beat_ns(), _HEARTBEAT_NS)
            while self._ending is None:
                if not self._execute(vcpu, goal, freely=True):
                    return

    def _step(self, vcpu: Vcpu, goal: int | None) -> Exit | None:
        """Run one vCPU for one exit."""
        before = vcpu.exits
        with signals.Heartbeat() as heartbeat:
            heartbeat.start(self._first_beat_ns(), _HEARTBEAT_NS)
            self._execute(vcpu, goal, freely=False)
        return vcpu.last_exits(1)[-1] if vcpu.exits != before else None

    def _feed(self, vcpu: Vcpu, goal: int | None, feed: _Feed) -> None:
        """Run one vCPU exit by exit, waiting for each to be taken."""
        taken = threading.Semaphore(0)
        try:
            while self._ending is None:
                event = self._step(vcpu, goal)
                if event is not None:
                    feed.put((event, taken))
                    taken.acquire()
        finally:
            feed.put((None, None))

    def _execute(self, vcpu: Vcpu, goal: int | None, *, freely: bool) -> bool:
        """Let a vCPU run as far as the bound allows (or for one exit); False ends the run."""
        limit = None if freely else vcpu.exits + 1
        if goal is not None:
            left = goal - self._total()
            if left <= 0:
                self.end(Ending("max_exits", vcpu.index))
                return False
            # Several vCPUs count exit by exit: one that sleeps must not sit on a share.
            limit = vcpu.exits + (left if freely and len(self.vcpus) == 1 else 1)
        before = vcpu.exits
        permit = self._permits.get(vcpu.index)
        if self.harvest is not None:
            limit = min(before + _BATCH, limit or before + _BATCH)
        try:
            ending = vcpu.execute(limit) if permit is None else self._step_by(permit, vcpu)
        except DeviceFault as fault:
            self.fail(fault)
            return False
        if self.harvest is not None:
            self.harvest(vcpu, vcpu.exits - before)
        if ending is not None:
            self.end(ending)
        return ending is None

    def _step_by(self, permit: Callable[[Vcpu], Ending | None], vcpu: Vcpu) -> Ending | None:
        self._stepping.add(vcpu.index)
        try:
            return permit(vcpu)
        finally:
            self._stepping.discard(vcpu.index)
            self._permits.pop(vcpu.index, None)
            vcpu.kick()  # back to the gate

    def _run_all(self, goal: int | None) -> None:
        for worker in self._start_workers(lambda vcpu: self._run_one(vcpu, goal)):
            worker.join()

    def _start_workers(self, work: Callable[[Vcpu], None]) -> list[threading.Thread]:
        """Start a thread for each vCPU; what one raises ends the run for all."""

        def guarded(vcpu: Vcpu) -> None:
            try:
                work(vcpu)
            except BaseException as error:
                self.fail(error)

        workers = [
            threading.Thread(target=guarded, args=(vcpu,), name=f"vcpu{vcpu.index}")
            for vcpu in self.vcpus
        ]
        for worker in workers:
            worker.start()
        return workers

    def _total(self) -> int:
        return sum(vcpu.exits for vcpu in self.vcpus)

    def _first_beat_ns(self) -> int:
        if self._deadline_ns is None:
            return _HEARTBEAT_NS
        return max(min(self._deadline_ns - time.monotonic_ns(), _HEARTBEAT_NS), 1)

    # -- pausing --------------------------------------------------------------------------

    @property
    def _gate_closed(self) -> bool:
        return bool(self._holds) or self._asking is not None

    @contextmanager
    def _at_gate(self, vcpu: Vcpu) -> Iterator[None]:
        """Stand still with a vCPU, on its thread, at least as long as the machine is held."""
        began = time.monotonic_ns()
        with self._changed:
            self._parked.add(vcpu.index)
            self._hold()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: self._may_pass(vcpu))
                self._parked.discard(vcpu.index)
                # The deadline is of guest time: what was spent at the gate does not count. Of the
                # vCPUs that waited, the last to go on has waited longest.
                if self._deadline_ns is not None and not self._parked:
                    self._deadline_ns += time.monotonic_ns() - began
        # Somebody may have looked at registers meanwhile, or changed them.
        vcpu.regs.flush()
        vcpu.sregs.flush()

    def _may_pass(self, vcpu: Vcpu) -> bool:
        permitted = vcpu.index in self._permits and self._asking is None
        return not self._gate_closed or self._ending is not None or permitted

    def _hold(self) -> None:
        """The machine is paused once the last vCPU has come to the gate."""
        running = self.lifecycle.phase is Phase.RUNNING
        if running and self._holds and self._ending is None and self._all_parked():
            self.lifecycle.to(Phase.PAUSED)

    def _take_census(self, vcpu: Vcpu) -> None:
        """Find out whether all vCPUs sleep for good, while none of them can wake another.

        Each comes here, says whether it sleeps, and waits for the rest. The last one counts.
        """
        others = [other for other in self.vcpus if other is not vcpu]
        with self._changed:
            census, first = self._census, not self._census
            census[vcpu.index] = vcpu.asleep_for_good()
        if first:
            for other in others:
                other.kick()
        with self._changed:
            if len(census) == len(self.vcpus):
                self._census = {}
                if all(census.values()) and self._ending is None:
                    self._ending = Ending("halt", vcpu.index, detail="with interrupts disabled")
                self._changed.notify_all()
            else:
                self._changed.wait_for(
                    lambda: (
                        self._census is not census or self._gate_closed or self._ending is not None
                    )
                )
                if self._census is census:
                    self._census = {}  # somebody wants a pause or the end: count another time
                    self._changed.notify_all()
            ended = self._ending is not None
        if ended:
            for other in others:
                other.kick()

    def _all_parked(self) -> bool:
        # One that is outside of its loop was kicked: it will not run the guest before it has been
        # at the gate.
        return self._ending is not None or all(
            vcpu.index in self._parked or not vcpu.running for vcpu in self.vcpus
        )

    # -- Ctrl-C ---------------------------------------------------------------------------

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """Turn Ctrl-C into an ending, so that it never strikes between an exit and its handling.

        Only on the main thread, and only where the program has no handler of its own.
        """
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupted_by_user = True
            self.end(Ending("stopped"))

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
