"""The lab's own test: it boots, runs a guest, and brings back what it should.

Not in the default test paths, since each boot takes about ten seconds: `pytest tests/lab`.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import vmm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.timeout(600)


def _argv(tmp_path: Path, *arguments: str) -> list[str]:
    results = str(tmp_path / "results")
    return [
        sys.executable,
        "-m",
        "vmm.lab",
        "--folder",
        str(ROOT),
        "--results",
        results,
        *arguments,
    ]


def _environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(scratch)}


def _lab(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _argv(tmp_path, *arguments),
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def _children(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _nothing_left(tmp_path: Path) -> Sequence[str]:
    return [path.name for path in (tmp_path / "scratch").iterdir()]


def test_a_guest_runs_and_all_comes_back(tmp_path: Path) -> None:
    script = """
        set -e
        test -d /sys/module/kvm_amd && test "$GLASSVM_LAB" = 1
        test -c /dev/kvm && test -c /dev/net/tun && test -c /dev/vhost-net
        cat /sys/module/kvm_amd/parameters/nested
        nproc
        test -f pyproject.toml
        python3 /files/guest.py
        seq 20000 | tee /results/numbers
        echo to stderr >&2
        exit 7
    """
    guest = f"{HERE / 'guest.py'}:guest.py"
    done = _lab(tmp_path, "--file", guest, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    lines = done.stdout.split("\n")
    assert lines[:3] == ["0", "2", "a real-mode guest wrote 'A' to port 0xe9 and halted"]
    assert lines[3:-2] == [str(n) for n in range(1, 20001)]
    assert lines[-2:] == ["to stderr", ""]
    expected = "".join(f"{n}\n" for n in range(1, 20001)).encode()
    brought = (tmp_path / "results/numbers").read_bytes()
    assert hashlib.sha256(brought).digest() == hashlib.sha256(expected).digest()
    assert not _nothing_left(tmp_path)


def test_processors_wake_each_other(tmp_path: Path) -> None:
    """On each one a process that sleeps, and one that only another processor's can wake; and one
    that the real-time clock wakes."""
    script = """if True:
        import os, pathlib, time
        def turns(process):
            lines = (process / "status").read_text().splitlines()
            return int(dict(line.split(":", 1) for line in lines)["voluntary_ctxt_switches"])
        everyone = [one for one in pathlib.Path("/proc").iterdir() if one.name.isdigit()]
        nudges = [
            one for one in everyone
            if "/sbin/lab-steady" in (one / "cmdline").read_text().split(chr(0))
        ]
        before = {one: turns(one) for one in nudges}
        time.sleep(6)
        for one in nudges:
            print(*os.sched_getaffinity(int(one.name)), turns(one) - before[one] >= 3)
    """
    done = _lab(tmp_path, "--", "python3", "-c", script)
    told = sorted(done.stdout.splitlines())
    assert told == ["0 1 True", *["0 True"] * 2, *["1 True"] * 2], done.stderr


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    script = "echo begun; echo part >/results/part; sleep 1000"
    done = _lab(tmp_path, "--timeout", "2", "--", "sh", "-c", script)
    assert done.returncode == 124
    assert done.stdout == "begun\n"
    assert done.stderr.splitlines()[-1] == (
        "lab: the command ran longer than 2 s and was ended (see --timeout)"
    )
    assert (tmp_path / "results/part").read_text() == "part\n"
    assert not _nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("victim", "number", "status", "line"),
    [
        ("lab", signal.SIGINT, 130, "lab: interrupted"),
        ("lab", signal.SIGTERM, 130, "lab: interrupted"),
        ("qemu", signal.SIGABRT, 8, "lab: QEMU was killed by signal 6"),
    ],
)
def test_an_end_before_time_leaves_nothing(
    tmp_path: Path, victim: str, number: signal.Signals, status: int, line: str
) -> None:
    with subprocess.Popen(
        _argv(tmp_path, "--", "sh", "-c", "echo begun; sleep 1000"),
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        (qemu,) = _children(process.pid)
        os.kill(qemu if victim == "qemu" else process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1] == line
    assert not Path(f"/proc/{qemu}").exists()
    assert not _nothing_left(tmp_path)


def test_the_tutorial_s_tests_run_here_too(tmp_path: Path) -> None:
    """docs/testing-a-kernel.md with --kvm-lab, from a folder that is not the project's."""
    page = (ROOT / "docs/testing-a-kernel.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = re.findall(r"^\$ ((?:as|ld) .*)$", page, re.MULTILINE)[:2]
    (given,) = re.findall(r"^(pytest .* --kvm-lab .*)$", page, re.MULTILINE)
    script = "\n".join([*commands, f"exec {sys.executable} -m {given} --kvm-trace=failures"])
    broken = "def test_it_fails(vm):\n    vm.memory.write(0x1000, b'\\xf4')\n"
    broken += "    vm.start_at(0x1000)\n    assert vm.run().reason == 'shutdown'\n"
    (tmp_path / "test_broken.py").write_text(broken, encoding="utf-8")
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=tmp_path,
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert "1 failed, 4 passed" in done.stdout, done.stderr
    assert done.returncode == 1
    junit = (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert junit.count('name="kvm_backend" value="kvm_amd"') == 5
    recording = tmp_path / "failures/test_broken.py/test_it_fails/vm.vtrace"
    assert [str(event) for event in vmm.trace.load(recording)] == ["HLT"]
    assert not _nothing_left(tmp_path)
