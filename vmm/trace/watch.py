"""Watching a machine from inside its process: tracers, stops and filters are all fed from here.

Behind each exit the vCPU's own thread reads what is new in its ring, and tells whoever asked for
exits of this kind: it is found out once for a kind, so that exits that interest nobody cost a
look into a dict. The machine's events (interrupt lines, phases) are noted in a ring of their own by
whatever thread they happen on, and told between the exits, in order of time. A machine that nobody
watches has no hooks, and pays nothing.

One lock is held over all that is told, and never the device lock: watchers need no locks of their
own, and may take their time without a device noticing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kvm_bindings.exit_ring import DATA_BYTES, EXIT, RECORD, RECORD_SIZE, UNFINISHED, WRITE, Fields
from vmm.exits import from_record
from vmm.lifecycle import Phase
from vmm.trace.layout import IRQ, STATE
from vmm.trace.sight import Access, Sight, Surroundings, Values

if TYPE_CHECKING:
    from vmm.trace.trace import Trace
    from vmm.vcpu import Vcpu

__all__ = ["Watch", "Watcher"]

_PHASES = tuple(Phase)
_MOST_KINDS = 4096
"""A guest may touch any address; what is remembered of them is bounded."""
_DONE = 1
"""Of a ring's header, the word that says how many records are complete."""

Tell = Callable[[Sight], None]
Key = tuple[int, int, int, int]
"""reason, address, size and direction of an exit's kind"""


class Watcher(Protocol):
    """Somebody who is told of exits and events."""

    needs_registers: bool
    """Whether it looks at `Sight.registers`."""
    on_irq: Callable[[int, bool], None] | None
    """Told of interrupt lines: their number and level."""
    on_state: Callable[[Phase], None] | None
    """Told of the machine's phases."""

    def route(self, access: Access) -> Sequence[Tell]:
        """Whom to tell of exits of a kind. Asked once for each."""
        ...


