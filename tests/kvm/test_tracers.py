"""Tracers and RIP on guests that run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vmm
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).parents[2]

# 0x1000  b0 07     mov al, 7
# 0x1002  e6 10     out 0x10, al
# 0x1004  e5 11     in ax, 0x11
# 0x1006  f4        hlt
ACCESSES = "b007 e610 e511 f4"
ENDLESS = "e610 40 ebfb"  # out 0x10, al; inc ax; jmp


@pytest.mark.parametrize("kind", ["compiled", "ctypes"])
def test_records_have_rip_where_it_is_asked_for(machine, monkeypatch, kind):
    if kind == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    m = machine(ACCESSES, rip=True)
    assert m.trace.rip
    assert m.run(timeout=60).reason == "halt"
    out, into, halt = m.vcpus[0].last_exits()
    assert out.rip in (0x1002, 0x1004)  # at the instruction, or behind it
    assert into.rip in (0x1004, 0x1006)
    assert halt.rip == 0x1007 == m.regs.rip


def test_rip_can_be_asked_for_and_no_more_between_runs(machine):
    m = machine(ENDLESS)
    m.run(max_exits=2)
    m.trace.rip = True
    m.run(max_exits=2)
    m.trace.rip = False
    m.run(max_exits=2)
    asked = [event.rip is not None for event in m.vcpus[0].last_exits()]
    assert asked == [False, False, True, True, False, False]


def test_a_machine_without_a_trace_has_no_rip():
    with pytest.raises(vmm.ConfigError, match="RIP is noted in the trace"):
        vmm.Machine(trace=False, rip=True)


class Serial:
    device = "com1"

    def __init__(self):
        self.sent = bytearray()
        self.lines: list[bool] = []
        self.phases: list[Phase] = []
        self.threads: set[str] = set()

    def w_THR(self, value):
        self.sent.append(value)
        self.threads.add(threading.current_thread().name)

    def on_irq(self, gsi, level):
        assert gsi == 4
        self.lines.append(level)

    def on_state(self, phase):
        self.phases.append(phase)


def test_what_a_guest_sends_is_what_the_tracer_is_told(boot):
    m = boot("payload:serial_echo")
    tracer = m.trace.attach(Serial)
    m.console.send(b"hello\rq")
    assert m.run(timeout=60).reason == "debug_exit"
    assert bytes(tracer.sent) == m.console.output
    assert tracer.lines[:2] == [True, False]
    assert tracer.lines == [True, False] * (len(tracer.lines) // 2)
    assert tracer.phases == [Phase.RUNNING, Phase.PAUSED]
    m.close()
    assert tracer.phases[2:] == [Phase.STOPPED]


def test_a_tracer_of_several_processors_is_told_of_each_exit_once(boot):
    m = boot("payload:smp")

    class Counter:
        busy = 0
        counts = [0] * 16

        def on_exit(self, exit):
            assert not Counter.busy
            Counter.busy = 1
            Counter.counts[exit.vcpu] += 1
            Counter.busy = 0

    m.trace.attach(Counter)
    m.run(timeout=60)
    assert m.trace.tracers, "it raised"
    assert len(m.vcpus) > 1
    assert Counter.counts[: len(m.vcpus)] == [vcpu.exits for vcpu in m.vcpus]


def test_a_tracer_that_raises_does_the_guest_no_harm(machine):
    class Broken:
        def on_pio(self, exit):
            raise RuntimeError("enough")

    m = machine(ACCESSES)
    said: list[str] = []
    m.trace.report = said.append
    m.trace.attach(Broken)
    assert m.run(timeout=60).reason == "halt"
    assert [line.partition(" at ")[0] for line in said] == [
        "tracer Broken is detached: on_pio raised"
    ]


def test_a_tracer_is_attached_and_detached_while_the_guest_runs(machine, background, until):
    class Counter:
        seen = 0

        def on_pio(self, exit):
            self.seen += 1

    m = machine(ENDLESS)
    run = background(lambda: m.run(timeout=60))
    until(lambda: m.phase is Phase.RUNNING)
    tracer = m.trace.attach(Counter)
    until(lambda: tracer.seen > 100)
    m.trace.detach(tracer)
    m.pause()
    seen = tracer.seen
    m.resume()
    before = m.vcpus[0].ring.exits
    until(lambda: m.vcpus[0].ring.exits > before + 100)
    assert tracer.seen == seen
    m.stop()
    assert run.result().reason == "stopped"


# -- the command ------------------------------------------------------------------------------

TRACER = """
class Sent:
    device = "com1"

    def __init__(self, mark, times=1, machine=None):
        self.mark, self.times, self.cpus = mark, times, len(machine.vcpus)
        self.data = bytearray()

    def w_THR(self, value):
        self.data.append(value)

    def on_state(self, phase):
        if phase.value == "stopped":
            print(self.mark * self.times, self.cpus, len(self.data))


class Broken:
    def on_pio(self, exit):
        raise ValueError("enough")
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=150,
        check=False,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TRACER)
    return str(path)


@pytest.mark.command
def test_tracers_of_the_command(file):
    done = command(
        *("run", "payload:hello16", "--timeout", "60", "--rip", "--tracer", f"{file}:Broken"),
        *("--tracer", f"{file}:Sent,mark=*,times=0x3"),
    )
    text, _, count = done.stdout.rpartition("*** 1 ")
    assert done.returncode == 0
    assert int(count) == len(text)
    assert done.stderr.splitlines() == [
        f"vmm: tracer Broken is detached: on_pio raised at {file}:19: ValueError: enough"
    ]


@pytest.mark.command
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("mine.py", "--tracer mine.py: give FILE.py:CLASS[,NAME=VALUE...]"),
        ("{file}:Sent", "missing a required argument: 'mark'; Sent takes mark, times"),
        ("{file}:Sent,mark", "'mark': give NAME=VALUE"),
        ("{file}:Sant", "no class Sant; it has Sent, Broken"),
    ],
)
def test_tracers_that_cannot_be_made(file, option, words):
    done = command("run", "payload:hello16", "--tracer", option.format(file=file))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
