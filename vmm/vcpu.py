"""A vCPU and its run loop.

Port I/O is the hot path of the whole project: between two entries of the guest the exit is
unpacked, the device found in a dict and called, by the compiled runner itself where there is one.
Everything else comes to the loop here. The runner notes every exit in the vCPU's ring
(`kvm_bindings.exit_ring`), and whoever wants to look at exits as objects asks for them afterwards
(`Vcpu.last_exits`).

Nobody stops a vCPU from outside but through `Vcpu.kick`: it sets `immediate_exit` and signals the
thread, so that KVM_RUN comes back with EINTR, and there, between two instructions, the loop asks
the machine what is wanted. Because KVM finishes a pending I/O instruction before it looks at
`immediate_exit`, a vCPU that came back that way is always in a consistent state.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from functools import cached_property, partial
from itertools import islice

import kvm_bindings
from kvm_bindings import constants as c
from kvm_bindings import signals
from kvm_bindings.exit_ring import ExitRing
from vmm.bus import Bus, UnclaimedAccess
from vmm.endings import Ending, ending_of, run_failed
from vmm.errors import DeviceFault, FaultChoice
from vmm.exit_io import ExitIo
from vmm.exits import STATE_INCONSISTENT, Exit
from vmm.registers import RegisterView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from vmm.guest_debug import GuestDebug

    class Control(Protocol):
        """What a vCPU asks its machine."""

        def interrupted(self, vcpu: Vcpu) -> bool:
            """KVM_RUN was interrupted; say whether to leave the loop. May wait while paused."""
            ...

        def device_failed(self, vcpu: Vcpu, fault: DeviceFault) -> FaultChoice:
            """A device raised at an access that is still pending; say what becomes of it."""
            ...


__all__ = ["Vcpu"]

# struct kvm_run (Spec: KVM API, "The kvm_run structure").
_IMMEDIATE_EXIT = 1
_IF_FLAG = 13


class Vcpu:
    """One virtual CPU of a machine.

    Args:
        kvm: the vCPU's file descriptor.
        pio: the bus of its I/O ports.
        mmio: the bus of its physical addresses without memory.
        lock: held while a device is called.
        control: asked when the vCPU was interrupted.
        irqchip: whether KVM emulates the interrupt controllers, and so HLT.
        ring: where its exits are noted; None: nowhere.
    """

    def __init__(
        self,
        kvm: kvm_bindings.Vcpu,
        *,
        pio: Bus,
        mmio: Bus,
        lock: threading.RLock,
        control: Control,
        irqchip: bool,
        ring: ExitRing | None = None,
    ) -> None:
        self.kvm = kvm
        self.index = kvm.index
        self.ring = ring
        self.debug_exits = 0
        """Those of them that a debugger made: breakpoints and the ends of single steps."""
        self.regs = RegisterView(self._fetch_regs, kvm.set_regs)
        self.sregs = RegisterView(self._fetch_sregs, self._store_sregs)
        self._io = ExitIo(kvm.page, pio, mmio, lock)
        self._lock = lock
        self._control = control
        self._irqchip = irqchip
        self.on_debug: Callable[[], Ending | None] | None = None
        """Asked at KVM_EXIT_DEBUG what it means: an ending, or None where the guest runs on."""
        self.runner = kvm.runner(ring)
        self._before: tuple[Callable[[], None], ...] = ()
        self._after: tuple[Callable[[], None], ...] = ()
        self._full: Callable[[Vcpu], None] | None = None
        self._page = kvm.page
        self._thread: int | None = None
        self.thread_id: int | None = None
        """The thread that ran this vCPU last, as the kernel numbers threads; None: none has."""
        self._kicking = threading.RLock()
        self._unsettled = False
        self._hook()

    @property
    def exits(self) -> int:
        """Exits handled since the machine was made."""
        return self.runner.exits

    @exits.setter
    def exits(self, count: int) -> None:
        self.runner.exits = count

    # -- hooks ----------------------------------------------------------------------------

    def call_before(self, function: Callable[[], None]) -> None:
        """Have `function` called after each exit, before it is handled."""
        self._before += (function,)
        self._hook()

    def call_after(self, function: Callable[[], None]) -> None:
        """Have `function` called when an exit has been handled and its record is complete.

        On the vCPU's thread and without the device lock, before the guest is entered again. It
        must not raise.
        """
        self._after += (function,)
        self._hook()

    def call_no_more(self, function: Callable[[], None]) -> None:
        """Take back `call_before` or `call_after`."""
        self._before = tuple(other for other in self._before if other != function)
        self._after = tuple(other for other in self._after if other != function)
        self._hook()

    def deliver_rip(self, wanted: bool) -> None:
        """Have RIP in the records of exits, or no more. Where KVM can deliver registers.

        Spec: KVM API, KVM_CAP_SYNC_REGS.
        """
        if wanted:  # and it stays: others may want these registers, and they cost next to nothing
            self.kvm.run_struct.kvm_valid_regs |= c.KVM_SYNC_X86_REGS
        self.runner.deliver_rip(self.kvm.synced_rip if wanted else None)

    def when_full(self, limit: int, function: Callable[[Vcpu], None]) -> None:
        """Have `function` called when the ring's head has come to record `limit`, before the
        guest is entered again; it must set a new limit."""
        self._full = function
        self.runner.set_limit(limit)

    def _hook(self) -> None:
        """Choose what runs the guest: where there are hooks they are around the runner's `enter`; a
        loop without pays nothing for them."""
        runner, io, before, after = self.runner, self._io, self._before, self._after
        enter, finish = runner.enter, runner.finish

        def hooked() -> int:
            if after:
                finish()
                for call in after:
                    call()
            reason = enter()
            for call in before:
                call()
            return reason

        def followed() -> int:  # what tracers take, with as little around it as may be
            finish()
            call()
            return enter()

        if len(after) == 1 and not before:
            (call,) = after
            self._run = partial(io.run, runner, followed)
        elif before or after:
            self._run = partial(io.run, runner, hooked)
        elif runner.run is None:
            self._run = partial(io.run, runner, enter)
        else:
            lock = self._lock
            self._run = partial(runner.run, io.pio.calls, lock.acquire, lock.release)

    @cached_property
    def debug(self) -> GuestDebug:
        """Single steps and breakpoints."""
        from vmm.guest_debug import GuestDebug

        return GuestDebug(self.kvm)

    # -- stopping -------------------------------------------------------------------------

    def kick(self) -> None:
        """Bring the vCPU out of the guest, or keep it from entering it. From any thread."""
        try:
            self._page[_IMMEDIATE_EXIT] = 1
        except ValueError:  # closed: there is no guest to come out of
            return
        # A thread that has ended must not be signalled: while the lock is held it is in `execute`.
        # Reentrant, because Ctrl-C may strike while the same thread holds it.
        with self._kicking:
            thread = self._thread
            if thread is not None and thread != threading.get_ident():
                signals.kick(thread)

    def heed_kick(self) -> None:
        """Let a kick that has come by now not keep the vCPU from entering the guest. On its own
        thread, before it looks for what was wanted."""
        self._page[_IMMEDIATE_EXIT] = 0

    @property
    def asleep(self) -> bool:
        """Whether this vCPU waits in KVM, halted or not yet started. On its own thread."""
        return self._irqchip and self.kvm.get_mp_state() != c.KVM_MP_STATE_RUNNABLE

    def asleep_for_good(self) -> bool:
        """Say whether no interrupt can wake this vCPU: it halts with interrupts disabled, or was
        never started. Called on its own thread, after KVM_RUN was interrupted."""
        if not self._irqchip:
            return False
        state = self.kvm.get_mp_state()
        if state == c.KVM_MP_STATE_HALTED:
            return not self._page[_IF_FLAG]
        return state == c.KVM_MP_STATE_UNINITIALIZED

    @property
    def running(self) -> bool:
        """Whether a thread is in `execute`."""
        return self._thread is not None

    @property
    def unsettled(self) -> bool:
        """Whether the instruction of the last exit is not finished yet (see `settle`)."""
        return self._unsettled

    @property
    def on_this_thread(self) -> bool:
        """Whether the calling thread is the one in `execute`."""
        return self._thread == threading.get_ident()

    # -- running --------------------------------------------------------------------------

    def execute(self, limit: int | None = None) -> Ending | None:
        """Run the guest on the calling thread until it ends, is interrupted, or `limit` exits
        (counted by `self.exits`) have been handled.

        Returns:
            The ending, or None where the machine asked for the stop or the limit was reached.

        Raises:
            DeviceFault: a device model raised; the exit is not finished.
        """
        self.regs.flush()
        self.sregs.flush()
        self.thread_id = threading.get_native_id()
        self._unsettled = False  # what is pending is finished at the first entry
        self._thread = threading.get_ident()
        try:
            return self._loop(-1 if limit is None else limit)
        finally:
            with self._kicking:
                self._thread = None

    def settle(self) -> None:
        """Finish a pending I/O instruction, so that the registers show it.

        Spec: KVM API, KVM_RUN: "the kernel side will first finish incomplete operations".
        """
        while self._unsettled:
            self._unsettled = False
            self._page[_IMMEDIATE_EXIT] = 1
            try:
                self._loop(self.exits + 1, settling=True)
            finally:
                self._page[_IMMEDIATE_EXIT] = 0

    def _loop(self, limit: int, *, settling: bool = False) -> Ending | None:
        runner, run, io = self.runner, self._run, self._io
        reason = 0
        try:
            while runner.exits != limit:
                reason = c.KVM_EXIT_IO  # what raises out of `run` was called for one
                reason = run(limit)
                if runner.exits == limit:
                    break
                if reason == c.KVM_EXIT_IO:
                    io.port()
                    runner.exits += 1
                elif reason == c.KVM_EXIT_MMIO:
                    io.memory()
                    runner.exits += 1
                elif reason >= 0:
                    ending = self._ending_of(reason)
                    runner.exits += 1
                    if ending is not None:
                        return ending
                elif reason == -errno.EINTR:
                    self.heed_kick()
                    reason = 0  # the registers are settled
                    if settling or self._control.interrupted(self):
                        return None
                    run = self._run
                elif reason == -errno.ENOBUFS and self._full is not None:
                    self._full(self)
                    reason = c.KVM_EXIT_IO  # the guest was not entered: what was pending still is
                elif reason != -errno.EAGAIN:  # EAGAIN: a vCPU that waited for SIPI was woken
                    return run_failed(-reason, self.index)
        except UnclaimedAccess as error:
            return Ending("internal_error", self.index, detail=str(error), exit_reason=reason)
        except DeviceFault:
            raise
        except Exception as error:
            reason = io.pending  # a hook may have raised, at an exit of any kind
            self._recover(reason, error)
            runner.exits += 1
        finally:
            self._unsettled = reason in STATE_INCONSISTENT
            self.runner.finish()
            for call in self._after:
                call()
        return None

    def _ending_of(self, reason: int) -> Ending | None:
        if reason == c.KVM_EXIT_DEBUG:
            self.debug_exits += 1
            if self.on_debug is not None:
                return self.on_debug()
        return ending_of(reason, self._page, self.index)

    def _recover(self, reason: int, error: Exception) -> None:
        """A device raised: finish its access as the machine's policy says.

        Raises:
            DeviceFault: the policy does not want it finished.
        """
        from vmm.recovery import recover

        self._unsettled = False  # whoever looks at registers now must not finish the access
        recover(
            *(self._io, reason, error, self.index),
            lambda fault: self._control.device_failed(self, fault),
        )

    # -- looking --------------------------------------------------------------------------

    def last_exits(self, count: int = 64) -> list[Exit]:
        """The last exits that the ring still holds, oldest first. While the vCPU stands still."""
        from vmm.exits import from_record

        if self.ring is None:
            return []
        found = [from_record(*pair) for pair in islice(self.ring.newest_first(), max(count, 0))]
        found.reverse()
        return found

    def close(self) -> None:
        """Close the vCPU."""
        self._io.close()
        self.kvm.close()

    def _fetch_regs(self) -> kvm_bindings.structs.kvm_regs:
        self.settle()
        return self.kvm.get_regs()

    def _fetch_sregs(self) -> kvm_bindings.structs.kvm_sregs:
        self.settle()
        return self.kvm.get_sregs()

    def _store_sregs(self, sregs: kvm_bindings.structs.kvm_sregs) -> None:
        try:
            self.kvm.set_sregs(sregs)
        except kvm_bindings.KvmError as error:
            from vmm.cpustate import CpuState
            from vmm.entry_state import refused_sregs

            broken = refused_sregs(CpuState.from_kvm(self.kvm.get_regs(), sregs))
            if error.errno != errno.EINVAL or not broken:
                raise
            raise kvm_bindings.KvmError(error.ioctl, errno.EINVAL, "; ".join(broken)) from None
