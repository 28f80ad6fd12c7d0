"""How the run loop is left: kicks, endings, faults of devices."""

from __future__ import annotations

import errno
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import vcpu as vcpu_module
from vmm.errors import DeviceFault, ExitStatus
from vmm.result import DEATHS

# The kernel's numbers, declared again.
EXIT_IO, EXIT_HLT, EXIT_MMIO, EXIT_IRQ_WINDOW, EXIT_SHUTDOWN = 2, 5, 6, 7, 8
EXIT_FAIL_ENTRY, EXIT_INTR, EXIT_INTERNAL_ERROR, EXIT_SYSTEM_EVENT = 9, 10, 17, 24
IMMEDIATE_EXIT, IF_FLAG = 1, 13
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3


class Answer:
    """A device that answers everything with one value, fitting or not."""

    name = "answer"

    def __init__(self, value):
        self.value = value

    def read(self, offset, size):
        return self.value

    def write(self, offset, size, value):
        pass

    def reset(self):
        pass


class Broken(Answer):
    """A device with a fault."""

    def __init__(self, name="broken"):
        self.name = name

    def read(self, offset, size):
        raise RuntimeError("no such cell")

    def write(self, offset, size, value):
        raise RuntimeError("no such cell")


# -- being stopped ----------------------------------------------------------------------------


@pytest.fixture
def kicked(monkeypatch):
    """The threads that got the signal."""
    threads = []
    monkeypatch.setattr(vcpu_module.signals, "kick", threads.append)
    return threads


def test_an_interruption_asks_and_leaves(rig):
    made = rig(-errno.EINTR, EXIT_HLT)
    assert made.vcpu.execute() is None
    assert (made.control.asked, made.vcpu.exits) == (1, 0)
    assert list(made.kvm.script) == [EXIT_HLT]


def test_an_interruption_asks_and_goes_on(rig):
    made = rig(-errno.EINTR, -errno.EINTR, EXIT_HLT, answers=[False, False])
    assert made.vcpu.execute().reason == "halt"
    assert (made.control.asked, made.vcpu.exits) == (2, 1)


def test_a_kick_between_runs_keeps_the_guest_from_running(rig, kicked):
    made = rig(EXIT_HLT)
    made.vcpu.kick()
    assert kicked == []
    assert made.vcpu.execute() is None
    assert list(made.kvm.script) == [EXIT_HLT]
    # The request is cleared before anybody asks what was wanted, so that the next is not lost.
    assert made.control.flag_seen == [0]
    assert made.vcpu.execute().reason == "halt"


def test_a_kick_out_of_a_device_needs_no_signal(rig, scripted, kicked):
    made = rig(scripted.out(0x10, 1), EXIT_HLT)
    made.device.write = lambda *ignored: made.vcpu.kick()
    assert made.vcpu.execute() is None
    assert kicked == []
    assert list(made.kvm.script) == [EXIT_HLT]


def test_a_kick_from_another_thread_sets_the_flag_and_then_signals(rig, kicked, monkeypatch):
    made = rig(EXIT_HLT)
    flag_at_signal = []
    monkeypatch.setattr(
        vcpu_module.signals,
        "kick",
        lambda thread: (kicked.append(thread), flag_at_signal.append(made.kvm.page[1])),
    )

    def step(kvm):
        other = threading.Thread(target=made.vcpu.kick)
        other.start()
        other.join()
        return -errno.EINTR

    made.kvm.script.appendleft(step)
    assert not made.vcpu.running
    assert made.vcpu.execute() is None
    assert kicked == [threading.get_ident()]
    assert flag_at_signal == [1]
    assert not made.vcpu.running


def test_a_kick_that_comes_while_the_machine_is_asked_is_not_lost(rig, kicked):
    made = rig(-errno.EINTR, EXIT_HLT)
    answers = iter([False, True])

    class Kicking:
        def interrupted(self, vcpu):
            vcpu.kick()
            return next(answers)

    made.vcpu._control = Kicking()
    assert made.vcpu.execute() is None
    assert list(made.kvm.script) == [EXIT_HLT]


def test_a_vcpu_that_waited_for_sipi_enters_again(rig):
    made = rig(-errno.EAGAIN, -errno.EAGAIN, EXIT_HLT)
    assert made.vcpu.execute().reason == "halt"
    assert made.vcpu.exits == 1


