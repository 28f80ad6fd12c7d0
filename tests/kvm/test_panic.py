"""A guest's kernel that panics and says so to pvpanic: guests of a few instructions, by the entry
of Linux, which are the ones that have the port."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import vmm
from tests.kvm.test_linux_start import LOAD, bzimage

pytestmark = pytest.mark.kvm

REASON = "Kernel panic - not syncing: Attempted to kill init!\n"
SAY = """
    lea rsi, [rip + words]
1:  lodsb; test al, al; jz 2f; out 0xe9, al; jmp 1b
2:
"""
WORDS = f'words: .asciz "{REASON[:-1]}\\n"'
PANIC = """
    mov dx, 0x505; in al, dx; add al, '0'; out 0xe9, al
    mov al, 1; out dx, al
    mov al, '!'; out 0xe9, al
    mov dx, 0x604; mov ax, 0x2000; out dx, ax
    hlt
"""
CRASH_KERNEL = """
    mov dx, 0x505; mov al, 2; out dx, al
    mov al, '!'; out 0xe9, al
1:  jmp 1b
"""


@pytest.fixture
def kernel(guest_asm):
    def make(source: str, rest: str = "") -> bytes:
        code = guest_asm(f"{source}\n{rest}", "flat64", address=LOAD + 0x200)
        return bzimage(b"\xf4", code)

    return make


def test_a_panic_ends_the_run_with_what_the_kernel_said(boot, kernel) -> None:
    """At once: nothing that is behind the report is executed."""
    machine = boot(kernel(SAY + PANIC, WORDS))
    result = machine.run(timeout=20)
    assert (result.reason, result.status, result.died) == ("panic", 6, True)
    assert result.detail == "Attempted to kill init!"
    assert result.summary().startswith("the guest's kernel panicked after ")
    assert machine.console.text == REASON + "3"
    text = " ".join(result.report().split())
    assert text.startswith("guest died: its kernel panicked at 000000000100")
    assert "it says 'Attempted to kill init!'" in text
    assert "IO out 0x505 1b 0x1 pvpanic EVENT = PANICKED" in text


def test_a_kernel_whose_console_is_silent(boot, kernel) -> None:
    result = boot(kernel(PANIC)).run(timeout=20)
    assert (result.reason, result.detail) == ("panic", "")
    assert "why is not on its console" in " ".join(result.report().split())


def test_a_crash_kernel_is_let_go_on(boot, kernel) -> None:
    """It is noted, on another thread, and the guest runs until who hears of it ends the run."""
    machine = boot(kernel(CRASH_KERNEL))
    told: list[str] = []
    machine.notes.takers.append(lambda text: (told.append(text), machine.stop()))
    result = machine.run(timeout=20)
    assert (result.reason, machine.console.text) == ("stopped", "!")
    assert told == ["the guest's kernel panicked; its crash kernel takes over"]


def test_whoever_is_asked_about_deaths_is_asked_about_this_one(boot, kernel) -> None:
    """GDB holds the guest where it panicked; here it is let go on."""
    machine = boot(kernel(PANIC))
    asked: list[str] = []

    def keep(ending) -> bool:
        asked.append(machine.result_of(ending).report())
        return True

    machine.on_death = keep
    assert machine.run(timeout=20).reason == "poweroff"
    (report,) = asked
    assert "IO out 0x505 1b 0x1 pvpanic EVENT = PANICKED" in report, "the access is complete"


def test_a_machine_of_a_snapshot_has_the_port_as_well(boot, kernel) -> None:
    machine = boot(kernel(PANIC))
    with machine.snapshot() as snapshot, vmm.restore(snapshot) as one, machine.fork() as other:
        for copy in (one, other, machine):
            assert copy.run(timeout=20).reason == "panic"


def test_who_was_not_told_of_the_port_does_not_find_it(boot, kernel) -> None:
    image = kernel(PANIC)
    for machine in (boot(image, irqchip=False), boot("payload:hello32", irqchip=True)):
        assert machine.pio.name_at(0x505) == "nobody"


@pytest.mark.command
def test_the_command_says_it_and_does_not_start_it_again(kernel, tmp_path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(kernel(SAY + PANIC, WORDS))
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "run", str(image), "--reboot", "--explain-json", "-"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6
    assert done.stdout == REASON + "3"
    assert "vmm: guest died: its kernel panicked at 000000000100" in done.stderr
    assert "starts again" not in done.stderr
    found = json.loads(done.stderr[done.stderr.index("{") : done.stderr.rindex("}") + 1])
    assert found["cause"] == "it says 'Attempted to kill init!'"
