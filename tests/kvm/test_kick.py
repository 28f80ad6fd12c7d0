"""Bringing a vCPU out of the guest from another thread: none lost, none hangs."""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
from collections.abc import Callable, Iterator

import pytest

from kvm_bindings import System, Vcpu, signals
from kvm_bindings.runner import runner_kind
from kvm_bindings.structs import kvm_regs

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

MEMORY = 0x4000
IMMEDIATE_EXIT = 1
PATIENCE = 30.0
KICKS = 10_000


@pytest.fixture(params=["ctypes", "compiled"])
def vcpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vcpu]:
    """A vCPU in a loop without end or exits, run by either runner."""
    if request.param == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    else:
        monkeypatch.delenv("GLASSVM_RUNNER", raising=False)
        if runner_kind() != "compiled":
            pytest.skip("the compiled runner was not built")
    signals.install()
    ram = mmap.mmap(-1, MEMORY)
    ram[0x1000:0x1002] = b"\xeb\xfe"  # jmp .
    with System() as system, system.create_vm() as vm:
        vm.set_user_memory_region(0, 0, MEMORY, ctypes.addressof(ctypes.c_char.from_buffer(ram)))
        made = vm.create_vcpu(0)
        sregs = made.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        made.set_sregs(sregs)
        made.set_regs(kvm_regs(rip=0x1000, rflags=2))
        yield made
    ram.close()


class Worker:
    """The vCPU's thread: enters the guest again and again and answers every request to leave."""

    def __init__(self, vcpu: Vcpu, before_entry: Callable[[], None] = lambda: None) -> None:
        self.vcpu = vcpu
        self.before_entry = before_entry
        self.interrupted = 0
        self.others: list[int] = []
        self.asked = 0
        self.answered = threading.Semaphore(0)
        self.stop = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        run, page = self.vcpu.runner().enter, self.vcpu.page
        answered = 0
        while not self.stop:
            self.before_entry()
            result = run()
            if result != -errno.EINTR:
                self.others.append(result)
                return
            self.interrupted += 1
            # Cleared before looking: a request made after the look sets it again.
            page[IMMEDIATE_EXIT] = 0
            asked = self.asked
            for _ in range(asked - answered):
                self.answered.release()
            answered = asked

    def request(self) -> bool:
        """Ask the vCPU to come out, as the machine does; say whether it did."""
        self.asked += 1
        self.vcpu.page[IMMEDIATE_EXIT] = 1
        assert self.thread.ident is not None
        signals.kick(self.thread.ident)
        return self.answered.acquire(timeout=PATIENCE)

    def finish(self) -> None:
        self.stop = True
        assert self.request()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_ten_thousand_kicks_and_none_lost(vcpu: Vcpu) -> None:
    worker = Worker(vcpu)
    for number in range(KICKS):
        assert worker.request(), f"kick {number} was lost"
    worker.finish()
    assert worker.others == []
    # A kick may bring it out twice: once by immediate_exit, once by the signal after that.
    assert KICKS <= worker.interrupted <= 2 * (KICKS + 1)
    assert vcpu.get_regs().rip == 0x1000


def test_a_kick_outside_of_the_guest_keeps_it_from_entering(vcpu: Vcpu) -> None:
    outside, kicked = threading.Semaphore(0), threading.Semaphore(0)

    def wait_for_the_kick() -> None:
        outside.release()
        assert kicked.acquire(timeout=PATIENCE)

    worker = Worker(vcpu, wait_for_the_kick)
    for number in range(500):
        assert outside.acquire(timeout=PATIENCE)
        worker.asked += 1
        vcpu.page[IMMEDIATE_EXIT] = 1
        assert worker.thread.ident is not None
        # Spent before KVM_RUN: the handler has run when the semaphore is taken.
        signals.kick(worker.thread.ident)
        kicked.release()
        assert worker.answered.acquire(timeout=PATIENCE), f"kick {number} was lost"
    assert outside.acquire(timeout=PATIENCE)
    worker.before_entry = lambda: None
    kicked.release()
    worker.finish()
    assert worker.others == []


def test_a_heartbeat_brings_the_vcpu_out_again_and_again(vcpu: Vcpu) -> None:
    run = vcpu.runner().enter
    with signals.Heartbeat() as heartbeat:
        heartbeat.start(2_000_000, 2_000_000)
        assert [run() for _ in range(20)] == [-errno.EINTR] * 20


def test_two_vcpu_threads_are_kicked_apart(vcpu: Vcpu) -> None:
    """A kick reaches only the thread that it is meant for."""
    worker = Worker(vcpu)
    sleeper = threading.Semaphore(0)
    other = threading.Thread(target=sleeper.acquire, daemon=True)
    other.start()
    assert other.ident is not None
    for _ in range(200):
        signals.kick(other.ident)
    assert worker.request()
    worker.finish()
    assert worker.interrupted <= 4
    sleeper.release()
    other.join(PATIENCE)
