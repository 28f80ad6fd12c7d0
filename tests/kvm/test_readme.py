"""The README says what is true: its Python runs, its commands parse, its death is the real one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from vmm.cli.parser import parse
from vmm.kvm import backend

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language; of none for ""."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for marked, text in found if marked == language]


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        check=False,
    )


@pytest.mark.kvm
def test_the_python_runs_as_it_stands():
    code = blocks("python")[0]
    done = run("-c", code)
    assert done.stderr == ""
    last = code.rstrip().splitlines()[-1]
    promised = last.partition("#")[2].strip()
    assert promised == "halt 3"
    assert done.stdout == f"Hi{promised}\n"


@pytest.mark.kvm
def test_a_trace_is_asked_as_it_stands(tmp_path):
    (code,) = [block for block in blocks("python") if "vmm.trace.load" in block]
    with vmm.boot("payload:hello64", trace=str(tmp_path / "run.vtrace")) as machine:
        machine.run(timeout=60)
    done = run("-c", f"import vmm\n{code}", folder=tmp_path)
    assert done.stderr == ""
    (promised,) = re.findall(r"print.*# (.*)$", code, re.MULTILINE)
    assert done.stdout == f"{promised}\n"


def test_the_commands_are_commands():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vmm ")]
    assert len(commands) >= 5
    for _, *arguments in commands:
        assert parse(arguments).command == arguments[0]


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE)
    targets = {first or second for first, second in named}
    assert {"demo", "test", "lab"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert "://" in link or (ROOT / link).exists(), link


@pytest.mark.kvm
def test_the_death_is_what_a_user_reads():
    (shown,) = (block for block in blocks("") if "guest died" in block)
    command, *lines = shown.splitlines()
    assert command == "$ vmm run payload:triple_fault"
    done = run("-m", "vmm", "run", "payload:triple_fault")
    assert done.returncode == 6
    if backend() != "kvm_pvm":
        pytest.skip("the README shows what kvm_pvm knows; other backends may lose the registers")
    told = iter(done.stderr.splitlines())
    # Where the README leaves something out it says so with dots.
    for line in lines:
        if line.strip() != "...":
            assert line in told, line
    head = lines.index("")
    assert lines[:head] == done.stderr.splitlines()[:head]
