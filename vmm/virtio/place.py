"""A virtio device in its slot of a machine: how it is notified, served and heard.

Where KVM has interrupt controllers and eventfds, a notification leaves no exit: KVM signals the
eventfd of the queue, and another thread serves it. A device whose requests may take long
(`VirtioDevice.blocks`) has a thread of its own for each queue, which never takes the machine's
lock; all others are served on the host-events thread, with the lock held. An interrupt is a write
to an eventfd, which KVM turns into an edge. Elsewhere notifications are exits like any other and
queues are served within them.

A notification that is no exit is in no exit's record, so each pass over a queue is noted
among the machine's events (`vmm.trace.layout.QUEUE`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from devices.virtio.mmio import NOTIFY, VirtioMmio
from kvm_bindings import constants as c
from vmm.errors import ConfigError, DeviceFault
from vmm.trace.layout import QUEUE
from vmm.virtio.handed_over import HandedOver
from vmm.virtio.worker import QueueWorker
from vmm.virtio_slots import Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.virtio.device import VirtioDevice
    from vmm.machine import Machine

__all__ = ["VirtioPlace"]

_PASSES = 8
"""How often a queue is served in a row before others get their turn."""


class VirtioPlace:
    """One device of one machine.

    Args:
        machine: whose.
        device: the device type.
        slot: where.
        name: the device's in its machine.
        exits: let every notification be an exit, for whoever wants to see them all.
    """

    def __init__(
        self, machine: Machine, device: VirtioDevice, slot: Slot, name: str, *, exits: bool = False
    ) -> None:
        self.slot, self.gpa, self.size, self.gsi = slot.number, slot.gpa, slot.size, slot.gsi
        self.device = device
        self.name = name
        self._machine = machine
        self._lock = machine.lock
        has = machine.hardware.has
        self.eventfds = bool(machine.irqchip and has(c.KVM_CAP_IRQFD) and has(c.KVM_CAP_IOEVENTFD))
        """Whether KVM carries notifications and interrupts by eventfds."""
        if device.handed_over and not self.eventfds:
            raise ConfigError(
                f"{name}: who serves it is told by KVM; the machine needs interrupt controllers "
                "(irqchip)"
            )
        self._line = machine.irq(slot.gsi)
        self._irq_fd = -1
        self._workers: list[QueueWorker] = []
        self._fds: list[int] = []
        self._hangup_fd = -1
        self._awaited: set[int] = set()
        """Files of the device whose input is waited for, where no thread of its own does so."""
        self._closed = False
        queues = range(len(device.queue_sizes))
        if not self.eventfds:
            kick, interrupt = self._serve_here, self._pulse
        else:
            self._irq_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            interrupt = self._signal
            if device.blocks:
                self._workers = [self._worker(index) for index in queues]
                self._fds = [worker.fd for worker in self._workers]
                kick = self._kick_worker
            else:
                flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
                self._fds = [os.eventfd(0, flags) for _ in queues]
                kick = self._kick_events
        self.registers = VirtioMmio(
            device,
            name,
            memory=machine.memory,
            interrupt=interrupt,
            guard=threading.Lock(),
            still=self if self._workers else None,
            kick=kick,
        )
        self.transport = self.registers.transport
        machine.closers.append(self.close)
        if self.eventfds:
            machine.vm.irqfd(self._irq_fd, slot.gsi)
            for index, fd in enumerate(self._fds):
                if not exits:
                    flags = c.KVM_IOEVENTFD_FLAG_DATAMATCH
                    machine.vm.ioeventfd(fd, slot.gpa + NOTIFY, 4, flags, index)
                if not self._workers and index not in device.handed_over:
                    machine.events.watch(fd, self._on_event(index, fd))
        if isinstance(device, HandedOver):
            device.connect(machine.memory, self._fds, self._irq_fd)
            self._hangup_fd = device.server.hangup_fd
            if self._hangup_fd >= 0:
                machine.events.watch(self._hangup_fd, self._on_hangup)

    # -- standing still ---------------------------------------------------------------------

    def pause(self) -> None:
        """Return when no queue is being served; none is until `resume`, on the same thread."""
        if not self._workers:
            self._lock.acquire()
        for worker in self._workers:
            worker.pause()
        self.device.pause()

    def resume(self) -> None:
        """Go on: what may have come meanwhile, or before the device was put here, is looked for,
        and the driver is interrupted again for what it has not acknowledged."""
        if self._machine.complete:
            self.device.resume()
        self._release()
        self.wake()

    def wake(self) -> None:
        """Look into all queues, and interrupt for what was not acknowledged."""
        if self._machine.complete:
            self.transport.kick_all()
            self.transport.interrupt_again()

    def __enter__(self) -> None:
        """Have no queue served within: what the transport calls `still`."""
        self.pause()

    def __exit__(self, *exception: object) -> None:
        """Let them be served again."""
        self._release()

    def close(self) -> None:
        """Stop serving, and let go of the guest's memory."""
        if self._closed:
            return
        self._closed = True
        self._machine.events.unwatch(self._hangup_fd)
        for worker in self._workers:
            worker.close()
        with self._lock:
            for fd in self._awaited.copy():
                self._machine.events.unwatch(fd)
            self.device.close()
            self.transport.detach()
        if not self._workers:
            for fd in self._fds:
                self._machine.events.unwatch(fd)
                os.close(fd)
        if self._irq_fd >= 0:
            os.close(self._irq_fd)

    def counters(self) -> dict[str, int]:
        """How often the driver notified and was interrupted, and what the device has done."""
        transport = self.transport
        seen = {"notifications": transport.notifications, "interrupts": transport.interrupts}
        return seen | self.device.counters()

    # -- notifications ----------------------------------------------------------------------

    def _worker(self, index: int) -> QueueWorker:
        name = f"{self.name}.{index}"
        return QueueWorker(
            *(name, lambda: self._serve(index), self._machine.fail),
            lambda: self._input_fd(index),
        )

    def _input_fd(self, index: int) -> int:
        return self.device.input_fd(index) if self.transport.serves(index) else -1

    def _kick_worker(self, index: int) -> None:
        if not self._closed:
            self._workers[index].kick()

    def _kick_events(self, index: int) -> None:
        if not self._closed:
            os.eventfd_write(self._fds[index], 1)

    def _on_event(self, index: int, fd: int) -> Callable[[], None]:
        def serve() -> None:
            with self._lock:
                if self._closed:
                    return
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                if self._serve(index):
                    os.eventfd_write(fd, 1)

        return serve

    def _on_hangup(self) -> None:
        """Whoever serves the queues may be gone: then nobody will, and the guest waits."""
        device = self.device
        with self._lock:
            if self._closed or not isinstance(device, HandedOver) or not device.server.gone():
                return
            self._machine.events.unwatch(self._hangup_fd)
            why = f"{device.server.name} has gone"
            self.transport.break_down(why)
        self._machine.notes.add(f"{self.name} serves no requests any more: {why}")

    def _serve_here(self, index: int) -> None:
        """Serve a queue on the vCPU's own thread, within its exit."""
        with self._lock:
            for _ in range(_PASSES):
                if self._closed:
                    return
                if not self._serve(index):
                    self._await_input(index)
                    return
        self._machine.events.call_later(0, lambda: self._serve_here(index))

    def _await_input(self, index: int) -> None:
        fd, events = self._input_fd(index), self._machine.events

        def come() -> None:
            events.unwatch(fd)
            self._awaited.discard(fd)
            self._serve_here(index)

        if fd >= 0:
            self._awaited.add(fd)
            events.watch(fd, come)

    def _serve(self, index: int) -> bool:
        transport = self.transport
        queue = transport.queues[index]
        used, interrupts = queue.next_used, transport.interrupts
        try:
            more = transport.serve(index)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise DeviceFault(f"device {self.name} failed at queue {index}: {what}") from error
        trace = self._machine.trace
        if trace is not None:
            trace.event(
                QUEUE,
                address=self.gpa,
                value=index,
                count=queue.next_used - used & 0xFFFF,
                write=transport.interrupts != interrupts,
            )
        return more

    # -- interrupts -------------------------------------------------------------------------

    def _signal(self) -> None:
        os.eventfd_write(self._irq_fd, 1)

    def _pulse(self) -> None:
        self._line(True)
        self._line(False)

    def _release(self) -> None:
        for worker in self._workers:
            worker.resume()
        if not self._workers:
            self._lock.release()