class Watch:
    """Feeds the watchers of one machine.

    Args:
        trace: where exits and events are noted.
        vcpus: the machine's.
        around: the machine, to decode accesses by.
    """

    def __init__(self, trace: Trace, vcpus: Sequence[Vcpu], around: Surroundings) -> None:
        self.around = around
        self._vcpus = vcpus
        self._rings = [trace.ring(vcpu.index) for vcpu in vcpus]
        self._events = trace.memory.events
        self._lock = threading.RLock()
        self._watchers: tuple[Watcher, ...] = ()
        self._noting = False
        """Whether the values of other registers are noted when exits come."""
        self._next = [0] * len(vcpus)
        self._next_event = 0
        self._wants_events = False
        self._routes: dict[Key, tuple[Access, tuple[Tell, ...]]] = {}
        self._noted: list[list[Values] | None] = [None] * len(vcpus)
        self._after = [self._exits_of(vcpu.index) for vcpu in vcpus]
        self._before = [partial(self._exit_came, vcpu.index) for vcpu in vcpus]

    def add(self, watcher: Watcher) -> None:
        """Tell a watcher of what happens from now on. From any thread, also out of a hook."""
        with self._lock:
            if not self._watchers:
                self._next[:] = [ring.done for ring in self._rings]
                self._next_event = self._events.done
            self._rewire((*self._watchers, watcher))

    def remove(self, watcher: Watcher) -> None:
        """Tell a watcher no more."""
        with self._lock:
            self._rewire(tuple(other for other in self._watchers if other is not watcher))

    def forget(self) -> None:
        """Find out anew who is told of what: devices have changed."""
        self._routes = {}  # without the lock: whoever adds a device may hold that of devices

    def catch_up(self) -> None:
        """Tell of events that no exit came behind. Without the machine's locks."""
        if self._wants_events:
            with self._lock:
                self._tell_events()

    # -- inside ---------------------------------------------------------------------------

    def _rewire(self, watchers: tuple[Watcher, ...]) -> None:
        """Take in or take out the hooks that the watchers need."""
        had, self._watchers = bool(self._watchers), watchers
        self._routes = {}
        events = any(watcher.on_irq or watcher.on_state for watcher in watchers)
        if events and not self._wants_events:
            self._next_event = self._events.done
        self._wants_events = events
        noting = any(watcher.needs_registers for watcher in watchers)
        for vcpu, before, after in zip(self._vcpus, self._before, self._after, strict=True):
            if bool(watchers) != had:
                (vcpu.call_after if watchers else vcpu.call_no_more)(after)
            if noting != self._noting:
                (vcpu.call_before if noting else vcpu.call_no_more)(before)
            if vcpu.running and not vcpu.on_this_thread:
                vcpu.kick()  # its loop takes up new hooks when it comes out of the guest
        if noting != self._noting:
            self._noted[:] = [None] * len(self._vcpus)
            self._noting = noting

    def _exit_came(self, index: int) -> None:
        """An exit has come and was not handled yet: note what decides which register it is."""
        ring = self._rings[index]
        head = ring.head
        self._noted[index] = None
        if head == ring.done:
            return  # KVM_RUN was interrupted
        fields = ring.record(head - 1)
        if not fields[12] & UNFINISHED or not fields[11]:
            return
        with self._lock:
            access, calls = self._route(fields)
            if calls and access.depends:
                self._noted[index] = [place.now() for place in access.places]

    def _exits_of(self, index: int) -> Callable[[], None]:
        """A function that tells of what is new in a vCPU's ring, and of events in between. It is
        called behind every exit, on the vCPU's thread."""
        ring = self._rings[index]
        words, records, mask = ring.words, ring.records, ring.capacity - 1
        unpack, lock, following, noted = RECORD.unpack_from, self._lock, self._next, self._noted

        def tell_all() -> None:
            with lock:
                done, at = words[_DONE], following[index]
                while at < done:
                    fields = unpack(records, (at & mask) * RECORD_SIZE)
                    number, at = at, at + 1
                    if fields[10] != EXIT:
                        continue
                    access, calls = self._route(fields)
                    if self._wants_events:
                        self._tell_events(fields[0])
                    if not calls:
                        continue
                    wanted = fields[11] * fields[6]
                    data = fields[3].to_bytes(8, "little")
                    while wanted > len(data):
                        start = (at & mask) * RECORD_SIZE
                        data += records[start : start + min(wanted - len(data), DATA_BYTES)]
                        at += 1
                    event = from_record(fields, data[:wanted])
                    sight = Sight(access, event, number, noted[index])
                    # It is done with: who raises, or attaches another, does not see it twice.
                    following[index] = at
                    for tell in calls:
                        tell(sight)
                following[index] = at
                if self._wants_events:
                    self._tell_events()

        return tell_all

    def _route(self, fields: Fields) -> tuple[Access, tuple[Tell, ...]]:
        """Who is told of an exit with this record."""
        size = fields[11]
        key = (fields[8], fields[2], size, fields[12] & WRITE) if size else (fields[8], 0, 0, 0)
        found = self._routes.get(key)
        if found is None:
            access = Access(self.around, *key[:3], bool(key[3]))
            calls = tuple(tell for watcher in self._watchers for tell in watcher.route(access))
            if len(self._routes) >= _MOST_KINDS:
                self._routes.clear()
            found = self._routes[key] = access, calls
        return found

    def _tell_events(self, until_ns: int | None = None) -> None:
        """Tell of the machine's events; of those before a moment, if one is given."""
        ring = self._events
        done = ring.done
        # More than a ring of events without an exit: the oldest are lost.
        at = max(self._next_event, done - ring.capacity)
        while at < done:
            fields = ring.record(at)
            if until_ns is not None and fields[0] > until_ns:
                break
            at += 1
            self._next_event = at
            for watcher in self._watchers:
                _tell_event(watcher, fields)
        self._next_event = at


def _tell_event(watcher: Any, fields: Fields) -> None:
    address, value, kind = fields[2], fields[3], fields[10]
    if kind == IRQ and watcher.on_irq is not None:
        watcher.on_irq(address, bool(value))
    elif kind == STATE and watcher.on_state is not None and value < len(_PHASES):
        watcher.on_state(_PHASES[value])
