"""Running vCPUs: on the caller's thread or one thread each, until something ends the run.

A machine with one vCPU runs on the thread that called `run`; several vCPUs get a thread each.
Either way the same three things come in from outside, and all of them by a kick: an ending
(`vmm.run_state`), a pause (`vmm.gate`), and the heartbeat (a timer of the vCPU's own thread, twenty
times a second) by which deadlines and processors that sleep for good (`vmm.census`) are noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from vmm.census import Census
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault, FaultChoice
from vmm.gate import Gate
from vmm.result import DEATHS
from vmm.run_state import RunState
from vmm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weakref import ref

    from vmm.exits import Exit

    StepOne = Callable[[Vcpu], tuple[Exit | None, Ending | None]]

__all__ = ["RunControl"]

_BATCH = 256
"""After so many exits they are harvested; a ring holds that many, long strings included."""


class RunControl:
    """Runs the vCPUs of one machine, and answers what they ask when they come out of the guest."""

    def __init__(self) -> None:
        self.state = RunState()
        self.gate = Gate(self.state)
        self.harvest: Callable[[Vcpu, int], None] | None = None
        """Called with a vCPU and a count after at most `_BATCH` exits: its last `count` exits
        have not been seen yet."""
        self.on_device_fault: Callable[[DeviceFault], FaultChoice] | None = None
        """Asked what becomes of an access whose device raised, while all vCPUs stand still."""
        self.on_death: Callable[[Ending], bool] | None = None
        """Asked on a vCPU's thread when the guest has died; True keeps the run, which it must have
        held, from ending with that."""
        self._census = Census(self.state, self.gate)
        self._death: Ending | None = None
        """One that a device was told of, and nobody was asked about yet."""
        self._alone = False
        """One vCPU makes a step while the others stand still."""
        self._steps: ref[Generator[Exit | Ending, None, None]] | None = None

    # -- from any thread ------------------------------------------------------------------

    def shut(self) -> None:
        """End whatever runs and return when nothing does.

        Raises:
            LifecycleError: called by a device on a vCPU's own thread, which would wait for itself.
        """
        state = self.state
        state.refuse_own_thread("close")
        state.end(Ending("stopped"))
        steps = None if self._steps is None else self._steps()
        if steps is not None:
            # An iteration that stands still is left; one that is at work sees the ending.
            with suppress(ValueError):
                steps.close()
        with state.changed:
            state.changed.wait_for(lambda: not state.busy)

    def die(self, ending: Ending) -> None:
        """A device was told of the guest's death, on the thread of its vCPU: it ends the run, or
        whoever is asked about deaths is, when the vCPU has come out of its access."""
        if self.on_death is None:
            self.state.end(ending)
        else:
            self._death = ending
            self.state.vcpus[ending.vcpu].kick()

    def in_guest(self, vcpu: Vcpu) -> bool:
        """Whether the vCPU may be in the guest: it runs, and is not standing at the gate."""
        return vcpu.running and not self.gate.stands(vcpu)

    def step_exit(self, index: int = 0, timeout_s: float | None = None) -> bool:
        """Let one vCPU of a paused run go on for one exit; return when it stands still again.

        Returns:
            Whether there was an exit: False where the guest ran for `timeout_s` without one (it
            is held again), or the run ended.

        Raises:
            LifecycleError: the machine is not held in a run.
        """
        vcpu = self.state.vcpus[index]
        before = vcpu.exits
        self.gate.permit(vcpu, lambda vcpu: vcpu.execute(vcpu.exits + 1), timeout_s)
        return vcpu.exits > before

    def step_instruction(
        self, index: int, step_one: StepOne, timeout_s: float | None = None
    ) -> bool:
        """Let one vCPU of a paused run go on for one instruction (`vmm.stepping`); return when it
        stands still again.

        Returns:
            False where it did not come to the end of the instruction in `timeout_s`.

        Raises:
            LifecycleError: the machine is not held in a run.
        """

        def step(vcpu: Vcpu) -> Ending | None:
            with self._others_standing():
                return step_one(vcpu)[1]

        return self.gate.permit(self.state.vcpus[index], step, timeout_s)

    # -- asked by the vCPUs ---------------------------------------------------------------

    def interrupted(self, vcpu: Vcpu) -> bool:
        """A vCPU came out of the guest: look why, wait while paused, say whether to leave."""
        try:
            return self._is_over(vcpu)
        finally:
            self.gate.gone(vcpu)

    def _is_over(self, vcpu: Vcpu) -> bool:
        state, death = self.state, self._death
        if death is not None and death.vcpu == vcpu.index:
            self._death = None
            if not self._is_kept(death):
                state.end(death)
        if self.gate.pass_by(vcpu) or state.ending is not None:
            return True
        if self._alone and vcpu.asleep:
            return True  # only the others could wake it, or time
        if state.timed_out():
            state.end(Ending("timeout", vcpu.index))
            return True
        self._census.ask(vcpu)
        return state.ending is not None

    def device_failed(self, vcpu: Vcpu, fault: DeviceFault) -> FaultChoice:
        """A device raised at an access of `vcpu`, on whose thread this is: ask what becomes of it.

        Raises:
            ConfigError: whoever was asked gave an answer that is none.
        """
        if self.on_device_fault is None:
            return "raise"
        with self.gate.all_standing(vcpu):
            choice = self.on_device_fault(fault)
        if choice not in ("retry", "skip", "raise"):
            raise ConfigError(f"on_device_fault gave {choice!r}: give retry, skip or raise")
        return choice

    # -- runs -----------------------------------------------------------------------------

    def run(self, timeout: float | None, max_exits: int | None, *, held: bool = False) -> Ending:
        """Run all vCPUs until something ends the run; `held`: when somebody lets them go.

        Raises:
            DeviceFault: a device model raised. The machine is then FAILED.
            KeyboardInterrupt: Ctrl-C on the main thread. The machine is then PAUSED.
        """
        goal = self.begin(timeout, max_exits)
        if held:
            self.gate.pause_soon()
        try:
            with self.state.ctrl_c():
                if len(self.state.vcpus) == 1:
                    self._run_one(self.state.vcpus[0], goal)
                else:
                    for worker in self.start_workers(lambda vcpu: self._run_one(vcpu, goal)):
                        worker.join()
        except BaseException as error:
            self.state.fail(error)
        return self.state.finish()

    def steps(
        self, timeout: float | None, max_exits: int | None
    ) -> Generator[Exit | Ending, None, None]:
        """Run all vCPUs and hand out every exit after it was handled, then the ending."""
        from vmm.run_steps import run_by_exits

        made = run_by_exits(self, timeout, max_exits)
        # Weak: an iteration that nobody holds any more must end.
        from weakref import ref

        self._steps = ref(made)
        return made

    def one_instruction(self, vcpu: Vcpu, step_one: StepOne) -> tuple[Exit | None, Ending | None]:
        """Run one instruction of one vCPU (`vmm.stepping`) while the others stand still.

        Raises:
            DeviceFault: a device model raised. The machine is then FAILED.
            KeyboardInterrupt: Ctrl-C on the main thread. The machine is then PAUSED.
        """
        state = self.state
        self.begin(None, None)
        before = vcpu.exits
        event = None
        try:
            with self._others_standing(), state.ctrl_c(), state.heartbeat():
                event, ending = step_one(vcpu)
            if ending is not None:
                state.end(ending)
        except BaseException as error:
            state.fail(error)
        if self.harvest is not None:
            self.harvest(vcpu, vcpu.exits - before)
        ended = state.ending
        state.end(Ending("max_exits", vcpu.index))
        state.finish()
        return event, ended

    # -- what runs are made of ------------------------------------------------------------

    def begin(self, timeout: float | None, max_exits: int | None) -> int | None:
        """Begin a run; give the number of exits, over all vCPUs, at which it ends."""
        self.state.begin(timeout)
        self.gate.open()
        self._census.clear()
        return None if max_exits is None else self.state.exits_before + max_exits

    def execute(self, vcpu: Vcpu, goal: int | None, *, freely: bool) -> bool:
        """Let a vCPU run as far as the bound allows (or for one exit); False ends the run."""
        state = self.state
        before = vcpu.exits
        limit = None if freely else before + 1
        if goal is not None:
            left = goal - state.exits
            if left <= 0:
                state.end(Ending("max_exits", vcpu.index))
                return False
            # Several vCPUs count exit by exit: one that sleeps must not sit on a share.
            limit = before + (left if freely and len(state.vcpus) == 1 else 1)
        permit = self.gate.permit_of(vcpu)
        if self.harvest is not None:
            limit = min(before + _BATCH, limit or before + _BATCH)
        try:
            ending = vcpu.execute(limit) if permit is None else self.gate.use(permit, vcpu)
        except DeviceFault as fault:
            state.fail(fault)
            return False
        if self.harvest is not None:
            self.harvest(vcpu, vcpu.exits - before)
        if ending is not None and not self._is_kept(ending):
            state.end(ending)
        elif goal is not None and state.exits >= goal:
            state.end(Ending("max_exits", vcpu.index))
        return state.ending is None

    def _is_kept(self, ending: Ending) -> bool:
        return self.on_death is not None and ending.reason in DEATHS and self.on_death(ending)

    def start_workers(self, work: Callable[[Vcpu], None]) -> list[threading.Thread]:
        """Start a thread for each vCPU; what one raises ends the run for all."""

        def guarded(vcpu: Vcpu) -> None:
            try:
                work(vcpu)
            except BaseException as error:
                self.state.fail(error)

        workers = [
            threading.Thread(target=guarded, args=(vcpu,), name=f"vcpu{vcpu.index}")
            for vcpu in self.state.vcpus
        ]
        for worker in workers:
            worker.start()
        return workers

    def _run_one(self, vcpu: Vcpu, goal: int | None) -> None:
        """Run one vCPU on the calling thread until the run has ended."""
        with self.state.heartbeat():
            while self.state.ending is None and self.execute(vcpu, goal, freely=True):
                pass

    @contextmanager
    def _others_standing(self) -> Iterator[None]:
        self._alone = True
        try:
            yield
        finally:
            self._alone = False
