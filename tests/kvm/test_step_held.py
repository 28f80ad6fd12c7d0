"""One instruction of a guest that is held in a run, as the screen steps it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vmm.errors import LifecycleError
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm

LOOP = "40 e680 ebfb"  # at 0x1000: inc ax; at 0x1001: out 0x80, al; at 0x1003: jmp 0x1000
NEXT = {0x1000: 0x1001, 0x1001: 0x1003, 0x1003: 0x1000}


def test_each_step_is_one_instruction_and_the_run_goes_on(machine, background, until):
    m = machine(LOOP)
    written = []
    m.on_out(0x80)(lambda value, size: written.append(value))
    run = background(lambda: m.run(timeout=60))
    until(lambda: len(written) > 10)
    assert m.pause(30)
    rip = m.vcpus[0].regs.rip
    outs = len(written)
    for _ in range(9):
        m.step_held(0, 30)
        now = m.vcpus[0].regs.rip
        assert now == NEXT[rip]
        rip = now
    assert len(written) == outs + 3
    assert m.phase is Phase.PAUSED
    m.resume()
    until(lambda: len(written) > outs + 20)
    m.stop()
    assert run.result().reason == "stopped"
    # No value was lost or given twice.
    assert all((b - a) & 0xFF == 1 for a, b in pairwise(written))


def test_there_must_be_a_run_that_is_held(machine):
    with pytest.raises(LifecycleError, match="no run that is paused"):
        machine(LOOP).step_held(0, 5)


def test_it_steps_until_something_is_so(machine, background, until):
    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    run = background(lambda: m.run(timeout=60))
    until(lambda: m.vcpus[0].exits > 10)
    assert m.pause(30)
    seen = []

    def there(vcpu):
        seen.append(vcpu.regs.rip)
        return len(seen) == 7

    assert m.step_held(0, 30, until=there)
    assert [NEXT[rip] for rip in seen[:-1]] == seen[1:]
    assert m.vcpus[0].regs.rip == seen[-1]
    m.stop()
    assert run.result().reason == "stopped"


def test_a_run_can_begin_held(machine, background, until):
    m = machine(LOOP)
    m.on_out(0x80)(lambda value, size: None)
    m.hold_runs("debugger", True)
    run = background(lambda: m.run(timeout=60))
    until(lambda: m.phase is Phase.PAUSED)
    assert (m.vcpus[0].exits, m.vcpus[0].regs.rip) == (0, 0x1000)
    m.resume()  # of a hold that is not there
    assert m.phase is Phase.PAUSED
    m.hold_runs("debugger", False)
    m.resume(hold="debugger")
    until(lambda: m.vcpus[0].exits > 10)
    m.stop()
    assert run.result().reason == "stopped"
    again = background(lambda: m.run(timeout=60))
    until(lambda: m.vcpus[0].exits > 100)
    m.stop()
    assert again.result().reason == "stopped"
