"""Bounding, stopping, pausing, interrupting and stepping a guest on KVM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

import vmm
from vmm.errors import ExitStatus
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm

SPIN = "c606000501 ebfe"  # mov byte [0x500], 1; jmp .
COUNT = "fe060005 ebfa"  # inc byte [0x500]; jmp: a loop without exits that can be watched
OUT = "e610 40 ebfb"  # out 0x10, al; inc ax; jmp


@pytest.fixture
def runs(until):
    """Wait until a guest in COUNT or SPIN is seen to run."""

    def wait(machine):
        before = machine.memory.read(0x500, 1)
        until(lambda: machine.memory.read(0x500, 1) != before)

    return wait


# -- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "cpl"), [("real", 0), ("long", 0), ("long", 3)])
def test_a_timeout_in_a_loop_without_exits(machine, mode, cpl):
    m = machine("ebfe", mode, cpl=cpl)
    result = m.run(timeout=0.1)
    assert (result.reason, result.exits, result.status) == ("timeout", 0, ExitStatus.TIMEOUT)
    assert result.seconds >= 0.1
    assert m.regs.rip == 0x1000
    assert m.run(timeout=0.05).reason == "timeout"


def test_a_timeout_between_exits(machine):
    result = machine(OUT).run(timeout=0.1)
    assert result.reason == "timeout"
    assert result.exits > 0


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_the_number_of_exits_is_exact(machine, count):
    m, written = machine(OUT), []
    m.on_out(0x10)(lambda value, size: written.append(value))
    for _ in range(2):
        result = m.run(timeout=20, max_exits=count)
        assert (result.reason, result.exits) == ("max_exits", count)
    assert written == [n & 0xFF for n in range(2 * count)]


def test_counting_exits_changes_nothing(machine):
    m = machine(OUT)
    counts = m.count_exits()
    assert m.run(timeout=20, max_exits=150).exits == 150
    assert counts.by_address == {(2, 0x10, True): 150}


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [COUNT, OUT + "90"])
def test_another_thread_stops_it(machine, background, until, code):
    m = machine(code)
    m.on_out(0x10)(lambda value, size: m.memory.write(0x500, b"\x01"))
    run = background(lambda: m.run(timeout=20))
    until(lambda: m.memory.read(0x500, 1) != b"\0")
    m.stop()
    result = run.result()
    assert (result.reason, result.status) == ("stopped", ExitStatus.INTERRUPTED)
    assert m.phase is Phase.PAUSED
    assert m.run(timeout=0.05).reason == "timeout"


def test_a_function_stops_it(machine):
    m, written = machine(OUT), []

    @m.on_out(0x10)
    def port(value: int, size: int) -> None:
        written.append(value)
        if value == 5:
            m.stop()

    result = m.run(timeout=20)
    assert (result.reason, result.exits) == ("stopped", 6)
    assert written == [0, 1, 2, 3, 4, 5]


def test_stopping_many_times(machine, background, runs):
    m = machine(COUNT)
    for _ in range(20):
        run = background(lambda: m.run(timeout=20))
        runs(m)
        m.stop()
        assert run.result().reason == "stopped"


def test_a_machine_runs_on_any_thread(machine, background):
    m = machine("b007 e6f4 f4")
    assert background(lambda: m.run(timeout=20)).result().value == 7
    assert m.run(timeout=20).reason == "halt"


def test_a_running_machine_refuses_what_needs_it_to_stand(machine, background, runs):
    m = machine(COUNT)
    run = background(lambda: m.run(timeout=20))
    runs(m)
    for use in (lambda: m.regs.rip, lambda: m.sregs, lambda: m.run(), lambda: m.start_at(0x1000)):
        with pytest.raises(vmm.LifecycleError):
            use()
    m.stop()
    assert run.result().reason == "stopped"


# -- pausing ----------------------------------------------------------------------------------


def test_a_pause_shows_and_changes_registers_and_memory(machine, background, runs):
    # inc byte [0x500]; cmp cx, 0x1234; jne; mov al, 7; out 0xF4, al
    m = machine("fe060005 81f93412 75f6 b007 e6f4")
    run = background(lambda: m.run(timeout=20))
    runs(m)
    m.pause()
    assert m.phase is Phase.PAUSED
    assert 0x1000 <= m.regs.rip < 0x100A
    memory = m.memory.read(0x500, 1)
    assert m.memory.read(0x500, 1) == memory
    m.regs.rcx = 0x1234
    m.resume()
    result = run.result()
    assert (result.reason, result.value) == ("debug_exit", 7)


def test_pausing_many_times(machine, background, runs):
    m = machine(COUNT)
    run = background(lambda: m.run(timeout=60))
    for _ in range(20):
        runs(m)
        m.pause()
        first = m.memory.read(0x500, 1), m.regs.rip
        assert (m.memory.read(0x500, 1), m.regs.rip) == first
        m.resume()
    m.stop()
    assert run.result().reason == "stopped"


def test_pausing_between_exits_finishes_the_read(machine, background, until):
    m = machine("e410 e611 ebfa")  # in al, 0x10; out 0x11, al; jmp
    given, written = [], []
    m.on_in(0x10)(lambda: given.append(len(given) & 0xFF) or given[-1])
    m.on_out(0x11)(lambda value, size: written.append(value))
    run = background(lambda: m.run(timeout=60))
    for round in range(1, 6):
        until(lambda round=round: len(written) > 10 * round)
        m.pause()
        if m.regs.rip == 0x1002:
            assert m.regs.rax & 0xFF == given[-1]
        m.resume()
    m.stop()
    run.result()
    assert written == given[: len(written)]


def test_stopping_while_paused(machine, background, runs):
    m = machine(COUNT)
    run = background(lambda: m.run(timeout=20))
    runs(m)
    m.pause()
    m.stop()
    assert run.result().reason == "stopped"


# -- Ctrl-C -----------------------------------------------------------------------------------


@pytest.fixture
def sigint():
    """Ctrl-C as a program on a terminal has it: a background job begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("code", [COUNT, OUT])
