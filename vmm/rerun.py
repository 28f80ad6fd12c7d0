"""Running one vCPU again from a state that was kept: between two runs, or in a run that is held.

Both do the same in small pieces, so that whoever goes back through a long stretch can look in
between whether that is still wanted.
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_bindings import constants as c
from vmm.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from vmm.endings import Ending
    from vmm.exits import Exit
    from vmm.machine import Machine
    from vmm.stepping import Stepper
    from vmm.vcpu import Vcpu

    class Rerun(Protocol):
        """How a machine is run again."""

        def exits(self, count: int) -> int:
            """Run until `count` more exits were handled, or for a while; how many there were.

            Raises:
                CannotRewind: the guest ended.
            """
            ...

        def instructions(self, behind: Callable[[bool], bool]) -> None:
            """Run instruction by instruction until `behind` says True after one; it is told whether
            that made an exit.

            Raises:
                CannotRewind: the guest ended.
            """
            ...


__all__ = ["BetweenRuns", "CannotRewind", "GuestEnded", "InHeldRun", "elsewhere"]

_PATIENCE_S = 0.2


class CannotRewind(VmmError):
    """The way back is not known; the message says why. The machine is as it was."""


class GuestEnded(CannotRewind):
    """The guest ended where it was run again."""


class BetweenRuns:
    """Runs a machine of which no run is in progress."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def exits(self, count: int) -> int:
        """Run for `count` exits.

        Raises:
            CannotRewind: the guest ended.
        """
        result = self._machine.run(timeout=None, max_exits=count)
        if result.reason != "max_exits":
            raise _ended(result.reason)
        return result.exits

    def instructions(self, behind: Callable[[bool], bool]) -> None:
        """Step until `behind` says True."""
        while not behind(_made_exit(self._machine.step())):
            pass


class InHeldRun:
    """Runs the one vCPU of a run that is held, on its thread. What ends the guest does not end
    the run: it is not the guest's present."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def exits(self, count: int) -> int:
        """Run for `count` exits, or for a moment.

        Raises:
            CannotRewind: the guest ended.
            LifecycleError: the run is not held any more.
        """
        vcpu = self._machine.vcpus[0]
        before = vcpu.exits

        def work(vcpu: Vcpu, stepper: Stepper) -> Ending | None:
            return vcpu.execute(before + count)

        self._do(work, _PATIENCE_S)
        return vcpu.exits - before

    def instructions(self, behind: Callable[[bool], bool]) -> None:
        """Step until `behind` says True.

        Raises:
            CannotRewind: the guest ended.
            LifecycleError: the run is not held any more.
        """

        def work(vcpu: Vcpu, stepper: Stepper) -> Ending | None:
            return stepper.again(vcpu, behind)

        self._do(work, None)

    def _do(self, work: Callable[[Vcpu, Stepper], Ending | None], timeout_s: float | None) -> None:
        ending: Ending | None = None
        error: BaseException | None = None

        def guarded(vcpu: Vcpu, stepper: Stepper) -> None:
            nonlocal ending, error
            try:
                ending = work(vcpu, stepper)
            except BaseException as raised:  # it is not of the run either
                error = raised

        self._machine.work_held(guarded, timeout_s=timeout_s)
        if error is not None:
            raise error
        if ending is not None:
            raise _ended(ending.reason)


def _made_exit(event: Exit | None) -> bool:
    return event is not None and event.reason != c.KVM_EXIT_DEBUG


def elsewhere(how: str) -> CannotRewind:
    """What is raised where running again leads elsewhere."""
    return CannotRewind(
        f"run again, the guest went elsewhere: {how}; it depends on time or on input"
    )


def _ended(reason: str) -> GuestEnded:
    return GuestEnded(str(elsewhere(f"the guest ended ({reason})")))
