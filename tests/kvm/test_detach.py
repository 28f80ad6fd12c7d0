"""`vmm run --detach` and `vmm console`: a machine by itself, and terminals that come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kvm.on_a_terminal import WAIT_S, OnATerminal

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]

SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "vmm", *sys.argv[1:]])
"""

GATED = """
import os, pathlib, time

here = pathlib.Path(__file__).parent
(here / "came").touch()
while not (here / "go").exists():
    time.sleep(0.01)


class Gated:
    name = "gated"

    def read(self, offset, size):
        return 0

    def write(self, offset, size, value):
        pass

    def reset(self):
        pass
"""
"""A device that takes its time to be made."""


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Attached(OnATerminal):
    """`vmm console` on a terminal of its own."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-c", SHELL, "console", *arguments]
        super().__init__(command, environment, size=(24, 80))


class Host:
    """Where machines are detached and terminals attached, with nothing left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self._attached: list[Attached] = []
        self.processes: set[int] = set()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "vmm", *arguments]

    def vmm(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*arguments),
            input=input,
            capture_output=True,
            env=self.environment,
            timeout=120,
            check=False,
        )

    def detach(self, *arguments: str) -> str:
        done = self.vmm("run", "--detach", *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        name = done.stdout.decode().strip()
        self.processes.add(self.pid(name))
        return name

    def pid(self, name: str) -> int:
        rows = [row.split() for row in self.vmm("ps").stdout.decode().splitlines()[1:]]
        return next(int(row[1]) for row in rows if row[0] == name)

    def attach(self, *arguments: str) -> Attached:
        self._attached.append(Attached(self.environment, *arguments))
        return self._attached[-1]

    def log(self, name: str) -> bytes:
        return (self.folder / f"state/glassvm/{name}.log").read_bytes()

    def close(self) -> None:
        for one in self._attached:
            one.close()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def test_a_machine_by_itself_is_left_and_found_again(host):
    name = host.detach("payload:serial_echo")
    assert name == f"serial_echo-{host.pid(name)}"
    first = host.attach(name)
    first.read_until(b"echo, q quits\r\n")
    assert first.raw
    first.type(b"one")
    first.read_until(b"ONE")
    first.type(b"\x01d")
    assert first.ends() == 0
    assert first.restored
    assert f"\nvmm: detached; {name} runs on".encode() in first.output
    second = host.attach()
    second.read_until(b"echo, q quits\r\nONE")  # what was printed before
    second.type(b"\x03\x01\x01")  # Ctrl-C and Ctrl-A are the guest's
    second.read_until(b"ONE\x03\x01")
    second.type(b"\x01x")
    assert second.ends() == 0
    third = host.attach(name)
    third.read_until(b"ONE")
    third.type(b"q")
    assert third.ends() == 1  # the guest's own status
    assert third.restored
    assert f"\nvmm: {name}: the guest wrote 0x0 to the debug-exit port".encode() in third.output
    until(lambda: not alive(next(iter(host.processes))))
    text = host.log(name)
    assert text.startswith(
        b"echo, q quits\nONE\x03\x01\nvmm: the guest wrote 0x0 to the debug-exit"
    )
    assert text.endswith(b" exits\n")
    assert b"serial_echo" not in host.vmm("ps").stdout


def test_all_that_are_attached_see_and_type(host):
    host.detach("payload:serial_echo", "--name", "m")
    both = [host.attach("m"), host.attach("m")]
    for one in both:
        one.read_until(b"q quits")
    both[0].type(b"a")
    for one in both:
        one.read_until(b"\r\nA")
    both[1].type(b"b")
    for one in both:
        one.read_until(b"\r\nAB")
    done = host.vmm("console", "m", "--all", input=b"cq")
    assert done.stdout == b"echo, q quits\nABC"
    assert done.returncode == 1
    assert [one.ends() for one in both] == [1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_console_that_is_killed_takes_nothing_with_it(host, number):
    host.detach("payload:serial_echo", "--name", "m")
    one = host.attach("m")
    one.read_until(b"q quits")
    one.process.send_signal(number)
    assert one.ends() == -number
    assert one.restored or number == signal.SIGKILL
    assert host.vmm("console", "m", input=b"zq").stdout.endswith(b"Z")


def test_ctrl_c_from_outside_leaves_the_console(host):
    host.detach("payload:serial_echo", "--name", "m")
    one = host.attach("m")
    one.read_until(b"q quits")
    one.process.send_signal(signal.SIGINT)
    assert one.ends() == 130
    assert one.restored
    assert host.vmm("stop", "m").returncode == 0


def test_a_machine_that_is_killed_is_said_to_be_gone(host):
    host.detach("payload:serial_echo", "--name", "m")
    one = host.attach("m")
    one.read_until(b"q quits")
    os.kill(host.pid("m"), signal.SIGKILL)
    assert one.ends() == 2
    assert one.restored
    assert b"vmm: m is gone: its process has ended" in one.output


def test_a_terminal_beside_vmm_run_is_a_console_too(host, tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen(
        host.command("run", "payload:serial_echo", "--name", "m", "--log", str(log)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=host.environment,
    )
    host.processes.add(process.pid)
    assert process.stdout.readline() == b"echo, q quits\n"
    one = host.attach("m")
    one.read_until(b"q quits")
    one.type(b"x")
    one.read_until(b"X")
    assert process.stdout.read(1) == b"X"
    one.type(b"\x01d")
    assert one.ends() == 0
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert errors.startswith(b"vmm: the run was stopped")
    # One log has both, the messages on lines of their own.
    assert log.read_bytes() == b"echo, q quits\nX\n" + errors


def test_a_log_is_added_to(host, tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        assert host.vmm("run", "payload:hello16", "--log", str(log)).returncode == 0
    assert log.read_bytes() == b"Hello from real mode\n" * 2


def test_a_death_in_the_background_is_explained_in_the_log(host):
    done = host.vmm("run", "payload:triple_fault", "--detach", "--name", "m")
    assert (done.returncode, done.stdout) == (0, b"m\n")
    until(lambda: b"chain of faults" in host.log("m"))
    assert host.log("m").startswith(b"vmm: guest died: triple fault")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "nosuch: no such file"),
        (["payload:hello16", "--log", "/no/such"], "--log /no/such: cannot be written: No such"),
        (["payload:hello16", "--name", "a/b"], "'a/b' cannot be a machine's name"),
        (["payload:hello16", "--shell"], "--detach and --shell: a machine without a terminal"),
    ],
)
def test_what_goes_wrong_at_the_start_is_told_here(host, arguments, message):
    done = host.vmm("run", "--detach", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"vmm: {message}")
    assert done.stderr.count(b"\n") == 1


def gated(host: Host) -> tuple[subprocess.Popen[bytes], int]:
    """A start that takes its time: the command, and the process in the background."""
    (host.folder / "gated.py").write_text(GATED)
    device = f"{host.folder / 'gated.py'}:Gated@pio:0x99"
    process = subprocess.Popen(
        host.command("run", "payload:serial_echo", "--detach", "--device", device),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=host.environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until((host.folder / "came").exists)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    host.processes |= {process.pid, int(child)}
    return process, int(child)


def test_ctrl_c_while_it_starts_leaves_nothing_behind(host):
    process, child = gated(host)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()
    assert not alive(child)


def test_a_machine_that_nobody_knows_of_ends(host):
    process, child = gated(host)
    process.kill()
    process.wait()
    (host.folder / "go").touch()
    until(lambda: not alive(child))
    assert host.vmm("ps").stdout.count(b"\n") == 1
    process.communicate()


def test_the_terminal_is_let_go_of(host):
    """Who reads the command's output to its end does not wait for the machine."""
    host.detach("payload:serial_echo", "--name", "m")  # captured: both pipes were closed
    process = host.pid("m")
    fds = {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
    assert not any(name.startswith("pipe:") for name in fds), fds
    assert os.getsid(process) == process
