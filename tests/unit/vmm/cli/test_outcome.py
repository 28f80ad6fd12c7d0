"""What is said about the end of a run."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from types import SimpleNamespace

import pytest

from vmm.cli.outcome import (
    JsonFile,
    report_fault,
    report_result,
    say_plan,
    show_screen,
)
from vmm.errors import ConfigError
from vmm.exits import Exit
from vmm.layout import MemoryLayout
from vmm.loader.plan import BootPlan, Rom, Start, Write
from vmm.memory import GuestMemory
from vmm.result import RunResult
from vmm.vcpu import DeviceFault

PLAIN = SimpleNamespace(bios=None)


@pytest.mark.parametrize("reason", ["halt", "poweroff", "debug_exit"])
def test_a_good_end_needs_no_words(reason, capsys):
    result = RunResult(reason, 3, value=0)
    report_result(PLAIN, result, 0, debug=False)
    assert capsys.readouterr().err == ""
    report_result(PLAIN, result, 0, debug=True)
    assert capsys.readouterr().err == f"vmm: {result.summary()}\n"


@pytest.mark.parametrize("reason", ["reset", "stopped", "max_exits", "timeout", "shutdown"])
def test_every_other_end_is_told(reason, capsys):
    report_result(PLAIN, RunResult(reason, 1), 0, debug=False)
    assert capsys.readouterr().err == f"vmm: {RunResult(reason, 1).summary()}\n"


def test_the_signal_is_named(capsys):
    report_result(PLAIN, RunResult("stopped", 2), signal.SIGTERM, debug=False)
    assert capsys.readouterr().err == "vmm: the run was stopped after 2 exits by SIGTERM\n"


def test_the_bios_notes_come_last(capsys):
    machine = SimpleNamespace(bios=SimpleNamespace(notes=["one", "two"]))
    report_result(machine, RunResult("halt", 1), 0, debug=False)
    assert capsys.readouterr().err == "vmm: BIOS: one\nvmm: BIOS: two\n"


def test_json_is_refused_before_the_run_and_written_after_it(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        JsonFile("--json", str(tmp_path))
    path = tmp_path / "result.json"
    file = JsonFile("--json", str(path))
    result = RunResult("debug_exit", 7, value=0x10, seconds=0.12345678, vcpu=1, detail="x")
    file.write(result.facts())
    assert json.loads(path.read_text()) == {
        "reason": "debug_exit",
        "status": 0x21,
        "exits": 7,
        "value": 0x10,
        "seconds": 0.123457,
        "vcpu": 1,
        "detail": "x",
        "explanation": None,
    }


def test_json_that_cannot_be_finished_is_told():
    file = JsonFile("--json", "/dev/full")
    with pytest.raises(ConfigError, match="/dev/full: cannot be written: No space left"):
        file.write({})


@pytest.fixture
def memory():
    with closing(GuestMemory(MemoryLayout.for_size(1 << 20))) as made:
        yield made


def draw(memory, row: int, text: str) -> None:
    cells = b"".join(bytes([byte, 7]) for byte in text.encode("cp437"))
    memory.write(0xB8000 + row * 160, cells)


def test_a_screen_that_was_drawn_on_is_shown(memory, capsys):
    draw(memory, 0, "top")
    draw(memory, 2, "  below")
    show_screen(SimpleNamespace(bios=None, memory=memory))
    assert capsys.readouterr().out == "top\n\n  below\n"


def test_an_empty_screen_is_not(memory, capsys):
    show_screen(SimpleNamespace(bios=None, memory=memory))
    with closing(GuestMemory(MemoryLayout.for_size(4096))) as small:
        show_screen(SimpleNamespace(bios=None, memory=small))
    assert capsys.readouterr().out == ""


def test_with_a_bios_only_what_went_past_it_is_shown(capsys):
    bios = SimpleNamespace(screen=["row", ""], drawn_directly=False)
    show_screen(SimpleNamespace(bios=bios))
    assert capsys.readouterr().out == ""
    bios.drawn_directly = True
    show_screen(SimpleNamespace(bios=bios))
    assert capsys.readouterr().out == "row\n"


def test_the_plan_is_told(capsys):
    plan = BootPlan(
        "flat16",
        Start("real", 0x7C00),
        writes=(Write(0x7C00, b"\xf4"),),
        roms=(Rom(0xFFFF_0000, bytes(16)),),
        notes=("a note",),
    )
    memory = SimpleNamespace(size=2 << 20)
    say_plan(SimpleNamespace(plan=plan, vcpus=[1], memory=memory, irqchip=False))
    assert capsys.readouterr().err.splitlines() == [
        "vmm: format flat16, real mode, entry 0x7c00, 1 vCPU, 2048K, irqchip off",
        "vmm: image: 0x1 bytes at 0x7c00",
        "vmm: rom: 0x10 bytes at 0xffff0000, read-only",
        "vmm: a note",
    ]


def test_a_fault_comes_with_the_last_exits(capsys):
    event = Exit(2, address=0x10, size=1, count=1, write=True, value=0x41)
    vcpu = SimpleNamespace(index=0, last_exits=lambda count: [event])
    report_fault(SimpleNamespace(vcpus=[vcpu]), DeviceFault("device x failed"))
    assert capsys.readouterr().err.splitlines() == [
        "vmm: device x failed",
        "last exits:",
        "  vcpu0  IO out 0x10 1b 0x41 'A'",
        "the cause, with a traceback: run again with --debug",
    ]


def test_what_a_guest_was_doing_that_somebody_ended(capsys):
    explanation = SimpleNamespace(sentence=lambda: "it polls", text=lambda: "it polls\n\nregisters")
    result = RunResult("stopped", 2, autopsy=SimpleNamespace(explanation=explanation))
    report_result(PLAIN, result, 0, debug=False)
    report_result(PLAIN, result, signal.SIGTERM, debug=False)
    hint = "--debug shows registers, code, stack and the last exits)"
    assert capsys.readouterr().err == (
        f"vmm: it polls\n  ({hint}\nvmm: it polls\n  (by SIGTERM; {hint}\n"
    )
    report_result(PLAIN, result, 0, debug=True)
    assert capsys.readouterr().err == "vmm: it polls\n\nregisters\n"
    # At a stop that was set, it was wanted: a line says which it was.
    stop = RunResult("stopped", 2, detail="exits=2: vCPU 0")
    report_result(PLAIN, stop, 0, debug=False)
    assert capsys.readouterr().err == "vmm: the run was stopped after 2 exits: exits=2: vCPU 0\n"
