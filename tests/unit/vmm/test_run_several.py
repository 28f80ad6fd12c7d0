"""Several vCPUs that follow scripts, under one run control."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from vmm.endings import Ending
from vmm.errors import DeviceFault
from vmm.lifecycle import Phase

EXIT_HLT, EXIT_SHUTDOWN = 5, 8
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
PATIENCE = 20.0


def refuse(regs):
    raise OSError(22, "the kernel refuses")


# -- several vCPUs ----------------------------------------------------------------------------


def test_several_run_on_threads_of_their_own(several):
    names = set()

    def who(self):
        names.add(threading.current_thread().name)
        return -errno.EINTR

    made = several((who,), (who,), (who,))
    made.start()
    made.until(lambda: len(names) == 3)
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"
    assert names == {"vcpu0", "vcpu1", "vcpu2"}
    assert not any(thread.name.startswith("vcpu") for thread in threading.enumerate())


def test_the_one_that_ends_ends_all(several):
    made = several((), (), (EXIT_SHUTDOWN,))
    ending = made.control.run(PATIENCE, None)
    assert (ending.reason, ending.vcpu) == ("shutdown", 2)
    assert made.phase is Phase.PAUSED


def test_a_fault_of_one_ends_all(several, scripted):
    made = several((), (scripted.out(0x10, 0),), on_write=lambda value: 1 / value)
    with pytest.raises(DeviceFault):
        made.control.run(PATIENCE, None)
    assert made.phase is Phase.FAILED


def test_an_unforeseen_error_of_one_ends_all(scripted, several, within):
    kvms = scripted(index=0), scripted(index=1)
    kvms[1].set_regs = refuse
    made = several(*kvms)
    made.vcpus[1].regs.rax = 1
    with pytest.raises(OSError, match="the kernel refuses"):
        within(lambda: made.control.run(PATIENCE, None))
    assert made.phase is Phase.FAILED


def test_several_are_paused_together(several):
    made = several((), (), ())
    made.start()
    for _ in range(20):
        made.control.gate.pause()
        entries = [kvm.entries for kvm in made.kvms]
        assert not any(made.control.in_guest(vcpu) for vcpu in made.vcpus)
        time.sleep(0.002)
        assert [kvm.entries for kvm in made.kvms] == entries
        made.control.gate.resume()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


@pytest.mark.parametrize("count", [2, 3])
def test_the_bound_is_of_all_together(several, scripted, count):
    scripts = [[scripted.out(0x10, n & 0xFF) for n in range(500)] for _ in range(count)]
    made = several(*scripts)
    assert made.control.run(PATIENCE, 101).reason == "max_exits"
    assert 101 <= len(made.port.written) <= 101 + count


def test_the_bound_holds_where_one_stops_making_exits(several, scripted):
    """What the others did counts, also while they stay in the guest."""

    def wait_for_the_other(self):
        made.until(lambda: made.port.written.count(1) >= 40)
        return -errno.EINTR

    made = several(
        [wait_for_the_other, *(scripted.out(0x10, 0) for _ in range(500))],
        [scripted.out(0x10, 1) for _ in range(40)],
    )
    assert made.control.run(PATIENCE, 100).reason == "max_exits"
    assert 100 <= len(made.port.written) <= 102


def test_all_asleep_for_good_is_a_halt(several):
    made = several((), (), irqchip=True)
    made.kvms[0].mp_state, made.kvms[1].mp_state = HALTED, UNINITIALIZED
    ending = made.control.run(PATIENCE, None)
    assert ending.reason == "halt"


def test_one_that_is_awake_keeps_the_machine_running(several):
    made = several((), (), irqchip=True)
    made.kvms[0].mp_state = HALTED
    made.start()
    assert made.runs_on()
    made.kvms[1].mp_state = UNINITIALIZED
    assert made.finish().reason == "halt"


def test_one_that_was_woken_counts_as_awake_at_once(several, scripted):
    """The first starts the second, which was asleep until now, and goes to sleep for good."""
    first_beats = []

    def start_the_other(self):
        other = made.kvms[1]
        made.until(lambda: other.entries > 3)
        other.mp_state = RUNNABLE
        other.script.extend([wait_for_the_first, scripted.out(0x10, 1)])
        self.mp_state = HALTED
        first_beats.append(self.entries)
        return -errno.EINTR

    def wait_for_the_first(self):
        made.until(lambda: made.kvms[0].entries > first_beats[0] + 2 or made.phase is Phase.PAUSED)
        return -errno.EINTR

    made = several((start_the_other,), (), irqchip=True)
    made.kvms[1].mp_state = UNINITIALIZED
    made.port.function = lambda value: made.control.state.end(Ending("debug_exit", value=value))
    assert made.control.run(PATIENCE, None).reason == "debug_exit"


def test_the_steps_of_several(several, scripted, within):
    scripts = [[scripted.out(0x10, 16 * cpu + n) for n in range(10)] for cpu in range(3)]
    made = several(*scripts)
    *exits, ending = within(lambda: list(made.control.steps(PATIENCE, 30)))
    assert ending.reason == "max_exits"
    for cpu in range(3):
        mine = [event.value for event in exits if event.vcpu == cpu]
        assert mine == [16 * cpu + n for n in range(10)]


def test_leaving_the_steps_of_several_early(several, scripted, within):
    made = several(*([scripted.out(0x10, n) for n in range(50)] for _ in range(3)))

    def leave_early():
        for event in made.control.steps(PATIENCE, None):
            if event.value == 5:
                break

    within(leave_early)
    assert made.phase is Phase.PAUSED
    assert not any(thread.name.startswith("vcpu") for thread in threading.enumerate())
    assert within(lambda: made.control.run(0.05, None)).reason == "timeout"
    assert sorted(made.port.written) == sorted([*range(50)] * 3)


def test_the_steps_of_several_always_come_to_an_end(scripted, several, within):
    for _ in range(100):
        kvms = [scripted(scripted.out(0x10, 1), index=0), scripted(EXIT_HLT, index=1)]
        made = several(*kvms)
        ending = within(lambda made=made: list(made.control.steps(PATIENCE, None)))[-1]
        assert ending.reason == "halt"


def test_an_unforeseen_error_in_the_steps_of_several(scripted, several, within):
    kvms = scripted(index=0), scripted(index=1)
    kvms[1].set_regs = refuse
    made = several(*kvms)
    made.vcpus[1].regs.rax = 1
    with pytest.raises(OSError, match="the kernel refuses"):
        within(lambda: list(made.control.steps(PATIENCE, None)))
