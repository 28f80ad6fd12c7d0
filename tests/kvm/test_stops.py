"""Guests that are stopped at an exit, and go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from vmm.breakpoint_kinds import kinds_here
from vmm.lifecycle import Phase
from vmm.symbols import Symbols

pytestmark = pytest.mark.kvm


@pytest.fixture
def traps_breakpoints(slow_host: bool) -> None:
    """What natively has to work, and on some versions of QEMU does not."""
    if slow_host and not kinds_here():
        pytest.skip(
            "this QEMU's AMD-V traps no breakpoints: it takes INT3 for a software interrupt, whose "
            "intercept is another one, and its VMRUN does not arm what DR7 enables"
        )


ROOT = Path(__file__).parents[2]

# 0x1000  b0 01     mov al, 1
# 0x1002  e6 10     out 0x10, al     <- again
# 0x1004  fe c0     inc al
# 0x1006  e4 11     in al, 0x11      (answers what was written, and one)
# 0x1008  eb f8     jmp again
LOOP = "b001 e610 fec0 e411 ebf8"


@pytest.fixture
def loop(machine):
    """A guest that writes 1, 2, 3... to port 0x10; what it wrote."""
    written = []

    def make(**options):
        m = machine(LOOP, **options)
        m.on_out(0x10)(lambda value, size: written.append(value))
        m.on_in(0x11)(lambda size: written[-1] + 1)
        return m, written

    return make


def test_the_guest_stands_behind_the_access_and_goes_on(loop):
    m, written = loop()
    m.trace.stop_at("port=0x10,value=3")
    result = m.run(timeout=60)
    assert result.reason == "stopped"
    assert result.detail == "port=0x10,value=3: vCPU 0, IO out 0x10 1b 0x3 function at 0x10"
    assert written == [1, 2, 3]
    assert m.regs.rip == 0x1004
    assert m.run(max_exits=1).reason == "max_exits"  # the read of port 0x11
    assert m.regs.rip == 0x1008
    assert m.regs.rax & 0xFF == 4


def test_a_read_is_given_before_the_guest_is_looked_at(loop):
    m, _ = loop()
    m.trace.stop_at("port=0x11,exits=5")
    assert m.run(timeout=60).reason == "stopped"
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1008, 6)
    assert m.run(timeout=60).reason == "stopped"
    assert m.regs.rax & 0xFF == 11


@pytest.mark.parametrize(
    "condition", ["reason=IO,exits=4", "exits=4", "write,exits=2", "slower=1ns"]
)
def test_conditions_of_every_kind_stop(loop, condition):
    m, _ = loop()
    stop = m.trace.stop_at(condition)
    result = m.run(timeout=60)
    assert (result.reason, result.detail.partition(":")[0]) == ("stopped", condition)
    stop.remove()
    assert m.run(max_exits=20).reason == "max_exits"


def test_an_exit_at_an_instruction(loop):
    m, written = loop()
    m.trace.stop_at("rip=0x1002-0x1005,write,exits=2")
    result = m.run(timeout=60)
    assert result.reason == "stopped"
    assert ", RIP 0x100" in result.detail
    assert written == [1, 2]


@pytest.mark.usefixtures("traps_breakpoints")
@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_a_breakpoint_stops_before_the_instruction_each_time(machine, mode):
    m = machine(LOOP, mode)
    m.on_in(0x11)(lambda size: 0x40)
    m.trace.stop_at("rip=0x1008")
    for n in range(3):
        result = m.run(timeout=60)
        assert (result.reason, result.detail) == ("stopped", "rip=0x1008: vCPU 0, RIP 0x1008")
        assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1008, 0x40)
        writes = [event for event in m.vcpus[0].last_exits() if event.write]
        assert len(writes) == n + 1


@pytest.mark.usefixtures("traps_breakpoints")
def test_a_breakpoint_at_a_symbol_counts_and_goes(machine):
    m = machine(LOOP)
    m.on_in(0x11)(lambda size: 0x40)
    m.symbol_source = lambda: Symbols.load(b"00001002 T again\n00001008 T back\n")
    stop = m.trace.stop_at("rip=again+4,exits=3")
    assert m.run(timeout=60).detail == "rip=again+4,exits=3: vCPU 0, RIP 0x1006 (again+0x4)"
    assert [e.name for e in m.vcpus[0].last_exits() if e.name == "IO"] == ["IO"] * 5
    assert m.step() is not None  # the read at the breakpoint
    assert m.regs.rip == 0x1008
    assert m.run(timeout=60).reason == "stopped"
    stop.remove()
    assert m.run(max_exits=50).reason == "max_exits"
    assert not len(m.breakpoints)


@pytest.mark.usefixtures("traps_breakpoints")
def test_a_breakpoint_on_several_processors(boot):
    m = boot("payload:smp")
    entry = m.plan.start.entry
    m.trace.stop_at(f"rip={entry:#x}")
    result = m.run(timeout=60)
    assert (result.reason, result.vcpu, m.regs.rip) == ("stopped", 0, entry)
    assert m.run(timeout=60).reason == "debug_exit"
    assert b"0 1 2 3 all up" in m.console.output


@pytest.mark.usefixtures("traps_breakpoints")
def test_a_breakpoint_may_pause_and_is_changed_only_then(machine, background, until):
    m = machine(LOOP)
    m.on_in(0x11)(lambda size: 0x40)
    m.pause_at_stops = True
    stop = m.trace.stop_at("rip=0x1004")
    run = background(lambda: m.run(timeout=60))
    until(lambda: m.phase is Phase.PAUSED)
    assert m.regs.rip == 0x1004
    m.resume()
    until(lambda: m.phase is Phase.PAUSED and m.regs.rip == 0x1004)
    stop.remove()
    before = m.vcpus[0].ring.exits
    m.resume()
    until(lambda: m.vcpus[0].ring.exits > before + 20)
    with pytest.raises(vmm.LifecycleError, match="stands still; pause it"):
        m.trace.stop_at("rip=0x1004")
    m.stop()
    assert run.result().reason == "stopped"


def test_a_breakpoint_stops_or_is_refused(machine):
    m = machine(LOOP)
    m.on_in(0x11)(lambda size: 0x40)
    if kinds_here() - {"watch"}:
        m.trace.stop_at("rip=0x1008")
        assert m.run(timeout=60, max_exits=100).reason == "stopped"
    else:
        with pytest.raises(vmm.ConfigError, match="0x1008: neither INT3 nor a debug register"):
            m.trace.stop_at("rip=0x1008")
        assert m.run(max_exits=100).reason == "max_exits"


def test_a_watchpoint_stops_or_is_refused(machine):
    m = machine("b005 a20030 b006 f4")  # mov al, 5; mov [0x3000], al; mov al, 6; hlt

    def hit(vcpu, address):
        hits.append((vcpu, address, m.memory.read(0x3000, 1)))
        m.stop()

    hits = []
    if "watch" in kinds_here():
        m.breakpoints.watch(0x3000, 1, hit)
        assert m.run(timeout=60).reason == "stopped"
        assert (hits, m.regs.rip) == ([(0, 0x3000, b"\5")], 0x1005)
    else:
        with pytest.raises(vmm.ConfigError, match="0x3000: no debug register stops a guest"):
            m.breakpoints.watch(0x3000, 1, hit)
        assert m.run(timeout=60).reason == "halt"


def test_a_breakpoint_is_at_one_address(machine):
    m = machine(LOOP)
    with pytest.raises(vmm.ConfigError, match="a breakpoint has one address; exits in a range"):
        m.trace.stop_at("rip=0x1000-0x1008")


def test_a_handler_that_is_slow(machine):
    import time

    m = machine(LOOP)
    m.on_out(0x10)(lambda value, size: time.sleep(0.3) if value == 3 else None)
    m.on_in(0x11)(lambda size: m.vcpus[0].ring.exits // 2 + 2)
    m.trace.stop_at("slower=250ms,value=3")
    assert "0x10 1b 0x3" in m.run(timeout=60).detail


def test_one_of_several_processors_stops_all(boot):
    m = boot("payload:smp")
    m.trace.stop_at("exits=2")
    result = m.run(timeout=60)
    assert result.reason == "stopped"
    assert f"exits=2: vCPU {result.vcpu}, " in result.detail
    assert m.phase is Phase.PAUSED


def test_a_stop_may_pause_instead(loop, background, until):
    m, written = loop()
    m.pause_at_stops = True
    phases = []

    class Tracer:
        def on_state(self, phase):
            phases.append(phase)

    m.trace.attach(Tracer)
    stop = m.trace.stop_at("port=0x10,value=3")
    run = background(lambda: m.run(timeout=60))
    until(lambda: m.phase is Phase.PAUSED)
    until(lambda: phases == [Phase.RUNNING, Phase.PAUSED])  # told while it is paused
    assert written == [1, 2, 3]
    assert m.held_by.startswith("port=0x10,value=3: vCPU 0, IO out 0x10 1b 0x3")
    assert m.regs.rip == 0x1004
    stop.remove()
    m.resume()
    until(lambda: len(written) > 50)
    m.stop()
    assert run.result().reason == "stopped"


def test_a_run_may_begin_held(loop, background, until):
    m, written = loop()

    def begin() -> None:
        before = len(written)
        run = background(lambda: m.run(timeout=60, held=True))
        until(lambda: m.phase is Phase.PAUSED and m.pause(60))
        assert len(written) == before
        assert m.last_result is None
        m.resume()
        until(lambda: len(written) > before + 10)
        m.stop()
        assert run.result().reason == "stopped"

    begin()
    begin()


def test_an_iteration_over_exits_ends_at_a_stop(loop):
    m, _ = loop()
    m.trace.stop_at("port=0x10,value=2")
    assert [event.address for event in m.exits(timeout=60)] == [0x10, 0x11, 0x10]
    assert m.last_result.reason == "stopped"


# -- the command ------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        input="hiq",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=150,
        check=False,
    )


@pytest.mark.command
def test_the_command_ends_at_the_first_match():
    done = command(
        *("run", "payload:serial_echo", "--stop-at", "reg=com1.THR=0x48", "--timeout", "60"),
        *("--stop-at", "device=com1,value=0x01000000"),
    )
    assert done.returncode == 130
    assert done.stdout.split() == ["echo,", "q", "quits", "H"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("vmm: the run was stopped after ")
    assert line.endswith(": reg=com1.THR=0x48: vCPU 0, IO out 0x3f8 1b 0x48 'H' com1 THR = 0x48")


@pytest.mark.command
def test_the_command_keeps_what_is_asked_for(tmp_path):
    path = tmp_path / "run.vtrace"
    done = command(
        *("run", "payload:serial_echo", "--timeout", "60", "--trace", str(path)),
        *("--trace-only", "reg=com1.THR"),
    )
    trace = vmm.trace.load(path)
    assert bytes(event.value for event in trace).decode().split() == done.stdout.split()
    assert (trace.notes, trace.lost) == ([], 0)


@pytest.mark.command
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stop-at", "prot=1"], "condition prot=1: 'prot=1' is no term; there are port,"),
        (["--stop-at", "device=com7"], "there is no device com7; there are "),
        (["--trace-only", "write"], "--trace-only: no file gets the exits; add --trace FILE"),
    ],
)
def test_what_the_command_refuses(options, words):
    done = command("run", "payload:serial_echo", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
