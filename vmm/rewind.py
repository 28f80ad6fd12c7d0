"""Going back: to an instruction that a guest has run already, by running it again up to there.

Between two interrupts a guest does the same again from the same state. So a state is kept now and
then (`Rewind.mark`), and one instruction back is: back to the last mark, run to the exit before,
and step by instructions until everything is as it is now; then the same again, one step less.

Moments are told from another by the count of exits, by registers and, where these are the same, by
memory. What is far back is looked for in windows between two exits that grow as they get older.

That holds while nothing comes from outside: an interrupt (KVM counts them), the time of day, a
cycle counter, typed input, another processor. Where it does not come out, that is said, and the
guest is left where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from vmm.rerun import BetweenRuns, CannotRewind, GuestEnded, elsewhere
from vmm.snapshot.ram import Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine
    from vmm.rerun import Rerun

    Wanted = Callable[[], bool]
    Look = Callable[[], tuple[Any, Any]]
    """Called at one moment after the other of a stretch: what says that the moment before is
    wanted, and what says that this one is; None for neither."""

__all__ = ["CannotRewind", "Rewind"]

_MOST_STEPS = 1_000_000
"""Between two exits: some minutes of stepping."""
_CHUNK = 256
"""Steps between two looks at whether going back is still wanted: some milliseconds."""
_MARK = 4 * _CHUNK
"""Steps between two states that are kept."""
_WIDER = 8
_MOST_MARKS = 32
_FPU_VALUES = slice(32, 416)
"""ST0 to ST7 and XMM0 to XMM15 in an XSAVE area. Spec: Intel SDM vol. 1, "Legacy Region of an XSAVE
Area"."""


class Rewind:
    """The way back of one machine.

    What the guest sends while it is run again goes nowhere, but functions of your own on ports are
    called again.

    Args:
        machine: the machine, with one vCPU.
        rerun: how it is run again; between its runs unless given.

    Raises:
        CannotRewind: this machine cannot be gone back with.
    """

    def __init__(self, machine: Machine, rerun: Rerun | None = None) -> None:
        if len(machine.vcpus) > 1:
            raise CannotRewind("several vCPUs do not do the same twice: use --cpus 1")
        self._machine = machine
        self._rerun = BetweenRuns(machine) if rerun is None else rerun
        self._vcpu = machine.vcpus[0]
        self._marks: list[_Moment] = []
        self._shift = 0
        """How many exits more the vCPU has counted than the guest has made."""
        self.mark()

    def mark(self) -> None:
        """Keep the state as it is now: less has to be run again to come back behind this."""
        if self._marks and self._marks[-1].looks_like(self._exits, self._vcpu):
            return
        if len(self._marks) >= _MOST_MARKS:  # what is old is kept at wider distances
            for moment in self._marks[1:-1:2]:
                moment.snapshot.close()
            self._marks[1:-1] = self._marks[2:-1:2]
        self._marks.append(_Moment(self._exits, self._machine))

    def step(self) -> None:
        """Go back by one instruction.

        Raises:
            CannotRewind: the first mark is here, or running again leads elsewhere.
        """
        self.go(lambda: True)

    def go(self, wanted: Wanted) -> bool:
        """Go back to the last instruction before this one where `wanted` says so.

        Returns:
            Whether there was one; the guest is at the first mark if not.

        Raises:
            CannotRewind: running again leads elsewhere.
        """
        way = self.back(lambda: lambda: (None, wanted() or None))
        while True:
            try:
                next(way)
            except StopIteration as end:
                return end.value is not None

    def back(self, begin: Callable[[], Look], *, dead: bool = False) -> Generator[None, None, Any]:
        """Go back, as `go` does, in pieces: each `next` does one. Where that is given up (`close`)
        the guest is where it was.

        Args:
            begin: called at the first moment of a stretch that is looked through; gives what is
                called at each of its moments.
            dead: the guest has died of its last instruction, and the run is held nevertheless.

        Returns:
            What the last moment that is wanted is wanted for; None: there was none.

        Raises:
            CannotRewind: running again leads elsewhere.
        """
        machine = self._machine
        with _Moment(self._exits, machine, dead=dead) as present, machine.console.muted():
            try:
                return (yield from self._search(present, begin))
            except BaseException:
                machine.reset_to(present.snapshot)
                self._set_exits(present.exits)
                raise

    def close(self) -> None:
        """Let go of what was kept."""
        for moment in self._marks:
            moment.snapshot.close()
        self._marks.clear()

    @property
    def _exits(self) -> int:
        return self._vcpu.exits - self._vcpu.debug_exits - self._shift

    def _set_exits(self, count: int) -> None:
        """The guest is where it had made `count` exits."""
        self._shift = self._vcpu.exits - self._vcpu.debug_exits - count

    def _search(self, present: _Moment, begin: Callable[[], Look]) -> Generator[None, None, Any]:
        goal, moved, first = present, False, len(self._marks)
        while first and self._marks[first - 1].interrupts == present.interrupts:
            first -= 1
        for number in range(len(self._marks) - 1, first - 1, -1):
            mark = self._marks[number]
            for start, end in _windows(mark.exits, goal.exits):
                yield from self._to(mark, start)
                until = goal if end is None else None
                steps, found = yield from self._last(until, end or goal.exits, begin)
                moved = moved or steps > 0
                if found is not None:
                    self._forget_behind(number)
                    yield from self._to(mark, start)
                    count, what = found
                    if count:
                        yield from self._step_until(count.__eq__, mark=True)
                    return what
            goal = mark
        if not moved:
            raise CannotRewind(_nothing_before(interrupted=first > 0))
        yield from self._to(self._marks[first], self._marks[first].exits)
        self._forget_behind(first)
        return None

    def _forget_behind(self, number: int) -> None:
        """What lies ahead now may come otherwise."""
        for moment in self._marks[number + 1 :]:
            moment.snapshot.close()
        del self._marks[number + 1 :]

    def _to(self, mark: _Moment, exits: int) -> Generator[None, None, None]:
        """Go to an exit behind a mark."""
        self._machine.reset_to(mark.snapshot)
        self._set_exits(mark.exits)
        while self._exits < exits:
            self._rerun.exits(exits - self._exits)
            yield

    def _last(
        self, goal: _Moment | None, exits: int, begin: Callable[[], Look]
    ) -> Generator[None, None, tuple[int, tuple[int, Any] | None]]:
        """Step to `goal`, or if there is none to right behind the exit that makes them `exits`.

        Returns:
            After how many steps it was there; after how many there was something wanted last, and
            what for.
        """
        look, last, passed = begin(), None, 0

        def arrived(steps: int) -> bool:
            """Look at this moment; whether it is the goal."""
            nonlocal last, passed
            passed = steps
            before, here = look()
            if before is not None and steps:
                last = (steps - 1, before)
            if goal is None and self._exits == exits:
                return True
            if goal is not None and goal.is_now(self._exits, self._vcpu, self._machine):
                return True
            if self._exits > exits:
                raise elsewhere("it made another exit first")
            if steps >= _MOST_STEPS:
                raise elsewhere(f"it did not come here within {_MOST_STEPS:,} instructions")
            if here is not None:
                last = (steps, here)
            return False

        try:
            if not arrived(0):
                yield from self._step_until(arrived)
        except GuestEnded:
            if goal is None or not goal.dead:
                raise
            passed += 1
        return passed, last

    def _step_until(
        self, arrived: Callable[[int], bool], *, mark: bool = False
    ) -> Generator[None, None, None]:
        """Step until `arrived` says so, which is told after how many steps; with `mark` keep states
        on the way, because whoever goes back here will often do so again."""
        steps, exits, there = 0, self._exits, False

        def behind(made_exit: bool) -> bool:
            nonlocal steps, exits, there
            steps, exits = steps + 1, exits + made_exit
            # A step over HLT ends as a step on some backends, and as an exit when the guest runs.
            self._set_exits(exits)
            there = arrived(steps)
            return there or steps % _CHUNK == 0

        while not there:
            self._rerun.instructions(behind)
            if mark and not there and steps % _MARK == 0:
                self.mark()
            yield


