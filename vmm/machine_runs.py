"""The runs of a machine: from the bounds that a caller gives to the result that he gets.

`vmm.run` runs vCPUs; here is what goes with that on a whole machine: its trace is described before
and its watchers are told everything after, what waits for the journal is written, and how a run
ended is measured, explained and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from vmm.endings import Ending
from vmm.errors import ConfigError
from vmm.exits import Exit
from vmm.result import EXPLAINED, RunResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.backplane import Backplane
    from vmm.machine import Machine
    from vmm.run import RunControl
    from vmm.stepping import Stepper

__all__ = ["MachineRuns"]


class MachineRuns:
    """Runs a machine, and says what became of it.

    Args:
        machine: the machine.
        control: runs its vCPUs.
        backplane: has the journal, which is written at the end of a run.
    """

    def __init__(self, machine: Machine, control: RunControl, backplane: Backplane) -> None:
        self.last: RunResult | None = None
        """How the last run ended; None while there is one."""
        self._found: tuple[Ending, RunResult] | None = None
        self._machine = machine
        self._trace = machine.trace
        self._control = control
        self._backplane = backplane

    def run(self, timeout: float | None, max_exits: int | None, *, held: bool = False) -> RunResult:
        """Run the guest until it ends or a bound is reached (`Machine.run`)."""
        self._prepare(timeout, max_exits)
        try:
            ending = self._control.run(timeout, max_exits, held=held)
        finally:
            self.catch_up()
        return self._came_to(ending)

    def exits(self, timeout: float | None, max_exits: int | None) -> Iterator[Exit]:
        """Run the guest and iterate over its exits (`Machine.exits`)."""
        self._prepare(timeout, max_exits)
        steps = self._control.steps(timeout, max_exits)
        try:
            for event in steps:
                if isinstance(event, Ending):
                    self._came_to(event)
                else:
                    yield event
        finally:
            steps.close()
            self.catch_up()
            if self.last is None and self._control.state.ending is not None:
                self._came_to(self._control.state.ending)

    def explain(self) -> RunResult | None:
        """Explain how the last run ended, also where that was wanted (`Machine.explain`)."""
        last, ending = self.last, self._control.state.ending
        if last is None or last.autopsy is not None or ending is None:
            return last
        if last.reason == "max_exits" or last.ended_by_hand:
            from vmm.autopsy import Autopsy

            autopsy = Autopsy(self._machine, ending, last.exits, last.seconds)
            self.last = RunResult(
                last.reason, last.exits, last.value, last.seconds, last.vcpu, last.detail, autopsy
            )
        return self.last

    def step(self, index: int) -> Exit | None:
        """Run one instruction of one vCPU (`Machine.step`)."""
        vcpus = self._control.state.vcpus
        if not 0 <= index < len(vcpus):
            raise ConfigError(f"vCPU {index}: the machine has 0 to {len(vcpus) - 1}")
        step = self.stepper.one_instruction
        event, ending = self._control.one_instruction(vcpus[index], step)
        self.last = None
        if ending is not None:
            self._came_to(ending)
        return event

    @cached_property
    def stepper(self) -> Stepper:
        """What makes single steps on this KVM."""
        from vmm.stepping import Stepper

        machine, memory = self._machine, self._machine.memory

        def halts(gpa: int) -> bool:
            alone = not machine.irqchip
            return alone and memory.contains(gpa, 1) and memory.read(gpa, 1) == b"\xf4"

        return Stepper(machine.vm.check_extension, halts)

    def catch_up(self) -> None:
        """Tell tracers what no exit came behind. Without the machine's locks."""
        if self._trace is not None:
            self._trace.catch_up()

    def _prepare(self, timeout: float | None, max_exits: int | None) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout {timeout}: give seconds above 0, or None for no bound")
        if max_exits is not None and (max_exits < 1 or max_exits != int(max_exits)):
            raise ConfigError(
                f"max_exits {max_exits}: give a whole number from 1 on, or None for no bound"
            )
        if self._backplane.saved:
            names = ", ".join(self._backplane.saved)
            raise ConfigError(
                f"the snapshot has a state for {names}, and no such device was added: add it as it "
                "was, or drop the state (machine.saved_states.clear())"
            )
        if self._trace is not None:
            self._trace.describe()
        self.last = None

    def _came_to(self, ending: Ending) -> RunResult:
        self._backplane.flush_journal()
        self.last = self.result_of(ending)
        return self.last

    def result_of(self, ending: Ending) -> RunResult:
        """What a run comes to that ends so; asked again, what it was the first time."""
        if self._found is not None and self._found[0] is ending:
            return self._found[1]
        state, autopsy = self._control.state, None
        exits, seconds = state.exits_of_run, state.seconds
        if ending.reason in EXPLAINED:
            from vmm.autopsy import Autopsy

            autopsy = Autopsy(self._machine, ending, exits, seconds)
        result = RunResult(
            ending.reason, exits, ending.value, seconds, ending.vcpu, ending.detail, autopsy
        )
        self._found = ending, result
        return result
