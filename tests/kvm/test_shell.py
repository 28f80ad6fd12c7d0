"""`vmm run --shell`, a user's own device, and the question that is asked where it raises."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
WAIT_S = 60

DEVICE = """
from devices.registers import Register, RegisterDevice, RegisterTable


class Divider(RegisterDevice):
    name = "divider"
    registers = RegisterTable(Register("DIVISOR", 0), Register("QUOTIENT", 1, access="r"))
    asked = 0

    def read_QUOTIENT(self):
        self.asked += 1
        return 8 // self.values["DIVISOR"]
"""

# Divide 8 by 4 and by 0, print both to COM1, halt.
DIVIDE = bytes.fromhex(
    "b004 e610 e411 0430 baf803 ee"  # mov al, 4; out 0x10, al; in al, 0x11; add al, '0'; -> COM1
    "b000 e610 e411 0430 ee"  # the same with 0
    "b00a ee f4"  # newline; hlt
)
SPIN = bytes.fromhex("baf803 b03e ee 40 ebfd")  # "> " to COM1; inc ax for ever

MEND = """#!/bin/sh
# $EDITOR +LINE FILE
test "$1" = +12 || exit 9
sed -i 's/8 \\/\\/ self.values\\["DIVISOR"\\]/8 \\/\\/ (self.values["DIVISOR"] or 1)/' "$2"
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "divider.py").write_text(DEVICE)
    (tmp_path / "divide.bin").write_bytes(DIVIDE)
    (tmp_path / "spin.bin").write_bytes(SPIN)
    mend = tmp_path / "mend"
    mend.write_text(MEND)
    mend.chmod(0o755)
    return tmp_path


def arguments(image, *more, device=True):
    own = ["--device", "divider.py:Divider@pio:0x10"] if device else []
    return [sys.executable, "-m", "vmm", "run", image, "--format", "flat16", *own, *more]


def environment(files):
    return os.environ | {"PYTHONPATH": str(ROOT), "EDITOR": str(files / "mend"), "VISUAL": ""}


