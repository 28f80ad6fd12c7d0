"""The machine as a debugger sees it: it stands, goes on, makes steps, and says why it stood.

A debugger has a hold of its own on the run, which does not undo anybody else's: what another has
paused goes on when both have let go. Everything here is called on the debugger's thread; only what
is told by a vCPU comes on another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import NamedTuple

from vmm.endings import Ending
from vmm.errors import LifecycleError, VmmError
from vmm.gdb.history import History
from vmm.gdb.memory import DebugMemory
from vmm.gdb.points import Met, Point, Points, linear_rip
from vmm.gdb.probe import Traps
from vmm.lifecycle import Phase
from vmm.machine import Machine
from vmm.result import RunResult
from vmm.vcpu import Vcpu

__all__ = ["HOLD", "SIGINT", "SIGSEGV", "SIGTRAP", "Ended", "Going", "Stop", "Target"]

HOLD = "debugger"
"""The hold on a machine whose debugger has it stopped."""

SIGINT, SIGTRAP, SIGSEGV = 2, 5, 11

_PATIENCE_S = 0.2
_NOT_YET_S = 0.01
_CHUNK = 256
"""Steps between two looks at what else there is: some milliseconds."""


class Stop(NamedTuple):
    """Why the machine stands: the vCPU, a signal as GDB numbers them, the point that was met."""

    vcpu: int
    signal: int
    point: Point | None = None
    begins: bool = False
    """There is no way back from here."""


class Ended(NamedTuple):
    """The guest is no more; the status is that of `vmm run`."""

    status: int


class Going(NamedTuple):
    """How the guest is to go on: all of it, or one vCPU alone by one instruction, or while it is in
    a range of addresses, or until something stops it; or back, all of it, by one instruction or
    until something stops it."""

    vcpu: int | None = None
    steps: bool = False
    start: int = 0
    end: int = 0
    back: bool = False


class Target:
    """One machine.

    Args:
        machine: the machine.
        traps: says what this host traps.
        wake: called on other threads when there is something for `advance`.
    """

    def __init__(
        self, machine: Machine, traps: Callable[[], Traps], wake: Callable[[], None]
    ) -> None:
        self.machine = machine
        self.memory = DebugMemory(machine.memory)
        self.notes: deque[str] = deque(maxlen=64)
        """Lines for the user, which GDB takes while the guest runs."""
        self.points = Points(machine, traps, self._was_met, self.notes.append)
        self.history = History(machine, self.points)
        self.last = Stop(0, SIGTRAP)
        """Why the machine stands."""
        self._wake = wake
        self._going: Going | None = None
        self._free = False
        self._begun = False
        self._kept = False
        self._way: Generator[None, None, Met | None] | None = None
        self._halting: Stop | None = None
        self._death: Ending | None = None
        self._told_death = False
        self._met: list[Met] = []
        self._lock = threading.Lock()
        self._result: RunResult | None = None
        self._exited = False

    @property
    def running(self) -> bool:
        """Whether the guest goes on, as far as the debugger is concerned."""
        return self._going is not None

    @property
    def look_again_s(self) -> float | None:
        """When `advance` wants to be called again; None: when it is woken."""
        if self._going is None or self._free:
            return None
        return 0.0 if self._begun and self._halting is None else _NOT_YET_S

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The machine's vCPUs, which are GDB's threads."""
        return self.machine.vcpus

    # -- holding --------------------------------------------------------------------------

    def hold(self) -> None:
        """Have the machine stand, now or when its run begins; a guest that dies is kept."""
        self.machine.on_death = self._died
        if self.machine.phase is Phase.CREATED:
            self.history.from_start = True
        self.machine.hold_runs(HOLD, True)
        self._stands()

    def release(self) -> None:
        """Let the machine go on as if there were no debugger."""
        while not self._stands() and self.machine.phase is Phase.RUNNING:
            pass  # a device is at work; a point can only be taken out when it is done
        self._give_up_way()
        self.points.clear()
        self.history.forget()
        self.history.from_start = False
        self.machine.on_death = None
        self._bury()
        self._going = None
        self._let_go()

    def close(self) -> None:
        """Let go of what is kept of the machine's past."""
        self.history.close()

    def restart(self) -> None:
        """Bring the guest back to before its first instruction.

        Raises:
            VmmError: that is not known, or the run is over.
        """
        if not self._stands():
            raise LifecycleError("the run is over; start the guest again")
        self.history.restart()
        self._death, self.last = None, Stop(0, SIGTRAP)

    def kill(self) -> None:
        """End the run."""
        self._give_up_way()
        self.points.clear()
        self._exited = True
        self._let_go()
        self.machine.stop()

    def ended(self, result: RunResult) -> None:
        """The run has come to an end; from any thread. Where the guest died it can still be looked
        at."""
        with self._lock:
            self._result = result
        self._wake()

    @property
    def result(self) -> RunResult | None:
        """How the guest ended, where it has."""
        if self._death is not None:
            return self.machine.result_of(self._death)
        return None if self.machine.phase is Phase.RUNNING else self.machine.last_result

    # -- going on -------------------------------------------------------------------------

    def go(self, how: Going) -> None:
        """Go on; `advance` says when that is over."""
        self._going, self._free, self._begun, self._halting = how, False, False, None
        self._kept = False
        with self._lock:
            self._met.clear()

    def interrupt(self) -> None:
        """Have the guest stand (Ctrl-C)."""
        self._halting = self._halting or Stop(self.last.vcpu, SIGINT)

    def advance(self) -> Stop | Ended | None:
        """Do what is to be done now; say why the guest stands, or None while it goes on."""
        if self._going is None:
            return None
        if self._result is not None:
            return self._came_to_end(self._result)
        if self._death is not None and not self._told_death:
            return self._halt_dead(self._death)
        if self._halting is not None:
            self._give_up_way()
            return self._halt(self._halting)
        if self._free:
            with self._lock:
                met = self._met[0] if self._met else None
            return None if met is None else self._halt(_stop(met))
        try:
            return self._on(self._going)
        except LifecycleError:
            return None  # no run has begun, or it is about to end

    # -- inside ---------------------------------------------------------------------------

    def _on(self, going: Going) -> Stop | None:
        if self._death is not None and not going.back:
            self._free = True
            self._bury()
            self._let_go()
            return None
        if not self._kept:
            if not self._stands():
                return None
            if self._death is None:
                self.history.keep()
            self._kept = True
        if going.back:
            return self._back(going)
        if going.steps:
            assert going.vcpu is not None
            return self._step(self.vcpus[going.vcpu], going)
        if going.vcpu is None:
            if not self._begun and self.points.arm():
                self._begun = self._free = True
                self._let_go()
                return None
        elif not self._begun:
            self.notes.append(
                f"vCPU {going.vcpu} goes on alone: that is done instruction by instruction"
            )
        return self._walk(self.vcpus if going.vcpu is None else (self.vcpus[going.vcpu],))

    def _back(self, going: Going) -> Stop | None:
        """A piece of the way back."""
        if self._way is None:
            self._way = self.history.back(step=going.steps, dead=self._death is not None)
        try:
            next(self._way)
        except StopIteration as end:
            self._death = None
            met: Met | None = end.value
            stop = _stop(met) if met else Stop(0, SIGTRAP, begins=not going.steps)
        except LifecycleError:
            self._way = None
            raise
        except (VmmError, OSError) as error:
            self.notes.append(str(error))
            stop = Stop(0, SIGTRAP, begins=True)
        else:
            return None
        self._way = None
        return self._halt(stop)

    def _give_up_way(self) -> None:
        """Have the guest be where it was before it was to go back."""
        way, self._way = self._way, None
        if way is not None:
            with suppress(VmmError, OSError):  # the run may have ended
                way.close()

    def _step(self, vcpu: Vcpu, going: Going) -> Stop | None:
        """One instruction of one vCPU, or in a range as many as a chunk has."""
        if not self._stands():
            return None
        if not self.points.can_step(vcpu):
            self.notes.append("no step: this host cannot step where the guest is (CPL 3)")
            return self._halt(Stop(vcpu.index, SIGTRAP))
        if not self._begun:
            self._begun = True
            self.points.look(breakpoints=bool(going.end))
        for _ in range(_CHUNK if going.end else 1):
            self.machine.step_held(vcpu.index, _PATIENCE_S)
            if self._result is not None or self._death is not None or not self._stands():
                return None
            met = self.points.behind(vcpu)
            if met is not None:
                return self._halt(_stop(met))
            if not going.start <= linear_rip(vcpu) < going.end:
                return self._halt(Stop(vcpu.index, SIGTRAP))
        return None

    def _walk(self, vcpus: tuple[Vcpu, ...]) -> Stop | None:
        """Let vCPUs go on by stepping, in turns; one that stands at a breakpoint has met it."""
        if not self._stands():
            return None
        first, self._begun = not self._begun, True
        if first:
            self.points.look()
            for vcpu in vcpus:
                if vcpu.index != self.last.vcpu and (met := self.points.at(vcpu)):
                    return self._halt(_stop(met))
        for vcpu in vcpus:
            found: list[Met] = []
            left = [_CHUNK]

            def until(one: Vcpu, found: list[Met] = found, left: list[int] = left) -> bool:
                met = self.points.behind(one)
                if met is not None:
                    found.append(met)
                left[0] -= 1
                return met is not None or left[0] <= 0 or not self.points.can_step(one)

            if not self.points.can_step(vcpu):
                self.notes.append("the guest has come to where this host cannot step (CPL 3)")
                return self._halt(Stop(vcpu.index, SIGTRAP))
            self.machine.step_held(vcpu.index, _PATIENCE_S, until=until)
            if self._death is not None:
                return None
            if found:
                return self._halt(_stop(found[0]))
        return None

    def _halt(self, stop: Stop) -> Stop | None:
        """Have the machine stand for a reason; None while it does not yet."""
        self.machine.hold_runs(HOLD, True)
        if not self._stands() and self.machine.phase is Phase.RUNNING:
            self._free, self._halting = False, stop  # a device is at work
            return None
        self.points.disarm()
        self._going, self.last = None, stop
        return stop

    def _halt_dead(self, ending: Ending) -> Stop | None:
        """Have the machine stand where the guest has died."""
        self._told_death = True
        summary = self.machine.result_of(ending).summary()
        self.notes.append(f"{summary}; it can be looked at, 'monitor explain' says why")
        return self._halt(Stop(ending.vcpu, SIGSEGV))

    def _bury(self) -> None:
        """End the run with what the guest has died of, if it has."""
        if self._death is not None:
            self._exited = True
            self.machine.end(self._death)

    def _came_to_end(self, result: RunResult) -> Stop | Ended:
        self._give_up_way()
        self.points.disarm()
        self._going = None
        if result.died and not self._exited:
            self._exited = True  # what follows this is the end
            self.notes.append(
                f"{result.summary()}; it can be looked at, 'monitor explain' says why"
            )
            self.last = Stop(result.vcpu, SIGSEGV)
            return self.last
        return Ended(result.status)

    def _stands(self) -> bool:
        """Hold the machine; say whether it stands, in a run."""
        try:
            return self.machine.pause(_PATIENCE_S, hold=HOLD)
        except LifecycleError:
            return False

    def _let_go(self) -> None:
        self.machine.hold_runs(HOLD, False)
        self.machine.resume(hold=HOLD)

    def _died(self, ending: Ending) -> bool:
        """The guest has died: on a vCPU's thread. The run is held and goes no further."""
        if self._death is not None:
            return False
        self.machine.result_of(ending)  # before registers are lost
        self._told_death, self._death = False, ending
        self.machine.pause_soon(hold=HOLD)
        self._wake()
        return True

    def _was_met(self, met: Met) -> None:
        """A vCPU has met a point: on its thread."""
        with self._lock:
            self._met.append(met)
        self.machine.pause_soon(hold=HOLD)
        self._wake()


def _stop(met: Met) -> Stop:
    return Stop(met.vcpu, SIGTRAP, met.point)
