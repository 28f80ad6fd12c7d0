"""The breakpoints and watchpoints that GDB wants, by whatever this host traps.

They are put in when the guest goes on and taken out when it stands, so that GDB never sees an INT3
of ours and nothing is left when it goes away. INT3 is the first choice for breakpoints, then debug
registers; where the guest is by then is known only for the moment at which it goes on. What neither
does is done by stepping: the guest runs instruction by instruction, and after each is looked where
it is and what watched memory holds. The user is told of each such choice once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from vmm.breakpoints import Breakpoint, Watchpoint
from vmm.errors import ConfigError
from vmm.gdb.memory import DebugMemory
from vmm.gdb.probe import Trap, Traps
from vmm.gdb.registers import state_of
from vmm.machine import Machine
from vmm.vcpu import Vcpu

__all__ = ["MOST", "Met", "Point", "Points", "linear_rip"]

MOST = 1000
"""Points of one debugger."""

_WIDEST_WATCH = 4096
_SOFTWARE, _HARDWARE, _WRITE, _ACCESS = 0, 1, 2, 4


class Point(NamedTuple):
    """What GDB asked for: the packet's type, the linear address, and the size in bytes."""

    type: int
    address: int
    size: int

    @property
    def watches(self) -> bool:
        """Whether it is for data."""
        return self.type >= _WRITE


class Met(NamedTuple):
    """Which vCPU met what."""

    vcpu: int
    point: Point