@pytest.mark.parametrize("iterate", [False, True])
def test_ctrl_c_in_an_endless_guest(machine, code, iterate):
    m = machine(code)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _ = list(m.exits(timeout=20)) if iterate else m.run(timeout=20)
    finally:
        timer.join()
    assert m.phase is Phase.PAUSED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # It can run on, from where it was.
    assert 0x1000 <= m.regs.rip < 0x1006
    assert m.run(timeout=0.05).reason == "timeout"


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_while_several_processors_run(boot):
    m = boot("payload:smp", cpus=2)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    m.memory.write(0x10_0004, (3).to_bytes(4, "little"))  # it waits for one that never comes
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            m.run(timeout=20)
    finally:
        timer.join()
    assert m.phase is Phase.PAUSED


# -- exit by exit -----------------------------------------------------------------------------


def test_the_iterator_is_the_same_engine(machine):
    code = "b003 e610 fec8 75fa e411 f4"  # out 0x10 three times; in al, 0x11; hlt
    ran = machine(code).run(timeout=20)
    m = machine(code)
    seen = [(e.name, e.address, e.write, e.value) for e in m.exits(timeout=20)]
    assert seen == [
        ("IO", 0x10, True, 3),
        ("IO", 0x10, True, 2),
        ("IO", 0x10, True, 1),
        ("IO", 0x11, False, 0xFF),
        ("HLT", 0, False, 0),
    ]
    assert (ran.exits, ran.reason) == (5, "halt")
    assert m.last_result.exits == 5
    assert m.last_result.reason == "halt"


def test_an_exit_is_handled_when_it_is_seen(machine):
    m, written = machine(OUT), []
    m.on_out(0x10)(lambda value, size: written.append(value))
    for number, exit in enumerate(m.exits(timeout=20, max_exits=5)):
        assert exit.value == number
        assert written == list(range(number + 1))
        assert m.regs.rip == 0x1002
    assert m.last_result.reason == "max_exits"


def test_registers_may_be_changed_between_exits(machine):
    m = machine("e610 e2fc f4")  # out 0x10; loop; hlt
    m.regs.rcx = 100
    names = []
    for exit in m.exits(timeout=20):
        names.append(exit.name)
        if len(names) == 3:
            m.regs.rcx = 1
    assert names == ["IO", "IO", "IO", "HLT"]


def test_leaving_early_leaves_a_machine_that_goes_on(machine):
    m, written = machine(OUT), []
    m.on_out(0x10)(lambda value, size: written.append(value))
    for exit in m.exits(timeout=20):
        if exit.value == 4:
            break
    assert m.phase is Phase.PAUSED
    assert m.last_result.reason == "stopped"
    assert m.last_result.exits == 5
    assert m.run(timeout=20, max_exits=5).exits == 5
    assert [exit.value for exit in m.exits(timeout=20, max_exits=2)] == [10, 11]
    assert written == list(range(12))


def test_the_iterator_is_bounded_in_time(machine):
    m = machine(SPIN)
    assert list(m.exits(timeout=0.1)) == []
    assert m.last_result.reason == "timeout"


def test_a_stop_between_two_exits(machine):
    m = machine(OUT)
    seen = 0
    for _ in m.exits(timeout=20):
        seen += 1
        if seen == 3:
            m.stop()
    assert (seen, m.last_result.reason) == (3, "stopped")


def test_pausing_what_stands_still_already(machine, background):
    """Between two exits of an iteration the guest stands: a pause must not wait for it."""
    m = machine(OUT)

    def step():
        for exit in m.exits(timeout=20, max_exits=3):
            with contextlib.suppress(vmm.LifecycleError):
                m.pause()
            assert exit.value < 3
            m.resume()

    background(step).result(10)
    assert m.last_result.reason == "max_exits"


def test_ten_runs_are_the_same(machine):
    def trace():
        m = machine("b9 0500 e411 e610 66ef e2f8 f4")
        m.on_in(0x11)(lambda: 0x55)
        return [str(exit) for exit in m.exits(timeout=20)]

    first = trace()
    assert len(first) == 16
    assert all(trace() == first for _ in range(9))


@pytest.mark.parametrize("bound", [0, -1, 1.5])
def test_a_bound_that_is_no_number_of_exits_is_refused(machine, bound):
    with pytest.raises(vmm.ConfigError, match="give a whole number from 1 on"):
        machine("f4").run(max_exits=bound)
