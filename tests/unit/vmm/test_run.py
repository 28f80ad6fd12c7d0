"""Running, ending, pausing and counting one vCPU that follows a script."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from vmm import run_state
from vmm.counts import ExitCounts
from vmm.endings import Ending
from vmm.errors import DeviceFault, LifecycleError
from vmm.lifecycle import Phase

EXIT_HLT, EXIT_SHUTDOWN = 5, 8
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
PATIENCE = 20.0


@pytest.fixture
def clock(monkeypatch):
    """The time that the runs see; `clock.now_ns += ...` lets it pass."""
    hands = SimpleNamespace(now_ns=10**12)
    hands.monotonic_ns = lambda: hands.now_ns
    monkeypatch.setattr(run_state, "time", hands)
    return hands


# -- how a run ends ---------------------------------------------------------------------------


def test_a_halt_leaves_the_machine_paused(alone):
    made = alone(EXIT_HLT)
    assert made.phase is Phase.CREATED
    assert made.control.run(PATIENCE, None).reason == "halt"
    assert made.phase is Phase.PAUSED


def test_a_timeout_in_an_endless_guest(alone):
    made = alone()
    assert made.control.run(0.01, None).reason == "timeout"
    assert made.phase is Phase.PAUSED
    assert made.vcpus[0].exits == 0


def test_the_timeout_is_reached_when_the_time_has_passed_and_not_before(alone, clock):
    made = alone()
    made.start(timeout=5.0)
    clock.now_ns += 4_999_999_999
    assert made.runs_on()
    clock.now_ns += 1
    assert made.finish().reason == "timeout"


def test_without_a_timeout_time_ends_nothing(alone, clock):
    made = alone()
    made.start(timeout=None)
    clock.now_ns += 10**18
    assert made.runs_on()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e-12])
def test_extreme_timeouts_are_timeouts(alone, timeout):
    made = alone(EXIT_HLT)
    assert made.control.run(timeout, None).reason in ("halt", "timeout")
    assert made.phase is Phase.PAUSED


def test_the_number_of_exits_is_exact_and_counts_from_the_run(alone, scripted):
    made = alone(*(scripted.out(0x10, n) for n in range(10)), EXIT_HLT)
    for seen in (3, 6, 9):
        assert made.control.run(PATIENCE, 3).reason == "max_exits"
        assert made.port.written == list(range(seen))
    assert made.control.run(PATIENCE, 3).reason == "halt"
    assert made.vcpus[0].exits == 11


def test_a_guest_that_ends_on_its_last_exit_has_ended(alone, scripted):
    assert alone(scripted.out(0x10, 1), EXIT_HLT).control.run(PATIENCE, 2).reason == "halt"


def test_a_device_ends_the_run(alone, scripted):
    made = alone(scripted.out(0x10, 7), EXIT_HLT)
    made.port.function = lambda value: made.control.state.end(Ending("debug_exit", value=value))
    ending = made.control.run(PATIENCE, None)
    assert (ending.reason, ending.value) == ("debug_exit", 7)
    assert list(made.kvms[0].script) == [EXIT_HLT]
    # And the guest can go on behind it.
    assert made.control.run(PATIENCE, None).reason == "halt"


def test_a_device_that_ends_the_run_on_the_last_exit_wins(alone, scripted):
    made = alone(scripted.out(0x10, 7))
    made.port.function = lambda value: made.control.state.end(Ending("debug_exit", value=value))
    assert made.control.run(PATIENCE, 1).reason == "debug_exit"


def test_the_first_ending_counts(alone, scripted):
    made = alone(scripted.out(0x10, 1), EXIT_HLT)

    def end(value):
        made.control.state.end(Ending("poweroff"))
        made.control.state.end(Ending("reset"))

    made.port.function = end
    assert made.control.run(PATIENCE, None).reason == "poweroff"


def test_another_thread_ends_the_run(alone):
    made = alone()
    made.start()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


def test_an_ending_between_runs_does_not_touch_the_next(alone):
    made = alone(EXIT_HLT)
    made.control.state.end(Ending("stopped"))
    assert made.control.run(PATIENCE, None).reason == "halt"


def test_every_run_has_its_own_ending(alone):
    made = alone(EXIT_HLT, EXIT_SHUTDOWN)
    assert made.control.run(PATIENCE, None).reason == "halt"
    assert made.control.run(PATIENCE, None).reason == "shutdown"
    assert made.control.run(0.01, None).reason == "timeout"


# -- what must not be -------------------------------------------------------------------------


def test_a_running_machine_cannot_be_run(alone):
    made = alone()
    made.start()
    with pytest.raises(LifecycleError):
        made.control.run(1.0, None)
    made.control.state.end(Ending("stopped"))
    # The refusal left the run alone.
    assert made.finish().reason == "stopped"


def test_a_machine_that_somebody_holds_paused_cannot_be_run(alone, within):
    made = alone()
    made.start()
    made.control.gate.pause()
    entries = made.kvms[0].entries
    with pytest.raises(LifecycleError):
        within(lambda: made.control.run(0.05, None))
    assert made.kvms[0].entries == entries
    made.control.gate.resume()
    assert made.runs_on()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


def test_a_device_fault_fails_the_machine_for_good(alone, scripted):
    made = alone(scripted.out(0x10, 0), EXIT_HLT, on_write=lambda value: 1 / value)
    with pytest.raises(DeviceFault, match="ZeroDivisionError"):
        made.control.run(PATIENCE, None)
    assert made.phase is Phase.FAILED
    with pytest.raises(LifecycleError):
        made.control.run(PATIENCE, None)
    assert list(made.kvms[0].script) == [EXIT_HLT]


def refuse(regs):
    raise OSError(22, "the kernel refuses")


def test_an_error_of_the_kernel_is_raised_and_fails_the_machine(scripted, several):
    kvm = scripted()
    kvm.set_regs = refuse
    made = several(kvm)
    made.vcpus[0].regs.rax = 1
    with pytest.raises(OSError, match="the kernel refuses"):
        made.control.run(PATIENCE, None)
    assert made.phase is Phase.FAILED


# -- pausing ----------------------------------------------------------------------------------


def test_a_pause_holds_the_guest(alone):
    made = alone()
    made.start()
    made.control.gate.pause()
    assert made.phase is Phase.PAUSED
    assert not made.control.in_guest(made.vcpus[0])
    entries = made.kvms[0].entries
    made.control.gate.pause()  # once more changes nothing
    time.sleep(0.02)
    assert made.kvms[0].entries == entries
    made.control.gate.resume()
    assert made.phase is Phase.RUNNING
    assert made.runs_on()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"
    assert made.phase is Phase.PAUSED


def test_pausing_many_times(alone):
    made = alone()
    made.start()
    for _ in range(100):
        made.control.gate.pause()
        entries = made.kvms[0].entries
        assert made.phase is Phase.PAUSED
        assert made.kvms[0].entries == entries
        made.control.gate.resume()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


def test_registers_that_change_during_a_pause_reach_the_guest(alone):
    made = alone()
    made.start()
    made.control.gate.pause()
    vcpu, kvm = made.vcpus[0], made.kvms[0]
    vcpu.regs.rax = 0x1234
    vcpu.sregs.cr2 = 0x5678
    assert kvm.stored == []
    made.control.gate.resume()
    assert made.runs_on()
    assert (kvm.regs.rax, kvm.sregs.cr2) == (0x1234, 0x5678)
    made.control.state.end(Ending("stopped"))
    made.finish()


def test_a_machine_that_is_paused_can_be_ended(alone):
    made = alone()
    made.start()
    made.control.gate.pause()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"
    assert made.phase is Phase.PAUSED
    made.control.gate.resume()
    assert made.control.run(0.01, None).reason == "timeout"


def test_time_at_the_gate_does_not_count(alone, clock):
    made = alone()
    made.start(timeout=10.0)
    clock.now_ns += 9 * 10**9
    made.control.gate.pause()
    clock.now_ns += 3600 * 10**9
    made.control.gate.resume()
    assert made.runs_on()
    clock.now_ns += 10**9
    assert made.finish().reason == "timeout"


def test_there_is_nothing_to_pause_before_and_after_a_run(alone):
    made = alone(EXIT_HLT)
    made.control.gate.pause()
    made.control.gate.resume()
    assert made.phase is Phase.CREATED
    assert made.control.run(PATIENCE, None).reason == "halt"
    made.control.gate.pause()
    made.control.gate.resume()
    assert made.phase is Phase.PAUSED


def test_a_pause_ends_when_the_run_does(alone, scripted, within):
    """The guest halts in the moment that somebody asks for a pause."""
    for _ in range(50):
        made = alone()
        made.start()
        made.kvms[0].script.append(EXIT_HLT)
        within(made.control.gate.pause)
        made.control.gate.resume()
        assert made.finish().reason == "halt"
        assert made.phase is Phase.PAUSED


def test_a_device_cannot_pause_the_machine_it_runs_in(alone, scripted, within):
    """It would wait for itself."""
    made = alone(scripted.out(0x10, 1), EXIT_HLT)
    made.port.function = lambda value: made.control.gate.pause()
    with pytest.raises(DeviceFault, match="LifecycleError"):
        within(lambda: made.control.run(PATIENCE, None))


# -- counting ---------------------------------------------------------------------------------


BATCH = 256


@pytest.mark.parametrize("exits", [1, BATCH, BATCH + 1, 5 * BATCH + 7])
def test_every_exit_is_harvested_once(alone, scripted, exits):
    made = alone(*(scripted.out(0x10, n & 0xFF) for n in range(exits - 1)), EXIT_HLT)
    counts, batches = ExitCounts(), []

    def harvest(vcpu, count):
        batches.append(count)
        counts.add(vcpu, count)

    made.control.harvest = harvest
    assert made.control.run(PATIENCE, None).reason == "halt"
    assert counts.total == exits == sum(batches)
    assert max(batches) <= BATCH
    expected = {(2, 0x10, True): exits - 1, (EXIT_HLT, 0, False): 1}
    assert counts.by_address == {key: n for key, n in expected.items() if n}


def test_harvesting_keeps_the_bound_exact(alone, scripted):
    made = alone(*(scripted.out(0x10, 1) for _ in range(200)))
    counts = ExitCounts()
    made.control.harvest = counts.add
    assert made.control.run(PATIENCE, 150).reason == "max_exits"
    assert counts.total == 150 == len(made.port.written)
