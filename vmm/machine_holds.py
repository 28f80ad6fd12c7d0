"""Holding a run in progress, and letting it go on by exits and instructions."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine_runs import MachineRuns
    from vmm.run import RunControl
    from vmm.stepping import Stepper
    from vmm.vcpu import Vcpu

__all__ = ["MachineHolds"]


class MachineHolds:
    """The part of a machine that holds its runs."""

    if TYPE_CHECKING:
        _control: RunControl
        _runs: MachineRuns

    def pause(self, timeout_s: float | None = None, *, hold: str = "user") -> bool:
        """Hold a run in progress between two instructions, from another thread; say whether it
        stands still, which takes longer than `timeout_s` where a device is at work.

        Holds of different names do not undo each other: the run goes on when none is left.
        """
        stands = self._control.gate.pause(timeout_s, hold=hold)
        self._runs.catch_up()
        return stands

    def pause_soon(self, why: str = "", *, hold: str = "user") -> None:
        """Hold a run in progress as soon as may be, without waiting: also out of a hook."""
        self._control.gate.pause_soon(why, hold=hold)

    def hold_runs(self, hold: str, wanted: bool) -> None:
        """Have runs to come begin with a hold, before their first instruction, or no more."""
        holds = self._control.gate.from_start
        (holds.add if wanted else holds.discard)(hold)

    def step_exit(self, vcpu: int = 0, timeout_s: float | None = None) -> bool:
        """Let one vCPU of a run that is held go on for one exit; say whether there was one.

        Raises:
            LifecycleError: there is no run that is paused.
        """
        return self._control.step_exit(vcpu, timeout_s)

    def step_held(
        self,
        vcpu: int = 0,
        timeout_s: float | None = None,
        *,
        until: Callable[[Vcpu], bool] | None = None,
    ) -> bool:
        """Let one vCPU of a run that is held go on for one instruction; say whether it came to
        its end. Between runs there is `step`.

        With `until` it goes on instruction by instruction, with interrupts, until that says True
        behind one. It is called on the vCPU's thread.

        Raises:
            LifecycleError: there is no run that is paused.
        """
        stepper = self._runs.stepper
        if until is None:
            return self._control.step_instruction(vcpu, stepper.one_instruction, timeout_s)
        return self._control.step_instruction(
            vcpu, lambda one: stepper.instructions(one, until), timeout_s
        )

    def work_held(
        self,
        work: Callable[[Vcpu, Stepper], None],
        vcpu: int = 0,
        timeout_s: float | None = None,
    ) -> bool:
        """Have the thread of one vCPU of a run that is held do `work`, which runs the guest as it
        likes; say whether that came to its end by itself.

        Raises:
            LifecycleError: there is no run that is paused.
        """
        stepper = self._runs.stepper

        def step_one(one: Vcpu) -> tuple[None, None]:
            work(one, stepper)
            return None, None

        return self._control.step_instruction(vcpu, step_one, timeout_s)

    @property
    def held_by(self) -> str:
        """Why a run is held, where somebody said so."""
        return self._control.gate.held_by

    def resume(self, *, hold: str = "user") -> None:
        """Let a paused run go on."""
        self._control.gate.resume(hold=hold)
