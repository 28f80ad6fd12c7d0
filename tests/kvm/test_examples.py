"""Every example runs, and shows what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# What each prints, in this order.
SHOWS = {
    "first_guest": ["Hi\n", "halt after 3 exits\n"],
    "exits": [
        "ip=0x1005  cx=3  IO in 0x60 1b 0x4\n",
        "ip=0x1009  cx=3  IO out 0x61 1b 0x8\n",
        "IO out 0x61 1b 0xe\n",
        "ip=0x1009  cx=1  IO out 0x61 1b 0x28 '('\n",
        "HLT\n",
        "the guest halted after 7 exits\n",
    ],
    "cpu_template": [
        "x86-64-v1: cmpxchg16b? no\n",
        "x86-64-v1,+cx16: cmpxchg16b? yes\n",
        "CPU template ours.toml: KVM on this host does not support tbm\n",
    ],
    "snapshots": [
        "it has said 'Hello from'\n",
        "one goes on to halt and says ' long mode\\n'\n",
        "another goes on to halt and says ' long mode\\n'\n",
        "a copy goes on to halt and says ' long mode\\n'\n",
        "it was brought back 1,000 times, and has made 2,0",
    ],
    "fuzz_parser": [
        "steps later the guest dies of b'",
        "which comes down to b'=0/0;':\n",
        '"div dl" divides by',
        "triple fault\n",
    ],
    "my_device": ["the guest halted after 5 exits\n", "= 24464 (mod 65536), status OVERFLOW\n"],
    "virtio_device": [
        "HELLO OVER A VIRTQUEUE\n",
        "|DRIVER_OK|FEATURES_OK|NEEDS_RESET: a buffer that is not in memory\n",
    ],
    "mend_device": [
        "device divider failed at port 0x10: ZeroDivisionError",
        "the guest halted after 5 exits\n",
        "asked for 100 / 7\nasked for 100 / 0\nasked for 100 / 0\n",
        "100 / 7 = 14, 100 / 0 = 10\n",
    ],
    "serial_console": [
        "guest: echo, q quits\n",
        "guest: HELLO OVER COM1\n",
        "the guest wrote 0x0 to the debug-exit port",
    ],
    "from_outside": [
        "IO at 0x10: more than 1,000 exits\n",
        "one exit later the guest has counted 1 further\n",
        "stopped, status 130\n",
    ],
    "hardware_exits": ["hardware exits"],
    "trace_query": [
        "COM1 was sent b'Hello from long mode\\n'\n",
        "and asked 21 times for its line status\n",
        "the first time it was LSR = THRE|TEMT\n",
        "slowest: ",
        "com1: 42 exits\nno device: 1 exits\n",
    ],
    "tracer": [
        "sent b'echo, q quits\\nHI\\r', read LSR ",
        " interrupts; accesses to ",
    ],
    "replay_device": [
        " accesses and ",
        ": identical\n",
        "found: access 3 (exit 3, at ",
        "read of com1 LSR (port 0x3fd): recorded 0x61 = DR|THRE|TEMT, replayed 0x41 = DR|TEMT\n",
    ],
    "boot_sector": ["Hello from sector 0\n", "INT 10h: 21 calls\n", "the guest halted after"],
    "several_cpus": [
        "processors: 0 1 2 3 all up\n",
        "processor 0: ",
        "processor 3: ",
        "the guest wrote 0x0 to the debug-exit port",
    ],
    "sweep": ["256 runs from one snapshot: AL = 0xe2\n"],
    "explain_death": [
        "died: True, status: 6\n\n",
        "no IDT entry for #DE (vector 0)",
        "#DE -> #DF -> triple fault\n",
        "lidt",
    ],
    "explain_hang": [
        "reason: timeout, status: 124\n",
        "cause: it polls port 0x3fd (com1 LSR), which always reads 0x60 (THRE|TEMT): it waits",
        "in al, dx\n",
        "last exit: port 0x3fd (com1 LSR) = THRE|TEMT\n",
    ],
    "testing_a_guest": ["3 passed"],
    "demo": ["Hello from real mode", "Hello from long mode"],
}


# Those that have more to show than fifty lines hold.
LINES = {"demo": 60, "sweep": 60, "fuzz_parser": 120}


def run(name: str, *arguments: str) -> str:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert name == "demo" or done.stderr == ""  # the demo's tables go there
    return done.stdout


@pytest.mark.parametrize("name", SHOWS)
def test_it_runs_and_shows_this(name):
    output = run(name)
    rest = output
    for expected in SHOWS[name]:
        assert expected in rest, output
        rest = rest[rest.index(expected) + len(expected) :]


def test_the_sweep_runs_unchanged_on_dask_and_leaves_nothing_behind(tmp_path, monkeypatch):
    for name in ("TMPDIR", "DASK_CONFIG"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    (shown,) = SHOWS["sweep"]
    assert run("sweep", "--dask") == shown
    assert list((tmp_path / "TMPDIR").iterdir()) == []


def test_the_configuration_runs_and_the_command_line_wins():
    config = EXAMPLES / "vm.toml"
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "run", "--config", str(config), "--cpus", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout == "processors: 0 1 all up\n", done.stderr
    assert "com1" in done.stderr  # the table that the file asks for
    assert "[vm.toml](vm.toml)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_every_example_is_tested_and_listed():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*SHOWS, "linux"}  # which tests/guest/test_linux.py runs
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in names:
        assert f"[{name}.py]({name}.py)" in readme


@pytest.mark.parametrize("name", SHOWS)
def test_it_is_short(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < LINES.get(name, 50)


def test_the_readme_begins_with_the_first_guest():
    """The ten lines in the project's README are the ones that run here."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = (EXAMPLES / "first_guest.py").read_text(encoding="utf-8")
    block = code[code.index("import vmm") : code.index("\n\nprint(")]
    assert block in readme
