"""A device that raises: the access is made again, dropped, or the machine fails."""

from __future__ import annotations

import errno
import threading

import pytest

from kvm_bindings.structs import kvm_regs
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault
from vmm.lifecycle import Phase

EXIT_IO, EXIT_HLT, EXIT_MMIO = 2, 5, 6
DATA, MMIO_DATA = 0x1000, 40


class Fragile:
    """A device that fails at every access while it has failures left."""

    name = "fragile"

    def __init__(self, failures=1):
        self.failures = failures
        self.log = []

    def _access(self, what):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        self.log.append(what)

    def read(self, offset, size):
        self._access(("r", offset, size))
        return 0x11223344 & ((1 << 8 * size) - 1)

    def write(self, offset, size, value):
        self._access(("w", offset, size, value))

    def reset(self):
        self.log.clear()


ACCESSES = [
    (lambda s: s.out(0x12, 0x4142, 2), ("w", 2, 2, 0x4142), None),
    (lambda s: s.ins(0x12, 2), ("r", 2, 2), b"\x44\x33"),
    (lambda s: s.store(0xD000_0008, b"abcd"), ("w", 8, 4, 0x64636261), None),
    (lambda s: s.load(0xD000_0008, 4), ("r", 8, 4), b"\x44\x33\x22\x11"),
]


@pytest.mark.parametrize(("access", "seen", "given"), ACCESSES)
def test_a_retry_calls_the_device_for_the_same_access(rig, scripted, access, seen, given):
    made = rig(access(scripted), EXIT_HLT, device=Fragile(2))
    made.control.choices = ["retry", "retry"]
    assert made.vcpu.execute() is None  # it comes back once, for its limit to be looked at
    assert made.vcpu.exits == 1
    assert made.vcpu.execute().reason == "halt"
    assert made.device.log == [seen]
    assert made.kvm.given == ([] if given is None else [given])
    assert [type(fault.__cause__) for fault in made.control.faults] == [RuntimeError] * 2


@pytest.mark.parametrize(("access", "seen", "given"), ACCESSES)
def test_what_is_skipped_is_dropped_or_reads_as_ones(rig, scripted, access, seen, given):
    made = rig(access(scripted), access(scripted), EXIT_HLT, device=Fragile(1))
    made.control.choices = ["skip"]
    made.vcpu.execute()
    assert made.vcpu.execute().reason == "halt"
    assert made.device.log == [seen]  # of the second access
    assert made.kvm.given == ([] if given is None else [b"\xff" * len(given), given])


@pytest.mark.parametrize("count", [1, 3])
def test_the_fault_says_what_was_wanted_of_whom(rig, scripted, count):
    made = rig(scripted.outs(0x14, b"ab" * count, 2), device=Fragile())
    with pytest.raises(DeviceFault, match=r"fragile.*port 0x14: RuntimeError: not now") as caught:
        made.vcpu.execute()
    fault = caught.value
    assert made.control.faults == [fault]
    assert fault.device is made.device
    access = fault.access
    assert (access.reason, access.address, access.size, access.count) == (EXIT_IO, 0x14, 2, count)
    assert access.write
    assert access.data == b"ab" * count


def test_the_record_of_a_retried_exit_has_the_answer(rig, scripted):
    made = rig(scripted.ins(0x10), device=Fragile())
    made.control.choices = ["retry"]
    made.vcpu.execute()
    assert [event.value for event in made.vcpu.last_exits()] == [0x44]


class Third(Fragile):
    """Fails at its third element, once."""

    def _access(self, what):
        if len(self.log) == 2 and self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        self.log.append(what)


@pytest.mark.parametrize("choice", ["retry", "skip"])
def test_a_string_goes_on_with_the_element_that_failed(rig, scripted, choice):
    made = rig(scripted.outs(0x10, b"abcde"), device=Third())
    made.control.choices = [choice]
    made.vcpu.execute()
    expected = b"abcde" if choice == "retry" else b"abde"
    assert bytes(value for *_, value in made.device.log) == expected


def test_a_string_that_is_read_has_ones_where_it_was_skipped(rig, scripted):
    made = rig(scripted.ins(0x10, 2, 4), EXIT_HLT, device=Third(2))
    made.control.choices = ["skip", "skip"]
    made.vcpu.execute()
    made.vcpu.execute()
    assert made.kvm.given == [b"\x44\x33\x44\x33\xff\xff\xff\xff"]


def test_the_last_element_can_be_skipped(rig, scripted):
    made = rig(scripted.outs(0x10, b"abc"), device=Third(9))
    made.control.choices = ["skip"]
    made.vcpu.execute()
    assert (made.vcpu.exits, len(made.control.faults)) == (1, 1)


def test_a_look_at_the_registers_does_not_finish_the_access(rig, scripted):
    made = rig(scripted.out(0x99, 1), scripted.ins(0x10), EXIT_HLT, device=Fragile())
    made.vcpu.execute(limit=1)
    entered = []

    def look(vcpu, fault):
        before = made.kvm.entries
        assert vcpu.regs.rip == 0
        entered.append(made.kvm.entries - before)
        return "retry"

    made.control.device_failed = look
    made.vcpu.execute()
    made.vcpu.execute()
    assert entered == [0]
    assert made.kvm.given == [b"\x44"]