def piped(files, lines, image="divide.bin", *more, device=True):
    """Run with lines for the prompt; returns the status, the output and the errors."""
    done = subprocess.run(
        arguments(image, *more, device=device),
        cwd=files,
        env=environment(files),
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


AT_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""What a shell does to start a command."""


class Session:
    """A `vmm` on a terminal of its own."""

    def __init__(self, files, *command):
        self.master, self.slave = pty.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *command],
            cwd=files,
            env=environment(files),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
        )

    def read_until(self, wanted):
        """Take output up to `wanted`, and forget it."""
        end = time.monotonic() + WAIT_S
        while wanted not in self.output:
            assert time.monotonic() < end, f"no {wanted!r} in {self.output!r}"
            assert self.collect(0.2) or self.process.poll() is None, self.output
        before, _, self.output = self.output.partition(wanted)
        return before

    def collect(self, wait_s):
        if not select.select([self.master], [], [], wait_s)[0]:
            return False
        self.output += os.read(self.master, 4096)
        return True

    def type(self, keys):
        os.write(self.master, keys)

    def ends(self):
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running after {self.output!r}"
            self.collect(0.05)
        while self.collect(0):
            pass
        return self.process.returncode

    @property
    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ISIG

    @property
    def restored(self):
        return termios.tcgetattr(self.slave) == self.modes

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def start(files):
    made = []

    def make(*options, **kept):
        made.append(Session(files, *arguments(*options, **kept)))
        return made[-1]

    yield make
    for session in made:
        session.close()


QUESTION = b"[q]uit? "


# -- a device with a bug ----------------------------------------------------------------------


def test_stopped_edited_reloaded_continued(start):
    session = start("divide.bin")
    told = session.read_until(QUESTION)
    assert b"divider failed at port 0x11: ZeroDivisionError" in told
    assert b'divider.py:12 in read_QUOTIENT: return 8 // self.values["DIVISOR"]' in told
    assert b"the guest: IO in 0x11 1b 0x0 divider QUOTIENT = 0x0" in told
    assert not session.raw
    session.type(b"e\n")
    session.read_until(b"divider.py is reloaded; divider keeps its state")
    session.read_until(QUESTION)
    session.type(b"r\n")
    session.read_until(b"8\r\n")
    assert session.ends() == 0
    assert session.restored


def test_what_was_written_before_the_fault_is_seen_before_the_question(start):
    session = start("divide.bin")
    assert session.read_until(b"divider failed").startswith(b"2")


def test_a_skipped_read_gives_ones(start):
    session = start("divide.bin")
    session.read_until(QUESTION)
    session.type(b"s\n")
    session.read_until(b"/\r\n")  # 0xFF + '0', of which a byte is left
    assert session.ends() == 0


@pytest.mark.parametrize("answer", [b"q\n", b"\x03", b"\x04"])
def test_quitting_ends_it_as_a_fault_does(start, answer):
    session = start("divide.bin")
    session.read_until(QUESTION)
    session.type(answer)
    assert session.ends() == 8
    assert b"last exits:" in session.output
    assert session.restored


@pytest.mark.parametrize("answer", [b"s\n", b"\x03"])
def test_one_of_several_processors(start, answer):
    """The question is asked on that processor's thread."""
    session = start("divide.bin", "--cpus", "2", "--irqchip", "on")
    session.read_until(QUESTION)
    session.type(answer)
    if answer == b"\x03":
        assert session.ends() == 8
    else:
        session.read_until(b"/\r\n")
        assert session.ends() == 0
    assert session.restored


def test_a_file_that_does_not_import_leaves_the_old_class(start, files):
    session = start("divide.bin")
    session.read_until(QUESTION)
    (files / "divider.py").write_text("class Divider(:\n")
    session.type(b"l\n")
    session.read_until(b"divider.py:1: SyntaxError: invalid syntax; the old class stays")
    session.read_until(QUESTION)
    session.type(b"r\n")  # it fails as before
    session.read_until(b"divider failed at port 0x11")
    session.read_until(QUESTION)
    session.type(b"what\n")
    session.read_until(b"r, s, e, l, p or q")
    session.type(b"q\n")
    assert session.ends() == 8


def test_a_prompt_in_the_middle_of_an_access(start):
    session = start("divide.bin")
    session.read_until(QUESTION)
    session.type(b"p\n")
    session.read_until(b">>> ")
    session.type(b"print('asked', device.asked, access.address, regs.rax & 0xff)\n")
    session.read_until(b"asked 2 17 0\r\n")
    session.type(b"device.values['DIVISOR'] = 2\n")
    session.read_until(b">>> ")
    session.type(b"\x04")
    session.read_until(QUESTION)
    session.type(b"r\n")
    session.read_until(b"4\r\n")
    assert session.ends() == 0


def test_without_a_terminal_the_run_ends_with_status_8(files):
    status, output, errors = piped(files, ["r"], "divide.bin")
    assert (status, output) == (8, "2")
    assert errors.startswith("vmm: device divider failed at port 0x11: ZeroDivisionError")
    assert "[r]etry" not in output + errors


def test_a_device_that_will_not_do_is_one_line(files):
    (files / "divider.py").write_text("class Divider(:\n")
    status, output, errors = piped(files, [], "divide.bin")
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "divider.py:1: SyntaxError: invalid syntax" in errors


# -- the prompt -------------------------------------------------------------------------------


def test_it_can_be_scripted(files):
    status, output, errors = piped(
        files,
        [
            "where()",
            "step(2)",
            "regs.rax",
            "regs.rbx = 0x1234",
            "step_exit()",
            "hex(regs.rbx)",
            "dis(0x7c00, 2)",
            "hexdump(0x7c00, 4)",
            "walk(0x7c00)",
            "sorted(devices)[:2]",
            "memory.read(0x7c00, 2).hex()",
            "1 / 0",
            "m.step(7)",
            "reload()",
            "cont()",
            "s",
            "where()",
        ],
        "divide.bin",
        "--shell",
    )
    lines = output.splitlines()
    assert lines[:5] == [
        "vCPU 0 at 0000:7c00  b0 04  mov al, 4",
        "IO out 0x10 1b 0x4 divider DIVISOR = 0x4",
        "vCPU 0 at 0000:7c04  e4 11  in al, 0x11",
        "4",
        "IO in 0x11 1b 0x2 divider QUOTIENT = 0x2",
    ]
    assert lines[5] == "'0x1234'"
    assert lines[6].split() == ["0x7c00", "b0", "04", "mov", "al,", "4"]
    assert lines[8].split() == ["0x7c00", "b0", "04", "e6", "10", "...."]
    assert lines[10] == "leads to guest-physical 0x7c00"
    assert "'acpi-pm'" in lines[11]
    assert lines[12] == "'b004'"
    assert lines[13] == "divider.py is reloaded; divider keeps its state"
    assert output.endswith("vmm: the guest halted after 6 exits\n" + lines[-1] + "\n")
    assert "ZeroDivisionError: division by zero" in errors  # of the prompt: with a traceback
    assert "vmm: vCPU 7: the machine has 0 to 0" in errors
    assert status == 0


@pytest.mark.parametrize("lines", [[], ["quit()"], ["step(3)"]])
def test_leaving_a_guest_that_did_not_end_is_stopping_it(files, lines):
    status, _, errors = piped(files, lines, "divide.bin", "--shell")
    assert status == 130
    assert "vmm: the run was stopped after" in errors


def test_the_guests_own_status_is_kept(files):
    (files / "divide.bin").write_bytes(bytes.fromhex("b005 e6f4 f4"))
    status, output, _ = piped(files, ["step(2)"], "divide.bin", "--shell", device=False)
    assert "the guest wrote 0x5 to the debug-exit port" in output
    assert status == 11


def test_a_death_is_explained_at_the_prompt(files):
    status, output, _ = piped(files, ["cont()", "where()"], "payload:triple_fault", "--shell",
                              "--format", "auto", device=False)  # fmt: skip
    assert "vmm: guest died: triple fault" in output
    assert status == 6


def test_quitting_at_the_question_ends_the_prompt_too(files):
    status, output, errors = piped(files, ["cont()", "q", "print('not reached')"], "divide.bin",
                                   "--shell")  # fmt: skip
    assert status == 8
    assert "not reached" not in output
    assert "last exits:" in errors


def test_on_a_terminal(start):
    session = start("spin.bin", "--shell", device=False)
    session.read_until(b"vCPU 0 at 0000:7c00")
    session.read_until(b">>> ")
    session.type(b"reg\t")  # what there is to complete: regs
    session.read_until(b"regs")
    session.type(b".rip\n")
    session.read_until(b"31744")
    session.read_until(b">>> ")
    session.type(b"cont()\n")
    session.read_until(b"cont()\r\n>")  # the guest's
    for _ in range(2):
        session.type(b"\x01p")
        session.read_until(b"vCPU 0 at 0000:7c0")
        session.read_until(b">>> ")
        assert not session.raw
        session.type(b"cont()\n")
        session.read_until(b"cont()\r\n")
        end = time.monotonic() + WAIT_S
        while not session.raw:
            assert time.monotonic() < end
            session.collect(0.01)
    session.type(b"\x03")
    session.read_until(b"vmm: the run was stopped")
    session.read_until(b">>> ")
    session.type(b"\x04")
    assert session.ends() == 130
    assert session.restored


def test_a_key_brings_the_prompt(start):
    session = start("spin.bin", device=False)
    session.read_until(b">")
    session.type(b"\x01h")
    session.read_until(b"Ctrl-A p        pause, with a Python prompt on the machine")
    session.type(b"\x01p")
    session.read_until(b"help() lists what there is")
    session.read_until(b">>> ")
    session.type(b"step(2)\n")
    session.read_until(b"vCPU 0 at 0000:7c0")
    session.read_until(b">>> ")
    session.type(b"help()\n")
    session.read_until(b"quit(), Ctrl-D  leave")
    session.type(b"quit()\n")
    assert session.ends() == 130
    assert session.restored
