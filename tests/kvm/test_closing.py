"""Closing a machine: from where it stands, from another thread, and without a trace."""

from __future__ import annotations

import gc
import os
import threading

import pytest

import vmm
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm


# -- closing ----------------------------------------------------------------------------------


def test_a_closed_machine_says_so():
    m = vmm.Machine()
    m.close()
    m.close()
    assert m.phase is Phase.STOPPED
    for use in (
        lambda: m.run(),
        lambda: m.memory,
        lambda: m.regs,
        lambda: m.start_at(0x1000),
        lambda: list(m.exits()),
        lambda: m.irq(4),
    ):
        with pytest.raises(vmm.LifecycleError, match="closed"):
            use()


def test_a_closed_machine_can_be_stopped_paused_and_resumed():
    """As a timer that comes too late does."""
    m = vmm.Machine()
    m.close()
    m.stop()
    m.pause()
    m.resume()


def test_closing_ends_a_run_on_another_thread(machine, background, until):
    m = machine("c606000501 ebfe")  # mov byte [0x500], 1; jmp .
    memory = m.memory
    run = background(lambda: m.run(timeout=20))
    until(lambda: memory.read(0x500, 1) == b"\x01")
    m.close()
    assert run.result().reason == "stopped"
    assert m.phase is Phase.STOPPED


def test_closing_in_the_middle_of_an_iteration(machine):
    m = machine("e610 ebfc")
    exits = m.exits()
    next(exits)
    m.close()
    assert m.phase is Phase.STOPPED
    exits.close()


def test_a_view_that_is_still_held_does_not_keep_the_machine_open():
    m = vmm.Machine()
    view = m.memory.view(0x1000, 4)
    m.close()
    view[:] = b"mine"
    assert bytes(view) == b"mine"


def _held():
    """Descriptors, threads, and mappings of guest memory and vCPU pages."""
    gc.collect()
    with open("/proc/self/maps", encoding="ascii") as file:
        mappings = sum("glassvm" in line or "kvm" in line for line in file)
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mappings


def test_machines_leave_nothing_behind(slow_host):
    def one(number):
        with vmm.Machine(irqchip=number % 10 == 0) as m:
            m.memory.write(0x1000, bytes.fromhex("e610 f4"))
            m.on_out(0x10)(lambda value, size: None)
            m.start_at(0x1000)
            m.regs.rax = 1
            assert m.run(timeout=10).exits >= 1

    one(0)
    before = _held()
    for number in range(40 if slow_host else 200):
        one(number)
    assert _held() == before


def test_two_machines_side_by_side(background):
    def count(step):
        seen = []
        with vmm.Machine() as m:
            m.memory.write(0x1000, bytes.fromhex("e610 0410 fec9 75f8 f4"))  # step of 0x10
            m.memory.write(0x1003, bytes([step]))
            m.on_out(0x10)(lambda value, size: seen.append(value))
            m.start_at(0x1000)
            m.regs.rcx = 200
            result = m.run(timeout=20)
        return result.reason, result.exits, seen

    runs = {step: background(lambda step=step: count(step)) for step in (1, 3)}
    for step, run in runs.items():
        assert run.result() == ("halt", 201, [n * step & 0xFF for n in range(200)])