def test_what_raises_elsewhere_is_not_asked_about(rig, scripted):
    made = rig(EXIT_HLT)
    made.control.choices = ["skip"]
    made.vcpu.call_before(lambda: 1 / 0)
    with pytest.raises(DeviceFault, match="ZeroDivisionError"):
        made.vcpu.execute()
    assert made.control.faults == []


# -- what the machine makes of it ---------------------------------------------------------------


def failing_at(*values):
    left = list(values)

    def on_write(value):
        if value in left:
            left.remove(value)
            raise ValueError(f"no {value}")

    return on_write


def outs(scripted, *values):
    return [scripted.out(0x10, value) for value in values]


def test_a_run_goes_on_as_the_policy_says(alone, scripted):
    made = alone(*outs(scripted, 1, 2, 3), EXIT_HLT, on_write=failing_at(2, 2, 3))
    choices = iter(["retry", "retry", "skip"])
    asked = []

    def ask(fault):
        asked.append(str(fault.__cause__))
        return next(choices)

    made.control.on_device_fault = ask
    assert made.control.run(20.0, None).reason == "halt"
    assert asked == ["no 2", "no 2", "no 3"]
    assert made.port.written == [1, 2, 2, 2, 3]
    assert made.phase is Phase.PAUSED
    assert made.vcpus[0].exits == 4


def test_raise_is_what_happens_without_a_policy(alone, scripted):
    made = alone(*outs(scripted, 1), EXIT_HLT, on_write=failing_at(1))
    made.control.on_device_fault = lambda fault: "raise"
    with pytest.raises(DeviceFault, match="no 1"):
        made.control.run(20.0, None)
    assert made.phase is Phase.FAILED


def test_an_answer_that_is_none_is_refused(alone, scripted):
    made = alone(*outs(scripted, 1), EXIT_HLT, on_write=failing_at(1))
    made.control.on_device_fault = lambda fault: "again"
    with pytest.raises(ConfigError, match="'again': give retry, skip or raise"):
        made.control.run(20.0, None)
    assert made.phase is Phase.FAILED


def test_a_policy_that_raises_fails_the_machine(alone, scripted):
    made = alone(*outs(scripted, 1), EXIT_HLT, on_write=failing_at(1))

    def ask(fault):
        raise LookupError("nobody there")

    made.control.on_device_fault = ask
    with pytest.raises(LookupError, match="nobody there"):
        made.control.run(20.0, None)
    assert made.phase is Phase.FAILED


def test_an_iteration_yields_the_exit_that_was_mended_once(alone, scripted):
    made = alone(*outs(scripted, 1, 2), EXIT_HLT, on_write=failing_at(1))
    made.control.on_device_fault = lambda fault: "retry"
    events = list(made.control.steps(20.0, None))
    assert [event.value for event in events[:2]] == [1, 2]


def test_all_others_stand_still_while_one_is_asked_about(several, scripted):
    def other_runs(self):
        made.until(lambda: made.kvms[1].entries > 1)
        return -errno.EINTR

    made = several((other_runs, scripted.out(0x10, 1), EXIT_HLT), (), on_write=failing_at(1))
    seen = []

    def ask(fault):
        before = made.kvms[1].entries
        threading.Event().wait(0.05)
        seen.append(made.kvms[1].entries - before)
        assert not made.control.in_guest(made.vcpus[1])
        made.vcpus[0].regs.rax = 7
        return "retry"

    made.control.on_device_fault = ask
    assert made.control.run(20.0, None).reason == "halt"
    assert seen == [0]
    assert [state.rax for state in made.kvms[0].stored if isinstance(state, kvm_regs)] == [7]


def test_two_faults_at_once_are_asked_about_one_after_the_other(several, scripted):
    script = (scripted.out(0x10, 2), scripted.out(0x10, 3), -errno.EINTR)
    made = several(script, script, on_write=failing_at(2, 2, 3, 3))
    inside, most, asked = [], [], []

    def ask(fault):
        inside.append(fault)
        asked.append((fault.access.vcpu, fault.access.value))
        threading.Event().wait(0.02)
        most.append(len(inside))
        inside.pop()
        if len(asked) == 4:
            made.control.state.end(Ending("stopped"))
        return "skip"

    made.control.on_device_fault = ask
    assert made.control.run(20.0, None).reason == "stopped"
    assert most == [1] * 4
    assert sorted(asked) == [(0, 2), (0, 3), (1, 2), (1, 3)]


def test_a_pause_while_asking_holds_the_machine_afterwards(alone, scripted, within):
    made = alone(*outs(scripted, 1), EXIT_HLT, on_write=failing_at(1))

    def ask(fault):
        within(made.control.gate.pause)
        return "skip"

    made.control.on_device_fault = ask
    made.start()
    made.until(lambda: made.phase is Phase.PAUSED)
    assert list(made.kvms[0].script) == [EXIT_HLT]
    made.control.gate.resume()
    assert made.finish().reason == "halt"


def test_an_ending_from_elsewhere_while_asking_ends_the_run(alone, scripted):
    made = alone(*outs(scripted, 1), -errno.EINTR, EXIT_HLT, on_write=failing_at(1))

    def ask(fault):
        made.control.state.end(Ending("timeout"))
        return "skip"

    made.control.on_device_fault = ask
    assert made.control.run(20.0, None).reason == "timeout"
    assert list(made.kvms[0].script) == [-errno.EINTR, EXIT_HLT]