class _Moment:
    """A state that is kept, and how many exits the guest had made."""

    def __init__(self, exits: int, machine: Machine, *, dead: bool = False) -> None:
        self.exits = exits
        self.dead = dead
        """The guest has died here: what its processor holds is no moment of the guest's."""
        self.interrupts = _interrupts(machine)
        """How many had been delivered to the guest."""
        self.snapshot = machine.snapshot()
        parts = self.snapshot.vcpus[0].parts
        self._registers = (parts["regs"], parts["sregs"])
        self._fpu = parts.get("xsave", b"")[_FPU_VALUES]
        self._memory = Comparison(self.snapshot.image)

    def __enter__(self) -> _Moment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.snapshot.close()

    def looks_like(self, exits: int, vcpu: Any) -> bool:
        """Whether a vCPU with so many exits is here, as far as its registers go."""
        # In this order: this is asked behind every step, and registers cost a request each.
        return (
            exits == self.exits
            and bytes(vcpu.regs.struct()) == self._registers[0]
            and bytes(vcpu.sregs.struct()) == self._registers[1]
        )

    def is_now(self, exits: int, vcpu: Any, machine: Machine) -> bool:
        """Whether the machine is here."""
        if self.dead or not self.looks_like(exits, vcpu):
            return False
        if self._fpu and bytes(vcpu.kvm.get_xsave())[_FPU_VALUES] != self._fpu:
            return False
        return self._memory.same(machine.memory)


def _interrupts(machine: Machine) -> int:
    if not machine.irqchip:
        return 0
    count = machine.kvm_stats().get("vcpu0", {}).get("irq_injections")
    if not isinstance(count, int):
        raise CannotRewind("this KVM does not count interrupts: use --irqchip off")
    return count


def _nothing_before(*, interrupted: bool) -> str:
    if interrupted:
        return (
            "the way back begins behind the last interrupt, which would not come at the same "
            "instruction again"
        )
    return "this is where the way back begins"


def _windows(first: int, last: int) -> Iterator[tuple[int, int | None]]:
    """The exits between which is looked, the last first: where a window begins, and where it ends;
    None for wherever the goal is."""
    width, end = 1, None
    start = last
    while True:
        start = max(start - width, first)
        yield start, end
        if start == first:
            return
        end, width = start, width * _WIDER