class Points:
    """The points of one debugger.

    Args:
        machine: the machine.
        traps: says what this host traps, which it may have to try first.
        met: called on a vCPU's thread when it has met a point; it must hold the machine.
        tell: gives the user a line.
    """

    def __init__(
        self,
        machine: Machine,
        traps: Callable[[], Traps],
        met: Callable[[Met], None],
        tell: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._traps = traps
        self._met = met
        self._tell = tell
        self._told: set[str] = set()
        self._wanted: dict[Point, None] = {}
        self._armed: list[Breakpoint | Watchpoint] = []
        self._memory = DebugMemory(machine.memory)
        self._places: dict[int, Point] = {}
        self._values: dict[Point, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, point: Point) -> bool:
        """Want a point; say whether that is possible at all."""
        fits = 1 <= point.size <= _WIDEST_WATCH and len(self._wanted) < MOST
        if fits:
            self._wanted[point] = None
        return fits

    def remove(self, point: Point) -> None:
        """Want a point no more."""
        self._wanted.pop(point, None)

    def clear(self) -> None:
        """Want none, while the machine stands still."""
        self.disarm()
        self._wanted.clear()

    # -- when the guest goes on -----------------------------------------------------------

    def arm(self) -> bool:
        """Put all points in, while the machine stands still; False where they have to be found by
        stepping."""
        if not self._wanted:
            return True
        here, somewhere = self._trapped()
        left = [point for point in self._wanted if not self._put_in(point, here)]
        if not left:
            if here - self._traps().ring3 and "step" not in self._traps().ring3:
                self._say("at CPL 3 in long mode this host traps nothing: points are not met there")
            return True
        if "step" in here:
            self.disarm()
            self._say(
                "this host has no other way here: the guest runs instruction by instruction, "
                f"slowly, until {_named(left)} is met"
            )
            if any(point.type == _ACCESS for point in left):
                self._say("by stepping, only accesses that change the value are seen")
            return False
        for point in left:
            if not self._put_in(point, somewhere):
                self._say(f"{_named([point])} cannot be met: this host traps nothing for it")
        self._say("where the guest is now (CPL 3 in long mode) this host traps nothing: points are "
                  "met only elsewhere")  # fmt: skip
        return True

    def disarm(self) -> None:
        """Take all points out, while the machine stands still."""
        for point in self._armed:
            self._machine.breakpoints.remove(point)
        self._armed.clear()

    # -- by stepping ----------------------------------------------------------------------

    def look(self, *, breakpoints: bool = True) -> None:
        """Remember what watched memory holds, and where breakpoints are, before steps."""
        self._places = {p.address: p for p in self._wanted if not p.watches and breakpoints}
        self._values.clear()
        for point in self._wanted:
            if point.watches:
                self._values[point] = self._value(self._machine.vcpus[0], point)

    def at(self, vcpu: Vcpu) -> Met | None:
        """The breakpoint that a vCPU stands at."""
        point = self._places.get(linear_rip(vcpu)) if self._places else None
        return None if point is None else Met(vcpu.index, point)

    def behind(self, vcpu: Vcpu) -> Met | None:
        """The point that a vCPU has met with the step that it has just made."""
        for point, before in self._values.items():
            if self._value(vcpu, point) != before:
                return Met(vcpu.index, point)
        return self.at(vcpu)

    def passed(self, vcpu: Vcpu) -> tuple[Met | None, Met | None]:
        """The point whose memory the last step has changed, and the breakpoint that a vCPU stands
        at now: for whoever looks at one moment after the other."""
        changed = None
        for point, before in self._values.items():
            now = self._value(vcpu, point)
            if now != before:
                self._values[point] = now
                changed = Met(vcpu.index, point)
        return changed, self.at(vcpu)

    def can_step(self, vcpu: Vcpu) -> bool:
        """Whether this host steps where a vCPU is now."""
        return "step" in self._traps().of(vcpu.sregs)

    # -- inside ---------------------------------------------------------------------------

    def _trapped(self) -> tuple[frozenset[Trap], frozenset[Trap]]:
        """What is trapped where all vCPUs are now, and what is anywhere."""
        traps = self._traps()
        here = traps.ring3 | traps.elsewhere
        somewhere = here
        for vcpu in self._machine.vcpus:
            here &= traps.of(vcpu.sregs)
        return here, somewhere

    def _put_in(self, point: Point, trapped: frozenset[Trap]) -> bool:
        try:
            return self._watch(point, trapped) if point.watches else self._break(point, trapped)
        except ConfigError:
            return False  # no debug register is left

    def _break(self, point: Point, trapped: frozenset[Trap]) -> bool:
        points = self._machine.breakpoints
        if point.type == _SOFTWARE and "software" in trapped:
            try:
                self._armed.append(points.add(point.address, self._hit(point), "software"))
            except ConfigError:
                self._say("no RAM for INT3 there: a debug register serves")
            else:
                return True
        if "hardware" not in trapped:
            return False
        self._armed.append(points.add(point.address, self._hit(point), "hardware"))
        if point.type == _SOFTWARE and "software" not in trapped:
            self._say("this host does not trap INT3: breakpoints are debug registers, 4 at most")
        return True

    def _watch(self, point: Point, trapped: frozenset[Trap]) -> bool:
        if "watch" not in trapped:
            return False
        reads = point.type == _ACCESS
        for address, size in _aligned(point.address, point.size):
            hit = self._hit(point)
            self._armed.append(self._machine.breakpoints.watch(address, size, hit, reads=reads))
        return True

    def _hit(self, point: Point) -> Callable[[int, int], None]:
        return lambda vcpu, address: self._met(Met(vcpu, point))

    def _value(self, vcpu: Vcpu, point: Point) -> bytes:
        return self._memory.read(state_of(vcpu), point.address, point.size)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def linear_rip(vcpu: Vcpu) -> int:
    """Where a vCPU is, as `CpuState.linear_rip` has it, without the rest of the state."""
    sregs, rip = vcpu.sregs, int(vcpu.regs.rip)
    if sregs.efer >> 10 & 1 and sregs.cs.l:
        return rip
    return int(sregs.cs.base) + rip & 0xFFFF_FFFF


def _aligned(address: int, size: int) -> Iterator[tuple[int, int]]:
    """The pieces of a range that debug registers can watch."""
    while size:
        piece = next(n for n in (8, 4, 2, 1) if n <= size and address % n == 0)
        yield address, piece
        address, size = address + piece, size - piece


def _named(points: list[Point]) -> str:
    what = "watchpoint" if points[0].watches else "breakpoint"
    text = f"the {what} at {points[0].address:#x}"
    return text if len(points) == 1 else f"{text} or another"