@pytest.mark.parametrize(
    "number", [errno.EFAULT, errno.ENOMEM, errno.EINVAL, errno.EBADF, errno.EIO, 4095]
)
def test_another_errno_ends_the_run_and_is_named(rig, number):
    ending = rig(-number).vcpu.execute()
    assert ending.reason == "internal_error"
    assert errno.errorcode.get(number, "4095") in ending.detail


# -- exits that end the run -------------------------------------------------------------------


def test_a_halt(rig):
    ending = rig(EXIT_HLT).vcpu.execute()
    assert (ending.reason, ending.vcpu, ending.exit_reason) == ("halt", 0, EXIT_HLT)


def test_a_triple_fault(rig):
    assert rig(EXIT_SHUTDOWN).vcpu.execute().reason == "shutdown"


def test_the_ending_names_its_vcpu(rig):
    assert rig(EXIT_SHUTDOWN, index=3).vcpu.execute().vcpu == 3


@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (1, "poweroff", ""),
        (2, "reset", ""),
        (3, "internal_error", "crash"),
        (5, "internal_error", "system event 5"),
        (0xFFFFFFFF, "internal_error", "4294967295"),
    ],
)
def test_a_system_event(rig, scripted, event, reason, words):
    ending = rig(scripted.words(EXIT_SYSTEM_EVENT, "<II", event, 0)).vcpu.execute()
    assert ending.reason == reason
    assert words in ending.detail


def test_a_failed_entry_carries_the_hardware_reason(rig, scripted):
    ending = rig(scripted.words(EXIT_FAIL_ENTRY, "<QI", 0x8000_0021, 1)).vcpu.execute()
    assert ending.reason == "fail_entry"
    assert ending.numbers == (0x8000_0021,)
    assert "0x80000021" in ending.detail


def test_an_internal_error_carries_its_data(rig, scripted):
    ending = rig(scripted.words(EXIT_INTERNAL_ERROR, "<IIQQQ", 1, 2, 7, 8, 9)).vcpu.execute()
    assert ending.reason == "internal_error"
    assert ending.numbers == (1, 7, 8)
    assert "suberror 1" in ending.detail


@pytest.mark.parametrize("count", [16, 17, 0xFFFF_FFFF])
def test_an_internal_error_never_carries_more_than_there_is(rig, scripted, count):
    ending = rig(scripted.words(EXIT_INTERNAL_ERROR, "<II", 3, count)).vcpu.execute()
    assert ending.numbers == (3,) + (0,) * 16


@pytest.mark.parametrize("reason", [EXIT_INTR, EXIT_IRQ_WINDOW])
def test_harmless_exits_run_on(rig, reason):
    made = rig(reason, EXIT_HLT)
    assert made.vcpu.execute().reason == "halt"
    assert made.vcpu.exits == 2


_UNHANDLED = sorted(
    {*range(64), 255, 0x7FFF_FFFF}
    - {EXIT_IO, EXIT_MMIO, EXIT_HLT, EXIT_SHUTDOWN, EXIT_INTR, EXIT_IRQ_WINDOW, EXIT_SYSTEM_EVENT}
)


@pytest.mark.parametrize("reason", _UNHANDLED)
def test_every_other_reason_ends_in_a_report(rig, reason):
    made = rig(reason)
    ending = made.vcpu.execute()
    assert ending.reason in DEATHS
    assert ending.exit_reason == reason
    assert ending.detail
    assert "\n" not in ending.detail
    assert [event.reason for event in made.vcpu.last_exits()] == [reason]


@pytest.mark.parametrize(
    ("reason", "name"), [(4, "DEBUG"), (3, "HYPERCALL"), (30, "X86_WRMSR"), (63, "63")]
)
def test_an_unhandled_reason_is_named(rig, reason, name):
    assert name in rig(reason).vcpu.execute().detail


@given(reason=st.integers(0, 60), page=st.binary(min_size=320, max_size=320))
def test_no_page_of_the_kernel_raises(rig, reason, page):
    """Whatever the exit says, it ends in an exit handled or a report (I/O keeps its geometry)."""
    if reason in (EXIT_IO, EXIT_MMIO):
        return

    def step(kvm):
        kvm.page[32 : 32 + len(page)] = page
        return reason

    ending = rig(step, EXIT_HLT).vcpu.execute()
    assert ending is not None
    assert "\n" not in ending.detail


