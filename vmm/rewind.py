"""Going back: to an instruction that a guest has run already, by running it again up to there.

A guest without interrupts does the same again from the same state. So a state is kept now and
then (`Rewind.mark`), and one instruction back is: back to the last mark, run to the exit before,
and step by instructions until everything is as it is now; then the same again, one step less.

That holds while nothing comes from outside: the time of day, a cycle counter, typed input, another
processor. Where it does not come out, that is said, and the guest is left where it was.
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_bindings import constants as c
from vmm.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.snapshot.snapshot import Snapshot

    Wanted = Callable[[], bool]

__all__ = ["CannotRewind", "Rewind"]

_MOST_STEPS = 200_000
"""Between two exits: some minutes of stepping."""


class CannotRewind(VmmError):
    """The way back is not known; the message says why. The machine is as it was."""


class Rewind:
    """The way back of one machine, between runs.

    What the guest sends while it is run again goes nowhere, but functions of your own on ports are
    called again.

    Raises:
        CannotRewind: this machine cannot be gone back with.
    """

    def __init__(self, machine: Machine) -> None:
        if len(machine.vcpus) > 1:
            raise CannotRewind("several vCPUs do not do the same twice: use --cpus 1")
        if machine.irqchip:
            raise CannotRewind("interrupts come where they like: use --irqchip off")
        self._machine = machine
        self._vcpu = machine.vcpus[0]
        self._marks: list[tuple[int, Snapshot]] = []
        self._shift = 0
        """How many exits more the vCPU has counted than the guest has made."""
        self.mark()

    def mark(self) -> None:
        """Keep the state as it is now: less has to be run again to come back behind this."""
        if not self._marks or self._marks[-1][0] != self._exits:
            self._marks.append((self._exits, self._machine.snapshot()))

    def step(self) -> None:
        """Go back by one instruction.

        Raises:
            CannotRewind: the first mark is here, or running again leads elsewhere.
        """
        self._back(lambda: True)

    def go(self, wanted: Wanted) -> bool:
        """Go back to the last instruction before this one where `wanted` says so.

        Returns:
            Whether there was one; the guest is at the first mark if not.

        Raises:
            CannotRewind: running again leads elsewhere.
        """
        return self._back(wanted)

    def close(self) -> None:
        """Let go of what was kept."""
        for _, snapshot in self._marks:
            snapshot.close()
        self._marks.clear()

    @property
    def _exits(self) -> int:
        return self._vcpu.exits - self._vcpu.debug_exits - self._shift

    def _set_exits(self, count: int) -> None:
        """The guest is where it had made `count` exits."""
        self._shift = self._vcpu.exits - self._vcpu.debug_exits - count

    def _now(self) -> tuple[int, bytes, bytes]:
        """What tells one moment from another."""
        registers, segments = self._vcpu.regs.struct(), self._vcpu.sregs.struct()
        return self._exits, bytes(registers), bytes(segments)

    def _back(self, wanted: Wanted) -> bool:
        machine, here = self._machine, self._now()
        with machine.snapshot() as present, machine.console.muted():
            try:
                return self._search(here, wanted)
            except BaseException:
                machine.reset_to(present)
                self._set_exits(here[0])
                raise

    def _search(self, here: tuple[int, bytes, bytes], wanted: Wanted) -> bool:
        goal = here
        for number in range(len(self._marks) - 1, -1, -1):
            exits, _ = self._marks[number]
            if exits > goal[0]:
                continue
            # From the exit before this one first: most of what is wanted is near.
            starts = [exits] if goal[0] - 1 <= exits else [goal[0] - 1, exits]
            for start in starts:
                self._to(number, start)
                found = self._last(goal, wanted)
                if found is not None:
                    self._to(number, start)
                    for _ in range(found):
                        self._one()
                    return True
            self._to(number, exits)
            goal = self._now()
        if goal == here:
            raise CannotRewind("this is where the way back begins")
        return False

    def _to(self, number: int, exits: int) -> None:
        """Go to an exit behind a mark."""
        at, snapshot = self._marks[number]
        self._machine.reset_to(snapshot)
        self._set_exits(at)
        if exits > at:
            result = self._machine.run(timeout=None, max_exits=exits - at)
            if result.reason != "max_exits":
                raise _elsewhere(f"the guest ended ({result.reason})")

    def _last(self, goal: tuple[int, bytes, bytes], wanted: Wanted) -> int | None:
        """Step to `goal`; after how many steps `wanted` said so last, None for never."""
        last = None
        for steps in range(_MOST_STEPS):
            if self._now() == goal:
                return last
            if self._exits > goal[0]:
                raise _elsewhere("it made another exit first")
            if wanted():
                last = steps
            self._one()
        raise _elsewhere(f"it did not come here within {_MOST_STEPS:,} instructions")

    def _one(self) -> None:
        before = self._exits
        event = self._machine.step()
        # A step over HLT ends as a step on some backends, and as an exit when the guest runs.
        self._set_exits(before + (event is not None and event.reason != c.KVM_EXIT_DEBUG))


def _elsewhere(how: str) -> CannotRewind:
    return CannotRewind(
        f"run again, the guest went elsewhere: {how}; it depends on time or on input"
    )
