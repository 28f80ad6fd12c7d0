"""Logs: in a file, in the journal, and what cannot be written."""

from __future__ import annotations

import os
import socket
import time
from types import SimpleNamespace

import pytest

from vmm.cli import log, messages
from vmm.cli.log import Log, open_log, usual_log
from vmm.errors import ConfigError
from vmm.host.console import Console


class Events:
    """Timers that never come."""

    def call_later(self, seconds, callback):
        pass


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(messages, "outlets", [messages.to_standard_error])
    return SimpleNamespace(console=Console(), events=Events(), closers=[])


def test_a_file_has_the_console_and_the_messages(machine, tmp_path, capsys):
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    machine.console.write(b"early ")
    kept = Log(str(path), "m")
    kept.keep(machine, alone=False)
    machine.console.write(b"out\nprompt> ")
    messages.say("the guest\nhalted")
    messages.say("\udcff")
    machine.console.write(b"more")
    for close in machine.closers:
        close()
    os.close(kept.fd)
    assert path.read_bytes() == (
        b"before\nearly out\nprompt> \nvmm: the guest halted\nvmm: \\udcff\nmore"
    )
    assert capsys.readouterr().err.startswith("vmm: the guest halted\n")


def test_messages_of_one_in_the_background_are_in_the_log_alone(machine, tmp_path, capsys):
    kept = Log(str(tmp_path / "log"), "m")
    kept.keep(machine, alone=True)
    messages.say("hello")
    os.close(kept.fd)
    assert (tmp_path / "log").read_bytes() == b"vmm: hello\n"
    assert capsys.readouterr().err == ""


def test_one_machine_after_another_writes_to_one_log(machine, tmp_path):
    path = tmp_path / "log"
    kept = Log(str(path), "m")
    assert (kept.fd, path.exists()) == (-1, False)
    fds = set()
    for text in (b"first\n", b"second\n"):
        machine.console = Console()
        kept.keep(machine, alone=True)
        fds.add(kept.fd)
        machine.console.write(text)
        messages.say("reset")
    os.close(kept.fd)
    assert len(fds) == 1
    assert path.read_bytes() == b"first\nvmm: reset\nsecond\nvmm: reset\n"


def test_a_full_disk_ends_the_log_and_not_the_run(machine, capsys):
    kept = Log("/dev/full", "m")
    kept.keep(machine, alone=True)
    machine.console.write(b"x" * 5000)
    messages.say("still here")
    os.close(kept.fd)
    assert capsys.readouterr().err == (
        "vmm: --log: No space left on device: the log ends here, and the guest runs on\n"
        "vmm: still here\n"
    )


def test_the_journal_is_spoken_to_as_systemd_cat_does(machine, tmp_path, monkeypatch):
    path = str(tmp_path / "stdout")
    monkeypatch.setattr(log, "_JOURNAL_SOCKET", path)
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(path)
        journal.listen()
        kept = Log("journal", "boot")
        kept.keep(machine, alone=True)
        machine.console.write(b"Hello\n")
        messages.say("the guest halted")
        os.close(kept.fd)
        connection, _ = journal.accept()
        with connection, connection.makefile("rb") as stream:
            assert stream.read() == b"vmm-boot\n\n6\n0\n0\n0\n0\nHello\nvmm: the guest halted\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("/no/such", r"^--log /no/such: cannot be written: No such file or directory$"),
        ("a\0b", r"^--log a.b: cannot be written: embedded null byte$"),
        ("journal", r"cannot be written: .* \(there is no systemd-journald here\)$"),
    ],
)
def test_what_cannot_be_opened_is_one_line(where, message, monkeypatch, tmp_path):
    monkeypatch.setattr(log, "_JOURNAL_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(ConfigError, match=message):
        open_log(where, "m")


def test_the_usual_place_keeps_a_month(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert usual_log("m") == str(tmp_path / "glassvm/m.log")
    old, new = tmp_path / "glassvm/old.log", tmp_path / "glassvm/new.log"
    for path, days in ((old, 31), (new, 29)):
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)
    usual_log("m")
    assert (old.exists(), new.exists()) == (False, True)
    monkeypatch.setenv("XDG_STATE_HOME", str(new))
    with pytest.raises(ConfigError, match="give a file with --log FILE"):
        usual_log("m")
