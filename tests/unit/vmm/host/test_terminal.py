"""The terminal of a run, on a pseudo-terminal: modes, keys, signals, and how a run is ended."""

from __future__ import annotations

import os
import pty
import select
import signal
import termios
import threading

import pytest

from vmm.host.console import Console
from vmm.host.events import HostEvents
from vmm.host.terminal import Terminal

WAIT_S = 30


class Run:
    """What a terminal is connected to, and what it asks for."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.events = HostEvents(self.failures.append)
        self.console = Console()
        self.ended = threading.Event()
        self.paused = threading.Event()

    def terminal(self, stdin: int, stdout: int) -> Terminal:
        return Terminal(
            self.events,
            self.console,
            end=self.ended.set,
            hold=lambda: None,
            go_on=lambda: None,
            pause=self.paused.set,
            stdin=stdin,
            stdout=stdout,
        )


@pytest.fixture
def run():
    made = Run()
    yield made
    made.events.close()
    assert made.failures == []


@pytest.fixture
def tty():
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def read(fd: int, wanted: bytes) -> None:
    got = b""
    while wanted not in got:
        assert select.select([fd], [], [], WAIT_S)[0], got
        got += os.read(fd, 4096)


def test_a_terminal_is_raw_inside_and_as_before_outside(run, tty):
    _, slave = tty
    before = termios.tcgetattr(slave)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)]
    with run.terminal(slave, slave) as terminal:
        assert terminal.interactive
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert termios.tcgetattr(slave) == before
    assert handlers == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)
    ]
    terminal.restore()


def test_it_is_restored_when_something_raises(run, tty):
    _, slave = tty
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), run.terminal(slave, slave):
        raise RuntimeError
    assert termios.tcgetattr(slave) == before


def test_keys_reach_the_console(run, tty):
    master, slave = tty
    with run.terminal(slave, slave):
        os.write(master, b"k\x1a")
        assert [run.console.get(WAIT_S), run.console.get(WAIT_S)] == [ord("k"), 0x1A]
    assert not run.ended.is_set()


def test_the_escape_ends_the_run_and_shows_help(run, tty):
    master, slave = tty
    with run.terminal(slave, slave):
        os.write(master, b"\x01h")
        read(master, b"\r\nCtrl-A x        end the run\r\n")
        os.write(master, b"\x01x")
        assert run.ended.wait(WAIT_S)


def test_the_escape_pauses(run, tty):
    master, slave = tty
    with run.terminal(slave, slave):
        os.write(master, b"\x01p")
        assert run.paused.wait(WAIT_S)
    assert not run.ended.is_set()


def test_it_can_be_lent_and_comes_back(run, tty):
    master, slave = tty
    before = termios.tcgetattr(slave)
    with run.terminal(slave, slave) as terminal:
        raw = termios.tcgetattr(slave)
        terminal.output.write(b"first")
        with terminal.lent():
            assert termios.tcgetattr(slave) == before
            read(master, b"first")
            os.kill(os.getpid(), signal.SIGCONT)  # does not make it raw
            os.write(master, b"mine\n")
            assert os.read(slave, 64) == b"mine\n"
            assert termios.tcgetattr(slave) == before
        assert termios.tcgetattr(slave) == raw
        os.write(master, b"k")
        assert run.console.get(WAIT_S) == ord("k")
        assert run.console.get(0) is None
    assert termios.tcgetattr(slave) == before


def test_ctrl_c_goes_to_whoever_listens(run, tty):
    master, slave = tty
    with run.terminal(slave, slave):
        assert run.console.get(0) is None  # the guest asks for input
        os.write(master, b"\x03")
        assert run.console.get(WAIT_S) == 3
        assert not run.ended.is_set()
        os.write(master, b"x")
        while not run.console.waiting:
            threading.Event().wait(0.01)
        os.write(master, b"\x03")  # and does not read any more
        assert run.ended.wait(WAIT_S)


def test_a_signal_ends_the_run_and_is_remembered(run, tty):
    _, slave = tty
    with run.terminal(slave, slave) as terminal:
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.ended.is_set()
    assert terminal.signal == signal.SIGTERM


def test_a_signal_that_was_ignored_stays_ignored(run, tty):
    _, slave = tty
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with run.terminal(slave, slave):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not run.ended.is_set()


def test_a_pipe_is_passed_through_and_its_end_ends_nothing(run):
    (here, there), (out, into) = os.pipe(), os.pipe()
    with run.terminal(here, into) as terminal:
        assert not terminal.interactive
        os.write(there, b"\x01x\x03")
        os.close(there)
        assert [run.console.get(WAIT_S) for _ in range(3)] == [1, ord("x"), 3]
        terminal.output.write(b"a\nb")
    assert os.read(out, 100) == b"a\nb"
    assert not run.ended.is_set()
    for fd in (here, out, into):
        os.close(fd)


def test_a_reader_that_left_ends_the_run(run):
    out, into = os.pipe()
    os.close(out)
    null = os.open(os.devnull, os.O_RDONLY)
    with run.terminal(null, into) as terminal:
        terminal.output.write(b"x" * 5000)
        assert run.ended.is_set()
    assert isinstance(terminal.output_error, BrokenPipeError)
    os.close(into)
    os.close(null)
