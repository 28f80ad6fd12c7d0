"""What the processor left the guest for, counted by the processor's own reasons.

User space sees an exit only where KVM cannot go on alone. The others (a page that KVM maps, CPUID,
the interrupts of the host) pass the kernel's tracepoint kvm:kvm_exit, and whoever may read
tracepoints can count them, from this process or from another one.
"""

from __future__ import annotations

import select
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kvm_bindings.hardware_exits import hardware_exit_name
from kvm_bindings.perf import (
    TRACEFS,
    PerfError,
    TraceCount,
    Tracepoint,
    TraceRing,
    find_tracepoint,
)
from vmm.errors import VmmError

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["HardwareExits", "NoHardwareExits"]


class NoHardwareExits(VmmError):
    """Hardware exits cannot be counted here; the message is the reason, in one phrase."""


class HardwareExits:
    """Counts the hardware exits of some threads from now on, until it is closed.

    Args:
        threads: the threads that run vCPUs, as `threading.get_native_id()` has them.
        roots: where tracefs may be mounted.

    Raises:
        NoHardwareExits: not here: no tracefs, no permission, no such tracepoint.
    """

    def __init__(self, threads: Iterable[int], roots: tuple[Path, ...] = TRACEFS) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._rings: list[TraceRing] = []
        self._entries: list[TraceCount] = []
        self._alive = select.poll()
        self._unwatch: Callable[[int], None] | None = None
        self._closed = False
        self.filenos: list[int] = []
        """Descriptors for `select`: readable when it is time to `poll`, so that nothing is lost."""
        try:
            left, entered = (find_tracepoint("kvm", name, roots) for name in _TRACEPOINTS)
            self._layout = _layout(left)
            for thread in threads:
                self._rings.append(TraceRing(left, thread))
                self._entries.append(TraceCount(entered, thread))
        except PerfError as error:
            self.close()
            raise NoHardwareExits(str(error)) from None
        for ring in self._rings:
            self.filenos.append(ring.fd)
            self._alive.register(ring.fd, 0)  # tells of the end of its thread only

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Count a machine's hardware exits; they are read on its thread of host events, as they
        come. A machine with one vCPU that does not run yet is taken to run on this thread.

        Raises:
            NoHardwareExits: not here; or several vCPUs do not run yet, and have no threads.
        """
        first, *others = machine.vcpus
        if not others and not first.running:
            threads = [threading.get_native_id()]
        else:
            threads = [vcpu.thread_id for vcpu in machine.vcpus if vcpu.thread_id is not None]
        if not threads:
            raise NoHardwareExits("the machine's vCPUs have no threads before it runs")
        made = cls(threads)
        made._unwatch = machine.events.unwatch
        for fd in made.filenos:
            machine.events.watch(fd, made.poll)
        machine.closers.append(made.close)
        return made

    def poll(self) -> None:
        """Count what came since the last call. From any thread."""
        with self._lock:
            if self._closed:
                return
            for ring in self._rings:
                ring.drain(self._take)
            # The descriptor of a thread that has ended is readable for ever.
            for fd, _ in self._alive.poll(0):
                self._forget(fd)

    @property
    def counts(self) -> Counter[str]:
        """How many exits there were, by reason, up to the last `poll`."""
        with self._lock:
            named: Counter[str] = Counter()
            for (reason, isa), count in self._counts.items():
                named[hardware_exit_name(isa, reason & _LOW)] += count
            return named

    @property
    def lost(self) -> int:
        """How many exits came while a ring was full, up to the last `poll`: they were not counted
        by reason."""
        return sum(ring.lost for ring in self._rings)

    @property
    def total(self) -> int:
        """How many exits there were, those that were lost included. Not when it is closed."""
        return sum(ring.passed for ring in self._rings)

    @property
    def entries(self) -> int:
        """How often the guest was entered (kvm:kvm_entry). Not when it is closed."""
        return sum(count.passed for count in self._entries)

    def close(self) -> None:
        """Count no more; `counts` stay. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for fd in list(self.filenos):
                self._forget(fd)
            for watched in (*self._rings, *self._entries):
                watched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _forget(self, fd: int) -> None:
        self._alive.unregister(fd)
        self.filenos.remove(fd)
        if self._unwatch is not None:
            self._unwatch(fd)

    def _take(self, data: bytes, start: int) -> None:
        self._counts[self._layout.unpack_from(data, start)] += 1


_LOW = 0xFFFF_FFFF
"""SVM's codes are of 64 bits where a kernel tells them whole."""

_TRACEPOINTS = ("kvm_exit", "kvm_entry")


def _layout(tracepoint: Tracepoint) -> struct.Struct:
    """What unpacks exit_reason and isa of a tracepoint's data, in this order."""
    reason, isa = (tracepoint.fields.get(name) for name in ("exit_reason", "isa"))
    codes = {4: "I", 8: "Q"}
    if reason is None or isa is None or reason.size not in codes or isa.size not in codes:
        raise PerfError("this kernel's kvm:kvm_exit has other fields")
    between = isa.offset - reason.offset - reason.size
    if between < 0:
        raise PerfError("this kernel's kvm:kvm_exit has its fields in another order")
    return struct.Struct(f"={reason.offset}x{codes[reason.size]}{between}x{codes[isa.size]}")
