"""`vmm run` on a terminal: raw mode while it runs, the escape, and the terminal back at the end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kvm.on_a_terminal import WAIT_S, OnATerminal

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
SPIN_AFTER_PROMPT = bytes.fromhex("baf803 b03e ee b020 ee ebfe")  # "> " to COM1, then jmp $

SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
job = sys.argv.pop(1)
if job:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setpgid(0, 0)
    if job == "foreground":
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "vmm", *sys.argv[1:]])
"""
"""What a shell does to start a command, as a job of its own or in its own place."""


class Session(OnATerminal):
    """A `vmm` on a terminal of its own."""

    def __init__(self, *arguments: str, stdout: int | None = None, job: str = ""):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SHELL, job, *arguments]
        super().__init__(command, environment, stdout=stdout)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def spin(tmp_path: Path) -> str:
    path = tmp_path / "spin.bin"
    path.write_bytes(SPIN_AFTER_PROMPT)
    return str(path)


@pytest.fixture
def start() -> Iterator[type[Session]]:
    sessions = []

    def make(*arguments: str, **options: object) -> Session:
        sessions.append(Session("run", *arguments, **options))  # type: ignore[arg-type]
        return sessions[-1]

    yield make  # type: ignore[misc]
    for session in sessions:
        session.close()


def test_a_prompt_without_a_newline_shows_and_ctrl_a_x_ends_the_run(start, spin):
    session = start(spin, "--format", "flat16")
    session.read_until(b"> ")
    assert session.raw
    session.type(b"\x01x")
    assert session.ends() == 130
    assert session.restored
    assert b"vmm: the run was stopped" in session.output


def test_ctrl_c_ends_a_guest_that_does_not_read(start, spin):
    session = start(spin, "--format", "flat16")
    session.read_until(b"> ")
    session.type(b"typed and never read\x03")
    assert session.ends() == 130
    assert session.restored


def test_a_guest_that_reads_gets_every_key(start):
    session = start("payload:serial_echo")
    session.read_until(b"q quits\r\n")
    session.type(b"a")  # the guest echoes in upper case
    session.read_until(b"A")  # and so is known to read
    session.type(b"\x03")
    session.read_until(b"A\x03")
    session.type(b"\x1a\x1c\x01\x01")  # Ctrl-Z, Ctrl-\, Ctrl-A
    session.read_until(b"A\x03\x1a\x1c\x01")
    assert session.process.poll() is None
    session.type(b"q")
    assert session.ends() == 1  # the payload's own: 0 written to the debug-exit port
    assert session.restored


def test_help_is_shown_and_the_run_goes_on(start):
    session = start("payload:serial_echo")
    session.read_until(b"q quits")
    session.type(b"\x01h")
    session.read_until(b"All other keys go to the guest.\r\n")
    session.type(b"b")
    session.read_until(b"B")
    session.type(b"\x01\x18")
    assert session.ends() == 130


def test_an_ordinary_end_restores_and_ends_its_line(start, tmp_path):
    path = tmp_path / "prompt.bin"
    path.write_bytes(SPIN_AFTER_PROMPT[:-2] + b"\xf4")
    session = start(str(path), "--format", "flat16", "--debug")
    assert session.ends() == 0
    assert session.restored
    assert b"> \nvmm: the guest halted" in session.output.replace(b"\r\n", b"\n")


def test_a_death_is_told_in_whole_lines(start):
    session = start("payload:triple_fault")
    assert session.ends() == 6
    assert session.restored
    assert b"\nvmm: guest died: triple fault" in b"\n" + session.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_in_good_order(start, spin, number):
    session = start(spin, "--format", "flat16", "--stats")
    session.read_until(b"> ")
    session.process.send_signal(number)
    assert session.ends() == -number
    assert session.restored
    assert f"by {number.name}".encode() in session.output
    assert b"com1" in session.output  # the table of exits is not lost


def test_sigint_from_outside_ends_it(start, spin):
    session = start(spin, "--format", "flat16")
    session.read_until(b"> ")
    session.process.send_signal(signal.SIGINT)
    assert session.ends() == 130
    assert session.restored


def test_a_stopped_job_gives_the_terminal_back_and_takes_it_again(start, spin):
    session = start(spin, "--format", "flat16", job="foreground")
    session.read_until(b"> ")
    job = os.tcgetpgrp(session.master)
    os.killpg(job, signal.SIGTSTP)
    wait_for(lambda: "T (stopped)" in Path(f"/proc/{job}/status").read_text())
    assert session.restored
    os.killpg(job, signal.SIGCONT)
    wait_for(lambda: session.raw)
    session.type(b"\x01x")
    assert session.ends() == 130
    assert session.restored


def test_where_nothing_can_be_stopped_the_terminal_stays_raw(start, spin):
    """The kernel does not stop a process that has no shell to come back to."""
    session = start(spin, "--format", "flat16")
    session.read_until(b"> ")
    session.process.send_signal(signal.SIGTSTP)
    session.type(b"\x01h")
    session.read_until(b"end the run")
    wait_for(lambda: session.raw)
    session.type(b"\x01x")
    assert session.ends() == 130


def test_output_to_a_file_leaves_the_terminal_for_keys(start, spin, tmp_path):
    target = tmp_path / "out.txt"
    with target.open("wb") as file:
        session = start(spin, "--format", "flat16", stdout=file.fileno())
    wait_for(lambda: target.read_bytes() == b"> ")
    assert session.raw
    session.type(b"\x01h")
    session.read_until(b"end the run")
    session.type(b"\x01x")
    assert session.ends() == 130
    assert session.restored
    assert target.read_bytes() == b"> "


def test_in_the_background_the_terminal_is_left_alone(start, spin):
    """As under timeout(1), whose command is a group of its own."""
    session = start(spin, "--format", "flat16", "--timeout", "1", job="background")
    session.read_until(b"> ")
    assert session.restored
    session.type(b"not for vmm")
    assert session.ends() == 124
    assert session.restored
