"""Progress: a line that is written over at a terminal, and nothing anywhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import termios

from vmm.cli import progress
from vmm.cli.progress import Progress


def all_of(master):
    """What a terminal was sent, which has no other side any more."""
    output = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            output += data
    os.close(master)
    return output


def test_a_pipe_gets_nothing(capsys):
    with Progress("building") as shown:
        shown.say("one")
    assert capsys.readouterr().err == ""
    assert not shown.shown


def test_a_terminal_gets_one_line_that_is_gone_in_the_end(monkeypatch):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 20))
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("building") as shown:
            shown.say("one\ntwo")
            shown.say("something that is longer than a line")
    output = all_of(master)
    assert output == b"\r\x1b[Kbuilding: one two\r\x1b[Kbuilding: something\r\x1b[K"


def test_a_terminal_is_not_kept_busy(monkeypatch):
    master, slave = pty.openpty()
    now = iter([10.0, 10.05, 10.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        shown = Progress("t")
        for text in ("one", "two", "three"):
            shown.say(text)
    output = all_of(master)
    assert output == b"\r\x1b[Kt: one\r\x1b[Kt: three"
