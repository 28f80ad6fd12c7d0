"""A machine's trace: the flight recorder that is always on, or a file that keeps every record.

The vCPUs' runners write to the rings by themselves. What is left to do here: copy records to the
file before they are overwritten, note the machine's events, and say what machine it was.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from kvm_bindings.exit_ring import EXIT, RECORD_SIZE, WRITE, ExitRing
from vmm.errors import ConfigError, LifecycleError
from vmm.lifecycle import Phase
from vmm.trace.layout import CAPACITY, END, EVENTS, JOURNAL, META, RECORDS, STATE
from vmm.trace.memory import TraceMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.trace.reader import TraceFile
    from vmm.trace.sight import Surroundings
    from vmm.trace.stops import Kept, Stop
    from vmm.trace.tracers import TracerWatcher
    from vmm.trace.view import View
    from vmm.trace.watch import Watch
    from vmm.vcpu import Vcpu

__all__ = ["Trace"]

_PHASES = tuple(Phase)
_MOST_BYTES = 64 << 20
"""The rings of a machine with many vCPUs take no more than that."""


class Trace:
    """The trace of one machine.

    Args:
        vcpus: how many vCPUs.
        path: a file that gets every record; None: only the last ones are kept, in memory.
        capacity: records in a ring; 0 for the usual number.

    Raises:
        ConfigError: the file cannot be made.
    """

    def __init__(self, vcpus: int, path: str | None = None, capacity: int = 0) -> None:
        capacity = capacity or _capacity(vcpus)
        self.memory = TraceMemory(vcpus, path, capacity)
        self.path = path
        self.error: OSError | None = None
        """Why the file has not got everything; the guest runs on without."""
        self.deliver_rip: Callable[[bool], None] = _no_registers
        """Has RIP delivered with every exit, or no more."""
        self._rip = False
        self.around: Surroundings | None = None
        """The machine, whose buses and devices say what an access is."""
        self.report: Callable[[str], None] = _to_standard_error
        """Told, in a line, that a tracer was detached because it raised."""
        self._vcpus: list[Vcpu] = []
        self._watch: Watch | None = None
        self._tracers: list[TracerWatcher] = []
        self.on_stop: Callable[[int, str, bool], None] = _no_stop
        """Stops the guest, without waiting for it: given the vCPU that met a condition, how, and
        whether the run has to be paused."""
        self.stops: list[Stop] = []
        """Where the guest is stopped."""
        self.break_at: Callable[[int, Callable[[int, str], object]], Callable[[], None]] = _no_break
        """Sets a breakpoint at a linear address: given what to call there with the vCPU and a
        sentence, it gives what takes it back."""
        self._kept: Kept | None = None
        self.complete_until = 0
        """Where there is an error: how many exits are in the file before it."""
        self.about: Callable[[], dict[str, Any]] = dict
        """Describes the machine."""
        self._half = capacity // 2
        self._events = threading.Lock()
        self._events_ring = self.memory.events
        self._described = b""
        self._closed = False

    def ring(self, vcpu: int) -> ExitRing:
        """A vCPU's ring."""
        return self.memory.of_vcpu(vcpu)

    @property
    def rip(self) -> bool:
        """Whether records have RIP: where the vCPU was at the exit, as KVM gives it then. For port
        I/O and MMIO that is the instruction or, where KVM emulated it, what comes behind it.

        Raises:
            ConfigError: this KVM cannot deliver registers.
        """
        return self._rip

    @rip.setter
    def rip(self, wanted: bool) -> None:
        if wanted != self._rip:
            self.deliver_rip(wanted)
            self._rip = wanted

    def watch(self, vcpu: Vcpu) -> None:
        """Keep a vCPU's records: have them copied to the file before they are overwritten."""
        self._vcpus.append(vcpu)
        if self.path is not None:
            vcpu.when_full(self._half, self._vcpu_full)

    def attach(self, tracer: object) -> object:
        """Have a tracer's hooks called from now on (`vmm.trace.tracers`). Also during a run.

        Args:
            tracer: an object, or a class, of which one is made.

        Returns:
            The object.

        Raises:
            ConfigError: it has no hooks, or hooks of devices or registers that are not there.
        """
        from vmm.trace.tracers import TracerWatcher

        made: object = tracer() if isinstance(tracer, type) else tracer
        watch = self.watching()
        watcher = TracerWatcher(made, watch.around, self._tracer_failed)
        self._tracers.append(watcher)
        watch.add(watcher)
        return made

    def detach(self, tracer: object) -> None:
        """Call no hook of a tracer any more. One that is not attached is none."""
        for watcher in [each for each in self._tracers if each.tracer is tracer]:
            self._drop(watcher)

    @property
    def tracers(self) -> tuple[object, ...]:
        """The tracers that are attached."""
        return tuple(watcher.tracer for watcher in self._tracers)

    def stop_at(self, condition: str, *, pause: bool = False) -> Stop:
        """Stop the guest at each exit that meets a condition (`vmm.trace.conditions`).

        `Machine.run` then returns with the reason "stopped" and a detail that tells the exit, whose
        instruction is finished; another `run` goes on. With `pause`, or where
        `Machine.pause_at_stops` is set, the run is paused instead. A condition on RIP alone (and a
        count) is a breakpoint at a linear address: the guest stops before the instruction. A guest
        that dies is not stopped: the run ends with its death.

        Raises:
            ConfigError: it is no condition, or of a device, register or symbol that is not there,
                or no breakpoint can be set.
            LifecycleError: it is a breakpoint, and the machine runs.
        """
        from vmm.trace.stops import new_stop

        return new_stop(self, condition, pause=pause)

    def keep_only(self, condition: str) -> None:
        """Keep in the file only exits that meet a condition, from here on. The rings have all.

        Raises:
            ConfigError: there is no file, or it is no condition (see `stop_at`).
            LifecycleError: the machine runs.
        """
        from vmm.errors import LifecycleError
        from vmm.trace.stops import new_filter

        if self.path is None:
            raise ConfigError(f"keep only {condition}: the trace is not kept in a file")
        if any(vcpu.running for vcpu in self._vcpus):
            raise LifecycleError("what is kept of a trace is chosen before a run or between runs")
        kept = new_filter(self, condition, len(self._vcpus))
        for vcpu in self._vcpus:
            self._flush(EVENTS + 1 + vcpu.index)
        watch = self.watching()
        if self._kept is not None:
            watch.remove(self._kept)
        self._kept = kept
        watch.add(kept)
        self.describe()

    def watching(self) -> Watch:
        """What feeds tracers and conditions; it is made when it is first wanted."""
        if self._watch is None:
            if self.around is None:
                raise ConfigError("this trace is of no machine that could be watched")
            from vmm.trace.watch import Watch

            self._watch = Watch(self, self._vcpus, self.around)
        return self._watch

    def catch_up(self) -> None:
        """Tell tracers of events that no exit came behind. Without the machine's locks."""
        if self._watch is not None:
            self._watch.catch_up()

    def devices_changed(self) -> None:
        """A device was added: what watchers know of accesses is found out anew."""
        if self._watch is not None:
            self._watch.forget()

    def event(
        self, kind: int, *, address: int = 0, value: int = 0, count: int = 0, reason: int = 0,
        size: int = 0, write: bool = False, vcpu: int = 0,
    ) -> None:  # fmt: skip
        """Note an event of the machine (`vmm.trace.layout`). From any thread."""
        ring, flags = self._events_ring, WRITE if write else 0
        with self._events:
            ring.add(
                time.monotonic_ns(), 0, address, value, 0, 0, count, reason, vcpu, kind, size,
                flags, 0,
            )  # fmt: skip
            if self.path is not None and ring.done - ring.flushed >= self._half:
                self._flush(EVENTS)

    def note_irq(self, gsi: int, level: bool) -> None:
        """Note that an interrupt line went up or down."""
        from vmm.trace.layout import IRQ

        self.event(IRQ, address=gsi, value=int(level))
        if level:
            self.memory.rings[EVENTS + 1].note_irq()

    def note_phase(self, phase: Phase) -> None:
        """Note that the machine went to a phase of its life."""
        self.event(STATE, value=_PHASES.index(phase))

    def describe(self) -> None:
        """Say in the file what machine this is; may be called again when more is known."""
        if self.path is None or self.error is not None:
            return
        meta = self.about()
        if self._kept is not None:
            meta = {**meta, "only": self._kept.condition.text}
        text = _json(meta)
        if text != self._described:
            self._described = text
            self._append(META, text)

    def add_journal(self, first: int, data: bytes) -> None:
        """Append a piece of the journal, whose first access is number `first`."""
        if self.path is not None and self.error is None:
            self._append(JOURNAL, data, first=first)

    def read(self) -> TraceFile:
        """What the trace holds now: the last exits, or all of them where a file is written.

        Raises:
            LifecycleError: the machine is closed, and no file has kept them.
        """
        from vmm.trace.reader import load, snapshot

        if not self._closed:
            return snapshot(self.memory.fd, self.about())
        if self.path is not None:
            return load(self.path)
        raise LifecycleError("the machine is closed, and its exits are gone; give trace=FILE")

    def where(self, **filters: Any) -> View:
        """Select exits of what the trace holds now: `vmm.trace.view.View.where`.

        Raises:
            TraceError: there is no such reason or device.
            LifecycleError: the machine is closed, and no file has kept them.
        """
        return self.read().where(**filters)

    def save(self, path: str, end: dict[str, Any] | None = None) -> None:
        """Write what the rings hold now to a trace file of its own.

        Raises:
            ConfigError: it cannot be written.
        """
        from vmm.trace.memory import refused

        copy = TraceMemory(len(self.memory.rings) - 1, path, self.memory.capacity)
        try:
            self.memory.copy_to(copy)
            copy.append(META, _json(self.about()))
            if end is not None:
                copy.append(END, _json(end))
            copy.finish()
        except OSError as error:
            raise refused(path, error) from None
        finally:
            copy.close()

    def close(self, end: dict[str, Any] | None = None) -> None:
        """Complete the file, with how the run ended, and let go of it."""
        if self._closed:
            return
        self._closed = True
        if self.path is not None:
            for number in range(len(self.memory.rings)):
                self._flush(number)
            if end is not None and self.error is None:
                self._append(END, _json(end))
            if self.error is None:
                self.memory.finish()
        self.memory.close()

    def _tracer_failed(self, watcher: TracerWatcher, complaint: str) -> None:
        self._drop(watcher)
        self.report(complaint)

    def _drop(self, watcher: TracerWatcher) -> None:
        watcher.stop()
        if watcher in self._tracers:
            self._tracers.remove(watcher)
            self.watching().remove(watcher)

    def _vcpu_full(self, vcpu: Vcpu) -> None:
        self._flush(EVENTS + 1 + vcpu.index)
        ring = self.ring(vcpu.index)
        vcpu.runner.set_limit(ring.head + self._half)

    def _flush(self, number: int) -> None:
        if self.error is not None:
            return
        ring = self.memory.rings[number]
        first, end = ring.flushed, ring.done
        parts = ring.parts(first, end)
        if self._kept is not None and number != EVENTS:
            numbers = self._kept.take(number - EVENTS - 1)
            parts = [piece for n in numbers for piece in ring.parts(n, n + 1)]
            first = numbers[0] if numbers else first
        if not parts or self._append(RECORDS, *parts, ring=number, first=first):
            ring.flushed = end

    def _append(self, kind: int, *parts: bytes | memoryview, ring: int = 0, first: int = 0) -> bool:
        try:
            self.memory.append(kind, *parts, ring=ring, first=first)
        except OSError as error:
            self.error = error.with_traceback(None)  # whose frames hold parts of the rings
            self.complete_until = sum(map(_kept_exits, self.memory.rings))
            self.memory.cut()
            return False
        return True


def _to_standard_error(text: str) -> None:
    print(f"vmm: {text}", file=sys.stderr, flush=True)


def _no_stop(vcpu: int, what: str, pauses: bool) -> None:
    raise ConfigError("this trace is of no machine that could be stopped")


def _no_break(address: int, hit: Callable[[int, str], object]) -> Callable[[], None]:
    raise ConfigError("this trace is of no machine that could be stopped")


def _no_registers(wanted: bool) -> None:
    raise ConfigError("this trace has no vCPUs whose RIP could be delivered")


def _kept_exits(ring: ExitRing) -> int:
    """How many of a ring's exits have been copied to the file."""
    waiting = range(ring.flushed, ring.done)
    return ring.exits - sum(ring.record(number)[10] == EXIT for number in waiting)


def _capacity(vcpus: int) -> int:
    """The usual number of records in a ring: fewer where there are many rings."""
    capacity = CAPACITY
    while vcpus * capacity * RECORD_SIZE > _MOST_BYTES:
        capacity //= 2
    return capacity


def _json(data: dict[str, Any]) -> bytes:
    import json

    return json.dumps(data, separators=(",", ":")).encode()
