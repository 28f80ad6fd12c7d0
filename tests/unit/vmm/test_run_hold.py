"""Holding a run from inside, and letting it go on exit by exit."""

from __future__ import annotations

import errno
import time

import pytest

from vmm.endings import Ending
from vmm.errors import LifecycleError
from vmm.lifecycle import Phase

EXIT_HLT = 5


def held(made, count):
    """A run on a thread that holds itself when the guest has written `count` times."""

    def hold(value):
        if len(made.port.written) == count:
            made.control.gate.pause_soon("written enough")

    made.port.function = hold
    made.start()
    made.until(lambda: made.phase is Phase.PAUSED)
    return made


def test_a_hook_holds_the_run_behind_its_exit(alone, scripted):
    made = held(alone(*(scripted.out(0x10, n) for n in range(9)), EXIT_HLT), 3)
    assert made.port.written == [0, 1, 2]
    assert made.control.gate.held_by == "written enough"
    assert made.control.gate.pause(0.01)  # it is
    made.control.gate.resume()
    assert made.control.gate.held_by == ""
    assert made.finish().reason == "halt"
    assert made.port.written == list(range(9))


def test_exit_by_exit(alone, scripted):
    made = held(alone(*(scripted.out(0x10, n) for n in range(9)), EXIT_HLT), 3)
    for count in (4, 5, 6):
        assert made.control.step_exit(timeout_s=20)
        assert made.port.written == list(range(count))
        assert made.phase is Phase.PAUSED
        assert not made.control.in_guest(made.vcpus[0])
    made.control.gate.resume()
    assert made.finish().reason == "halt"


def test_a_step_outlasts_the_heartbeat(alone, scripted, within):
    ticks = [-errno.EINTR] * 20
    made = held(alone(scripted.out(0x10, 0), *ticks, scripted.out(0x10, 1), EXIT_HLT), 1)
    assert within(lambda: made.control.step_exit(timeout_s=20))
    assert made.port.written == [0, 1]
    assert made.phase is Phase.PAUSED
    made.control.gate.resume()
    assert made.finish().reason == "halt"


def test_a_step_into_the_end(alone, scripted):
    made = held(alone(scripted.out(0x10, 1), EXIT_HLT), 1)
    assert made.control.step_exit(timeout_s=20)
    assert made.finish().reason == "halt"
    with pytest.raises(LifecycleError, match="no run that is paused"):
        made.control.step_exit(timeout_s=20)


def test_a_step_that_meets_no_exit_is_given_up(alone, scripted, within):
    made = held(alone(scripted.out(0x10, 1)), 1)  # behind its script the guest loops
    assert not within(lambda: made.control.step_exit(timeout_s=0.05))
    assert made.phase is Phase.PAUSED
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


def test_a_step_keeps_the_bound(alone, scripted):
    made = alone(*(scripted.out(0x10, n) for n in range(9)), EXIT_HLT)
    made.port.function = lambda value: made.control.gate.pause_soon() if value == 3 else None
    made.start(max_exits=6)
    made.until(lambda: made.phase is Phase.PAUSED)
    assert made.control.step_exit(timeout_s=20)
    made.control.gate.resume()
    assert made.finish().reason == "max_exits"
    assert made.port.written == list(range(6))


def test_one_of_two_vcpus_steps(several, scripted):
    made = several([scripted.out(0x10, n) for n in range(5)], [])
    made.port.function = lambda value: made.control.gate.pause_soon() if value == 1 else None
    made.start()
    made.until(lambda: made.phase is Phase.PAUSED)
    assert made.control.step_exit(0, timeout_s=20)
    assert made.port.written == [0, 1, 2]
    assert not made.control.step_exit(1, timeout_s=0.05)
    assert made.phase is Phase.PAUSED
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


def test_there_is_nothing_to_step_without_a_run(alone):
    made = alone()
    with pytest.raises(LifecycleError, match="no run that is paused"):
        made.control.step_exit()


def test_a_look_does_not_undo_the_hold_of_somebody_else(alone, scripted):
    made = held(alone(*(scripted.out(0x10, n) for n in range(9)), EXIT_HLT), 3)
    assert made.control.gate.pause(20, hold="look")
    made.control.gate.resume(hold="look")
    assert made.phase is Phase.PAUSED
    assert made.control.gate.held_by == "written enough"
    # The other way round: who pauses while somebody looks.
    assert made.control.gate.pause(20, hold="look")
    made.control.gate.resume()
    assert made.phase is Phase.PAUSED
    made.control.gate.pause_soon("a stop")
    made.control.gate.resume(hold="look")
    assert (made.phase, made.control.gate.held_by) == (Phase.PAUSED, "a stop")
    made.control.gate.resume()
    assert made.finish().reason == "halt"


def test_after_a_step_another_reason_is_told(alone, scripted):
    made = held(alone(*(scripted.out(0x10, n) for n in range(9)), EXIT_HLT), 3)
    made.port.function = lambda value: (
        made.control.gate.pause_soon("5 it is") if value == 5 else None
    )
    for why in ("", "", "5 it is", ""):
        assert made.control.step_exit(timeout_s=20)
        assert made.control.gate.held_by == why
    made.control.gate.resume()
    assert made.finish().reason == "halt"


def goes_on_and_counts(count):
    """A guest that goes on for ever, and counts how often it is entered and not sent back."""

    def go_on(kvm):
        count[kvm.index] += 1
        kvm.script.append(go_on)
        time.sleep(0.0001)
        return -errno.EINTR

    return go_on


def test_a_kick_that_comes_when_the_vcpu_stands_already_is_spent(alone):
    did = [0]
    made = alone(goes_on_and_counts(did))
    made.start()
    assert made.control.gate.pause(20)
    for _ in range(50):
        made.vcpus[0].kick()
        before, sent_back = did[0], made.kvms[0].sent_back
        made.control.gate.resume()
        made.until(lambda before=before: did[0] > before)
        assert made.kvms[0].sent_back == sent_back
        assert made.control.gate.pause(20)
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


@pytest.mark.parametrize("vcpus", [1, 2])
def test_who_holds_again_and_again_does_not_starve_the_guest(several, vcpus):
    did = [0] * vcpus
    made = several(*([goes_on_and_counts(did)] for _ in range(vcpus)))
    made.start()
    went_on, rounds = 0, 200
    for _ in range(rounds):
        assert made.control.gate.pause(20)
        before = list(did)
        made.control.gate.resume()
        assert made.control.gate.pause(20)
        went_on += all(now > then for now, then in zip(did, before, strict=True))
        made.control.gate.resume()
    assert went_on > rounds / 2
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"
