"""A run exit by exit, and Ctrl-C in either kind of run."""

from __future__ import annotations

import os
import signal

import pytest

from vmm.endings import Ending
from vmm.errors import DeviceFault
from vmm.exits import Exit
from vmm.lifecycle import Phase

EXIT_HLT, EXIT_SHUTDOWN = 5, 8
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
PATIENCE = 20.0


# -- Ctrl-C -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _sigint():
    """Ctrl-C as a program on a terminal has it: a background job begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(self):
    os.kill(os.getpid(), signal.SIGINT)
    return EXIT_HLT if not self.script else self._take(self.script.popleft())


def test_ctrl_c_is_raised_when_the_exit_is_handled(alone, scripted):
    made = alone(interrupt, scripted.out(0x10, 1), EXIT_HLT)
    with pytest.raises(KeyboardInterrupt):
        made.control.run(PATIENCE, None)
    assert made.port.written == [1]
    assert made.phase is Phase.PAUSED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert made.control.run(PATIENCE, None).reason == "halt"


def test_ctrl_c_in_an_iteration(alone, scripted):
    made = alone(scripted.out(0x10, 1), interrupt, scripted.out(0x10, 2), EXIT_HLT)
    steps = made.control.steps(PATIENCE, None)
    assert next(steps).value == 1
    with pytest.raises(KeyboardInterrupt):
        list(steps)
    assert made.port.written == [1, 2]
    assert made.phase is Phase.PAUSED
    assert made.control.run(PATIENCE, None).reason == "halt"


def test_a_handler_of_the_program_is_left_alone(alone):
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        assert alone(interrupt, EXIT_HLT).control.run(PATIENCE, None).reason == "halt"
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_on_another_thread_ctrl_c_belongs_to_the_main_thread(alone):
    made = alone()
    made.start()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert made.runs_on()
    made.control.state.end(Ending("stopped"))
    assert made.finish().reason == "stopped"


# -- exit by exit -----------------------------------------------------------------------------


def test_the_steps_are_the_exits_and_then_the_ending(alone, scripted):
    made = alone(scripted.out(0x10, 1), scripted.ins(0x99), EXIT_HLT)
    *exits, ending = made.control.steps(PATIENCE, None)
    assert [(e.name, e.address, e.value) for e in exits] == [
        ("IO", 0x10, 1),
        ("IO", 0x99, 0xFF),
        ("HLT", 0, 0),
    ]
    assert ending.reason == "halt"
    assert made.phase is Phase.PAUSED


def test_an_exit_is_handled_before_it_is_handed_out(alone, scripted):
    made = alone(scripted.out(0x10, 1), scripted.out(0x10, 2), EXIT_HLT)
    steps = made.control.steps(PATIENCE, None)
    next(steps)
    assert made.port.written == [1]
    next(steps)
    assert made.port.written == [1, 2]
    steps.close()


def test_steps_are_bounded(alone, scripted):
    made = alone(*(scripted.out(0x10, n) for n in range(10)))
    *exits, ending = made.control.steps(PATIENCE, 4)
    assert [event.value for event in exits] == [0, 1, 2, 3]
    assert ending.reason == "max_exits"
    assert list(made.control.steps(0.01, None))[-1].reason == "timeout"


def test_leaving_early_leaves_a_machine_that_goes_on(alone, scripted):
    made = alone(*(scripted.out(0x10, n) for n in range(5)), EXIT_HLT)
    for event in made.control.steps(PATIENCE, None):
        if event.value == 2:
            break
    assert made.phase is Phase.PAUSED
    assert made.control.run(PATIENCE, None).reason == "halt"
    assert made.port.written == [0, 1, 2, 3, 4]


def test_the_body_of_the_loop_may_end_the_run(alone, scripted):
    made = alone(*(scripted.out(0x10, n) for n in range(5)), EXIT_HLT)
    seen = []
    for event in made.control.steps(PATIENCE, None):
        seen.append(event)
        if isinstance(event, Exit) and event.value == 1:
            made.control.state.end(Ending("stopped"))
    assert [event.value for event in seen[:-1]] == [0, 1]
    assert seen[-1].reason == "stopped"


def test_a_device_fault_comes_out_of_the_iteration(alone, scripted):
    made = alone(scripted.out(0x10, 1), scripted.out(0x10, 0), on_write=lambda value: 1 / value)
    steps = made.control.steps(PATIENCE, None)
    assert next(steps).value == 1
    with pytest.raises(DeviceFault):
        next(steps)
    assert made.phase is Phase.FAILED
