"""docs/testing-a-kernel.md, followed step by step in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kvm, pytest.mark.command, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs/testing-a-kernel.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: str, folder: Path) -> list[str]:
    """Write the files of a page and run its commands, in its order; the commands that ran."""
    ran = []
    for language, name, text in BLOCK.findall(page):
        if name:
            (folder / name).write_text(text, encoding="utf-8")
        elif language == "console":
            for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, promised = step.partition("\n")
                check(command, run(command, folder), promised)
                ran.append(command)
    return ran


def run(command: str, folder: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stderr == "", command
    return done.stdout


def check(command: str, output: str, promised: str) -> None:
    """Each promised line is there, in this order; "..." stands for anything."""
    if not promised:
        assert output == "", command
    lines = iter(output.splitlines())
    for line in promised.splitlines():
        if line == "...":
            continue
        pattern = re.escape(line).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(pattern, found) for found in lines), f"{command}: {line}\n{output}"


def test_every_step_does_what_the_page_says(tmp_path):
    ran = follow(PAGE.read_text(encoding="utf-8"), tmp_path)
    assert [command.split()[0] for command in ran] == [
        *("as", "ld", "pytest", "pytest", "pytest", "sed", "as", "ld", "pytest", "vmm")
    ]
    junit = (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert junit.count('name="kvm_backend"') == 4
    assert len(list((tmp_path / "failures").rglob("*.vtrace"))) == 1
