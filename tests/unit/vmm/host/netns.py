"""Runs a piece of a test in a network namespace of its own, so that no test touches the host's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest

__all__ = ["run_in_netns"]


def run_in_netns(script: str, *programs: str) -> str:
    """Run a Python script in a new network namespace, as its root, and return what it prints.

    `programs` are those that it starts; the test is skipped where one is missing.
    """
    for program in ("unshare", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces for this user (unshare --user --net)")
    done = subprocess.run(
        [*isolated, sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
