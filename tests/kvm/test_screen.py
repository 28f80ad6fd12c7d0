"""The screen on a terminal of its own, driven by keys and read back through an emulation of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

IN_LAB = "GLASSVM_LAB" in os.environ
pytestmark = [pytest.mark.kvm, pytest.mark.timeout(1000 if IN_LAB else 400)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 400 if IN_LAB else 120
"""In the lab, which takes 50 s to start the screen where nothing else runs, and longer beside
other work."""
WORD_S = 20
"""How often the lab is told that something is waited for."""
LEAVE_ALTERNATE = b"\x1b[?1049l"
COUNT_UP = bytes.fromhex("40 e680 ebfb")  # inc ax; out 0x80, al; jmp: for ever


class Terminal:
    """A command on a terminal of its own, with what it shows."""

    def __init__(
        self, *arguments: str, size: tuple[int, int] = (120, 40), cwd: Path | None = None
    ) -> None:
        columns, rows = size
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.modes = termios.tcgetattr(self.slave)
        self.raw = b""
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.progress: Callable[[], object] = lambda: None
        """Called now and then while something is waited for."""
        self._told = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmm", *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def collect(self, wait_s: float = 0.0) -> None:
        if time.monotonic() > self._told + WORD_S:
            self._told = time.monotonic()
            self.progress()
        while select.select([self.master], [], [], wait_s)[0]:
            data = os.read(self.master, 65536)
            self.raw += data
            self.stream.feed(data)
            wait_s = 0.0

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def until(self, *wanted: str, gone: str = "", key: str = "") -> None:
        """Wait until all of `wanted` is on the screen and `gone` is not; `key` is typed again
        every few seconds, for what depends on when it is seen."""
        end = time.monotonic() + PATIENCE_S
        again = time.monotonic() + 5
        while not all(part in self.text for part in wanted) or (gone and gone in self.text):
            assert time.monotonic() < end, f"no {wanted} (without {gone!r}) in:\n{self.text}"
            assert self.process.poll() is None, f"it has ended: {self.raw[-2000:]!r}"
            self.collect(0.1)
            if key and time.monotonic() > again:
                self.type(key)
                again = time.monotonic() + 5

    def ends(self) -> int:
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running:\n{self.text}"
            self.collect(0.1)
        self.collect(0.2)
        return self.process.returncode

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.modes and LEAVE_ALTERNATE in self.raw

    def close(self) -> None:
        # Its children as well: they are a session of their own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for control sockets of this test's own; pytest's are too long for their names."""
    with tempfile.TemporaryDirectory(prefix="vmm-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture
def start(runtime: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def make(*arguments: str, **options: Any) -> Terminal:
        made.append(Terminal(*arguments, **options))
        if reporter is not None and IN_LAB:
            # An emulated host that says nothing for long is taken for one that hangs.
            made[-1].progress = lambda: reporter.write(".", flush=True)
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


@pytest.fixture
def loop(tmp_path: Path) -> str:
    path = tmp_path / "loop.bin"
    path.write_bytes(COUNT_UP)
    return str(path)


def test_a_guest_is_watched_paused_stepped_and_typed_to(start):
    """The one of these that the lab runs as well."""
    terminal = start("run", "--tui", "payload:serial_echo")
    terminal.until(
        "1 exits", "5 console", "echo, q quits", "running", "LSR = THRE|TEMT", "THR = 0xa"
    )
    # The console takes every key, and gives them back at Ctrl-A.
    terminal.type("5")
    terminal.until("keys go to the guest")
    terminal.type("hello")
    terminal.until("HELLO")
    terminal.type(b"\x01")
    terminal.until(gone="keys go to the guest")
    terminal.type("?")
    terminal.until("help", "pause the guest; resume it")
    terminal.type(b"\x1b")
    terminal.until(gone="pause the guest; resume it")
    terminal.type(" ")
    terminal.until("paused", "real  ring 0", "rip 0000:")
    terminal.type("f")
    terminal.until("filter the log")
    terminal.type("0x3f8 out\r")
    terminal.until("filter: 0x3f8 out", gone="LSR = DR|THRE|TEMT  ")
    terminal.type("\r")
    terminal.until("the exit", "KVM_EXIT_IO (2)", "com1, at 0x3f8..0x3ff", "code around RIP")
    terminal.type(b"\x1b")
    terminal.until(gone="KVM_EXIT_IO")
    terminal.type("q")
    terminal.until("The guest still runs.")
    terminal.type("e")
    assert terminal.ends() == 130
    assert terminal.restored
    assert b"vmm: the run was stopped" in terminal.raw


@pytest.mark.command
def test_a_paused_guest_goes_exit_by_exit(start, loop):
    terminal = start("run", "--tui", loop, "--format", "flat16")
    terminal.until("running", "POST")
    terminal.type(" ")
    terminal.until("paused")

    def newest() -> str:
        """The last exit's line; nothing while the screen is being drawn."""
        return next((line for line in reversed(terminal.screen.display) if "IO out" in line), "")

    shown = newest()
    terminal.type("s")
    terminal.until("stands behind the next exit")
    terminal.type("s")
    end = time.monotonic() + PATIENCE_S
    # The newest line is that of the exit which was stepped to.
    while newest() in ("", shown):
        assert time.monotonic() < end
        terminal.collect(0.1)
    terminal.until("rip 0000:7c0")
    for _ in range(3):
        (before,) = re.findall(r"rip 0000:7c0\d", terminal.text)
        terminal.type("i")
        # What was shown may be older than where the guest stood: then the step leads back there.
        terminal.until("rip 0000:7c0", gone=before, key="i")
    terminal.type(" ")
    terminal.until("running")


@pytest.mark.command
def test_stops_are_met_set_and_removed(start):
    terminal = start("run", "--tui", "payload:serial_echo", "--stop-at", "reg=com1.THR=0x48")
    terminal.until("echo, q quits")
    terminal.type("5")
    terminal.until("keys go to the guest")
    terminal.type("h")
    terminal.until("paused", "stopped at reg=com1.THR=0x48: vCPU 0, IO out 0x3f8 1b 0x48 'H' com1")
    terminal.type(b"\x01")
    terminal.until(gone="keys go to the guest")
    terminal.type("b")
    terminal.until("it stands at reg=com1.THR=0x48", "1  reg=com1.THR=0x48  met once")
    terminal.type("reg=com1.NO\r")
    terminal.until("com1 has no register NO; it has ")
    terminal.type(b"\x15")  # Ctrl-U: the line away
    terminal.until("port=0x80,write")
    terminal.type("reg=com1.RBR=0x6c\r")
    terminal.until("2  reg=com1.RBR=0x6c  not met yet")
    terminal.type(b"\x1b[3~")  # Delete: the first
    terminal.until(gone="1  reg=com1.THR=0x48")
    terminal.type(b"\x1b")
    terminal.until(gone="Del removes")
    terminal.type(" ")
    terminal.until("running")
    terminal.type("5")
    terminal.until("keys go to the guest")
    terminal.type("hel")
    terminal.until("paused", "stopped at reg=com1.RBR=0x6c: vCPU 0, IO in 0x3f8")
    terminal.type(b"\x01")
    terminal.until(gone="keys go to the guest")
    terminal.type("q")
    terminal.until("The guest still runs.")
    terminal.type("e")
    assert terminal.ends() == 130
    assert terminal.restored


@pytest.mark.command
def test_a_prompt_is_opened_and_the_screen_comes_back(start):
    terminal = start("run", "--tui", "payload:serial_echo")
    terminal.until("echo, q quits", "running")
    terminal.type("f")
    terminal.until("filter the log")
    terminal.type("0x3f8 out\r")
    terminal.until("filter: 0x3f8 out")

    def prompt(line: str, answer: str) -> None:
        terminal.screen.reset()  # it has no alternate screen that would go away
        terminal.type("p")
        terminal.until("Ctrl-D goes back to the screen", ">>>")
        terminal.type(f"{line}\r")
        terminal.until(answer)

    prompt("hex(regs.rip // 0x1000), m.phase.value", "('0x7', 'paused')")
    terminal.screen.reset()
    terminal.type(b"\x04")
    terminal.until("filter: 0x3f8 out", "running", "1 exits")
    # A guest that was held is held when the screen comes back; one that runs has its console.
    terminal.type(" ")
    terminal.until("paused")
    prompt("6 * 111", "666")
    terminal.screen.reset()
    terminal.type(b"\x04")
    terminal.until("filter: 0x3f8 out", "paused", "1 exits")
    # What ends at the prompt has ended.
    prompt("cont()", "cont()")
    terminal.type("q")
    terminal.until("vmm: the guest ")
    terminal.type(b"\x04")
    assert terminal.ends() == 1  # as the guest's own code says
    assert terminal.restored


@pytest.mark.command
def test_a_death_is_looked_at_from_a_prompt(start):
    terminal = start("run", "--tui", "payload:triple_fault")
    terminal.until("how it ended", "triple fault")
    terminal.type(b"\x1b")
    terminal.until("died", gone="how it ended")
    terminal.type("p")
    terminal.until("Ctrl-D leaves", ">>>")
    terminal.type("hex(m.last_result.status)\r")
    terminal.until("'0x6'")
    terminal.type(b"\x04")
    assert terminal.ends() == 6
    assert b"vmm: guest died: triple fault" in terminal.raw


@pytest.mark.command
def test_a_recording_is_saved_and_shown_at_any_moment(start, loop, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    terminal = start("run", "--tui", loop, "--format", "flat16", cwd=folder)
    terminal.until("running", "IO out")
    terminal.type("S")
    terminal.until("saved: ")
    (file,) = folder.iterdir()
    other = start("top", str(file))
    other.until("recording", "IO out", "standing at")
    end = exits_on(other)
    other.type(b"\x1b[D")  # back by a hundredth
    other.until("recording", gone=f"{end} exits")
    other.type(" ")
    other.until(f"{end} exits")  # played to the end
    other.type("q")
    assert other.ends() == 0
    assert terminal.process.poll() is None


@pytest.mark.command
def test_a_death_is_explained_and_its_status_kept(start):
    terminal = start("run", "--tui", "payload:triple_fault")
    terminal.until("how it ended", "triple fault")
    assert terminal.process.poll() is None
    terminal.type(b"\x1b")
    terminal.until("died", gone="how it ended")
    terminal.type("q")
    assert terminal.ends() == 6
    assert terminal.restored
    assert b"vmm: guest died: triple fault" in terminal.raw


@pytest.mark.command
def test_the_guest_goes_on_when_the_screen_is_left(start):
    terminal = start("run", "--tui", "payload:serial_echo")
    terminal.until("echo, q quits")
    terminal.type("q")
    terminal.until("The guest still runs.")
    terminal.type("d")
    end = time.monotonic() + PATIENCE_S
    while LEAVE_ALTERNATE not in terminal.raw:
        assert time.monotonic() < end
        terminal.collect(0.1)
    terminal.raw = b""
    while b"XYZ" not in terminal.raw:
        assert time.monotonic() < end, terminal.raw
        terminal.type("xyz")
        terminal.collect(0.5)
    terminal.type(b"\x01x")
    assert terminal.ends() == 130
    assert termios.tcgetattr(terminal.slave) == terminal.modes


@pytest.mark.command
def test_the_guest_goes_on_when_the_screen_is_killed(start):
    terminal = start("run", "--tui", "payload:serial_echo")
    terminal.until("echo, q quits")
    (screen,) = children(terminal.process.pid)
    os.kill(screen, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_S
    while b"the screen ended with SIGKILL; the guest goes on" not in terminal.raw:
        assert time.monotonic() < end, terminal.raw[-500:]
        terminal.collect(0.1)
    assert LEAVE_ALTERNATE in terminal.raw
    while b"XYZ" not in terminal.raw:
        assert time.monotonic() < end, terminal.raw[-500:]
        terminal.type("xyz")
        terminal.collect(0.5)
    terminal.type(b"\x01x")
    assert terminal.ends() == 130
    assert terminal.restored


@pytest.mark.command
def test_a_signal_ends_both(start):
    terminal = start("run", "--tui", "payload:serial_echo")
    terminal.until("echo, q quits")
    (screen,) = children(terminal.process.pid)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.ends() == -signal.SIGTERM
    assert terminal.restored
    assert not Path(f"/proc/{screen}").exists()


@pytest.mark.command
def test_top_comes_and_goes_and_dies_without_the_guests_notice(start, loop):
    guest = start("run", loop, "--format", "flat16", "--name", "tiny")
    first = start("top")
    first.until("tiny", "running", "POST = ", "IO out")
    first.type("q")
    assert first.ends() == 0
    assert first.restored
    second = start("top", "tiny", size=(80, 24))
    second.until("tiny", "running", "IO out")
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait()
    third = start("top", "tiny", size=(200, 60))
    third.until("tiny", "running", "POST = ")
    before = exits_on(third)
    third.until(gone=before)
    assert guest.process.poll() is None
    # The guest's end is seen, and the reason told.
    guest.process.send_signal(signal.SIGTERM)
    guest.ends()
    third.until("how it ended", "stopped")
    third.type("qq")
    assert third.ends() == 0


@pytest.mark.command
def test_a_terminal_may_change_its_size(start, loop):
    terminal = start("run", "--tui", loop, "--format", "flat16", size=(80, 24))
    terminal.until("running", "1 exits", gone="2 devices")
    for columns, rows in ((200, 60), (40, 12), (120, 40)):
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        terminal.screen.resize(rows, columns)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.collect(0.5)
    terminal.until("1 exits", "2 devices", "4 vCPU", "6 kernel")


@pytest.mark.command
@pytest.mark.parametrize("arguments", [("run", "--tui", "payload:spin"), ("top", "payload:spin")])
def test_without_a_terminal_there_is_one_line(arguments, runtime):
    done = subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vmm: ")
    assert len(done.stderr.splitlines()) == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def exits_on(terminal: Terminal) -> str:
    """How many exits the status bar tells."""
    words = terminal.screen.display[0].split()
    return words[words.index("exits") - 1]
