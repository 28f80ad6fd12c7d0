"""The gate at which the vCPUs of a run stand still, between two instructions each.

It is closed while somebody holds the run, or asks what becomes of a device's fault. A vCPU comes to
it when it was kicked out of the guest (`RunControl.interrupted`) and waits there; all that happens
to a machine that is held happens while all stand. A permit lets one leave for an exit or for an
instruction, though the gate is closed to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmm.errors import LifecycleError
from vmm.lifecycle import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.endings import Ending
    from vmm.run_state import RunState
    from vmm.vcpu import Vcpu

    Permit = Callable[[Vcpu], Ending | None]

__all__ = ["Gate"]

_USERS = "user"
"""The hold that `pause` takes unless it is told another."""


class Gate:
    """Where the vCPUs of one machine stand still.

    Args:
        state: of the run. What ends it opens the gate.
    """

    def __init__(self, state: RunState) -> None:
        self.on_held: Callable[[], None] | None = None
        """Called on the thread of a vCPU that has come to the gate, without locks."""
        self.held_by = ""
        """Why the run is held, where somebody said so."""
        self.from_start: set[str] = set()
        """Holds that runs to come begin with."""
        self._state = state
        self._changed = state.changed
        self._holds: set[str] = set()
        """Who wants the run to stand still."""
        self._asking: Vcpu | None = None
        """Whose fault is being asked about."""
        self._parked: set[int] = set()
        self._leaving: set[int] = set()
        """Those that were let go and are not on their way into the guest yet."""
        self._permits: dict[int, Permit] = {}
        """What a vCPU may do though the gate is closed."""
        self._permitted: set[int] = set()
        """Those that are at it."""

    # -- from any thread ------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether vCPUs have to stand still."""
        return bool(self._holds) or self._asking is not None

    def open(self) -> None:
        """Let everybody pass at the beginning of a run, unless it is to be held from its start."""
        with self._state.lock:
            self._holds = set(self.from_start)
            self.held_by = ""
            self._permits.clear()
            self._leaving.clear()
        if self._holds:
            self._state.kick()

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
        state = self._state
        phase = state.lifecycle.phase
        if phase is not Phase.RUNNING and not (phase is Phase.PAUSED and state.busy):
            return False
        state.refuse_own_thread("pause")
        with self._changed:
            # Or whoever holds the run again and again would never let the guest run.
            self._changed.wait_for(self._nobody_leaves, timeout_s)
        self.pause_soon(hold=hold)
        with self._changed:
            parked = self._changed.wait_for(self._all_parked, timeout_s)
            self._note_pause()
            return parked and state.ending is None

    def pause_soon(self, why: str = "", *, hold: str = _USERS) -> None:
        """Hold all vCPUs between two instructions, without waiting for it: also out of a hook on
        a vCPU's own thread, which then stops behind the exit that it has just handled.

        The machine is paused when the last vCPU has come to the gate; `held_by` then says `why`.
        """
        with self._changed:
            if self._state.ending is None:
                self._holds.add(hold)
                self.held_by = self.held_by or why
        self._state.kick()

    def resume(self, *, hold: str = _USERS) -> None:
        """Let go of a hold; without any, the vCPUs go on."""
        with self._changed:
            if hold in self._holds:
                self._holds.remove(hold)
                if hold == _USERS or not self._holds:
                    self.held_by = ""
                if self._holds:
                    return
                if self._state.ending is None and self._state.lifecycle.phase is Phase.PAUSED:
                    self._state.lifecycle.to(Phase.RUNNING)
                self._leaving |= self._parked
                self._changed.notify_all()

    def permit(self, vcpu: Vcpu, step: Permit, timeout_s: float | None) -> bool:
        """Let a vCPU of a run that is held do `step`, on its thread; return when it stands still
        again.

        Returns:
            Whether it came back by itself, and not because `timeout_s` had passed.

        Raises:
            LifecycleError: the machine is not held in a run.
        """
        index = vcpu.index
        with self._changed:
            if not (self._holds and self._state.busy and index in self._parked):
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

    def stands(self, vcpu: Vcpu) -> bool:
        """Whether the vCPU stands at the gate."""
        return vcpu.index in self._parked

    # -- on a vCPU's own thread -----------------------------------------------------------

    def pass_by(self, vcpu: Vcpu) -> bool:
        """A vCPU came out of the guest: wait while the gate is closed to it.

        Returns:
            Whether it has to leave its loop, for the step that it is permitted or after it.
        """
        stepping, permitted = vcpu.index in self._permitted, vcpu.index in self._permits
        if stepping:
            return not permitted or self._asking is not None  # given up, or all are wanted here
        while self.closed:
            with self._standing(vcpu):
                if self.on_held is not None:
                    self.on_held()
            # The kick may have come when it stood here already. First heeded, then asked for the
            # reason: whoever kicks has given one before.
            vcpu.heed_kick()
            if vcpu.index in self._permits:
                return True
            if self._state.ending is not None:
                break
        return False

    def gone(self, vcpu: Vcpu) -> None:
        """A vCPU that was let go enters the guest next: from now on it can be held again."""
        if vcpu.index in self._leaving:
            with self._changed:
                self._leaving.discard(vcpu.index)
                self._changed.notify_all()

    def permit_of(self, vcpu: Vcpu) -> Permit | None:
        """What the vCPU is permitted to do, if that is not everything."""
        return self._permits.get(vcpu.index)

    def use(self, permit: Permit, vcpu: Vcpu) -> Ending | None:
        """Do what the vCPU is permitted to do, and send it back to the gate."""
        self._permitted.add(vcpu.index)
        try:
            return permit(vcpu)
        finally:
            self._permitted.discard(vcpu.index)
            self._permits.pop(vcpu.index, None)
            vcpu.kick()

    @contextmanager
    def all_standing(self, vcpu: Vcpu) -> Iterator[None]:
        """Have all vCPUs stand still, this one where it is; for one after the other."""
        with self._standing(vcpu):
            with self._changed:
                self._changed.wait_for(lambda: self._asking is None)
                self._asking = vcpu
            try:
                self._state.kick(but=vcpu)
                with self._changed:
                    self._changed.wait_for(self._all_parked)
                yield
            finally:
                with self._changed:
                    self._asking = None
                    self._changed.notify_all()
        self.gone(vcpu)

    # -- inside ---------------------------------------------------------------------------

    @contextmanager
    def _standing(self, vcpu: Vcpu) -> Iterator[None]:
        """Stand still with a vCPU at least as long as the gate is closed to it."""
        began = self._state.now_ns()
        with self._changed:
            self._parked.add(vcpu.index)
            self._note_pause()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: self._may_pass(vcpu))
                self._parked.discard(vcpu.index)
                # The deadline is of guest time: what was spent at the gate does not count. Of the
                # vCPUs that waited, the last to go on has waited longest.
                if not self._parked:
                    self._state.prolong_since(began)
        # Somebody may have looked at registers meanwhile, or changed them.
        vcpu.regs.flush()
        vcpu.sregs.flush()

    def _may_pass(self, vcpu: Vcpu) -> bool:
        permitted = vcpu.index in self._permits and self._asking is None
        return not self.closed or self._state.ending is not None or permitted

    def _nobody_leaves(self) -> bool:
        return not self._leaving or self.closed or self._state.ending is not None

    def _is_back(self, index: int) -> bool:
        return self._state.ending is not None or (
            index in self._parked and index not in self._permits
        )

    def _note_pause(self) -> None:
        """The machine is paused once the last vCPU has come to the gate."""
        state = self._state
        running = state.lifecycle.phase is Phase.RUNNING
        if running and self._holds and state.ending is None and self._all_parked():
            state.lifecycle.to(Phase.PAUSED)

    def _all_parked(self) -> bool:
        # One that is outside of its loop was kicked: it will not run the guest before it has been
        # at the gate.
        return self._state.ending is not None or all(
            vcpu.index in self._parked or not vcpu.running for vcpu in self._state.vcpus
        )