# -- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda s: s.out(0x12, 1), "port 0x12"),
        (lambda s: s.ins(0x12), "port 0x12"),
        (lambda s: s.outs(0x12, b"ab"), "port 0x12"),
        (lambda s: s.ins(0x12, 1, 3), "port 0x12"),
        (lambda s: s.store(0xD000_0004, b"abcd"), "MMIO 0xd0000004"),
        (lambda s: s.load(0xD000_0004, 4), "MMIO 0xd0000004"),
    ],
)
def test_a_device_that_raises_is_named(rig, scripted, make, where):
    made = rig(make(scripted), device=Broken("toaster"))
    with pytest.raises(DeviceFault) as caught:
        made.vcpu.execute()
    message = str(caught.value)
    assert "toaster" in message
    assert where in message
    assert "RuntimeError: no such cell" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.status == ExitStatus.VMM_FAULT
    assert not made.vcpu.running


def test_a_device_that_answers_with_nothing_is_a_fault(rig, scripted):
    with pytest.raises(DeviceFault, match=r"answer.*TypeError"):
        rig(scripted.ins(0x10), device=Answer(None)).vcpu.execute()


def test_the_exits_before_a_fault_are_kept(rig, scripted):
    made = rig(scripted.out(0x99, 1), scripted.out(0x10, 2), device=Broken())
    with pytest.raises(DeviceFault):
        made.vcpu.execute()
    assert made.vcpu.last_exits()[0].address == 0x99


def test_the_lock_is_held_while_a_device_is_called_and_at_no_other_time(rig, scripted):
    free = []

    def try_lock():
        def attempt():
            got = made.lock.acquire(blocking=False)
            free.append(got)
            if got:
                made.lock.release()

        other = threading.Thread(target=attempt)
        other.start()
        other.join()

    class Trying(Answer):
        def read(self, offset, size):
            try_lock()
            return 0

        def write(self, offset, size, value):
            try_lock()

    def in_guest(kvm):
        try_lock()
        return EXIT_HLT

    steps = [
        *(scripted.out(0x10, 1), scripted.ins(0x10), scripted.outs(0x10, b"ab")),
        *(scripted.store(0xD000_0000, b"a"), scripted.load(0xD000_0000, 4)),
    ]
    made = rig(*steps, in_guest, device=Trying(0))
    made.vcpu.execute()
    assert free == [False, False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: s.out(0x99, 1), "wrote to port 0x99"),
        (lambda s: s.ins(0x99, 2), "read from port 0x99"),
        (lambda s: s.store(0xE000_0000, b"ab"), "wrote to MMIO 0xe0000000"),
        (lambda s: s.load(0xE000_0000, 8), "read from MMIO 0xe0000000"),
    ],
)
def test_a_strict_bus_ends_the_run(rig, scripted, make, words):
    made = rig(scripted.out(0x10, 1), make(scripted), EXIT_HLT, strict=True)
    ending = made.vcpu.execute()
    assert ending.reason == "internal_error"
    assert words in ending.detail
    assert list(made.kvm.script) == [EXIT_HLT]


def test_waiting_writes_are_carried_out_before_the_exit_that_follows(rig, scripted):
    made = rig(scripted.out(0x10, 2), -errno.EINTR)
    made.vcpu.call_before(lambda: made.device.log.append("drained"))
    made.vcpu.execute()
    assert made.device.log == ["drained", ("w", 0, 1, 2), "drained"]


# -- sleeping for good ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("irqchip", "state", "interrupts", "expected"),
    [
        (False, HALTED, 0, False),
        (True, RUNNABLE, 0, False),
        (True, UNINITIALIZED, 0, True),
        (True, HALTED, 1, False),
        (True, HALTED, 0, True),
    ],
)
def test_sleeping_for_good(rig, irqchip, state, interrupts, expected):
    made = rig(irqchip=irqchip)
    made.kvm.mp_state = state
    made.kvm.page[IF_FLAG] = interrupts
    assert made.vcpu.asleep_for_good() is expected


def test_closing_closes_the_descriptor(rig):
    made = rig()
    made.vcpu.close()
    assert made.kvm.closed
