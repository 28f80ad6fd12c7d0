"""The programs that the lab needs on this machine, and how they are run.

Every failure becomes one `LabError` line that says what is wrong and what to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path

__all__ = ["HOST_TOOLS", "LabError", "Status", "check_host", "find_tool", "last_line", "run_tool"]

# Program: the Debian package that has it.
HOST_TOOLS: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}

# Debian leaves these two out of an ordinary user's PATH, and mke2fs, debugfs and depmod are there.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")


class Status(IntEnum):
    """What `run.py` ends with where it is not the command's own exit status."""

    USAGE = 2
    UNAVAILABLE = 4  # the lab cannot be built or started on this machine
    BROKEN = 8  # the emulated host died, or ended without running the command
    TIMEOUT = 124
    INTERRUPTED = 130


class LabError(Exception):
    """An error with one line for the user; `status` is what `run.py` ends with."""

    def __init__(self, message: str, status: Status = Status.UNAVAILABLE) -> None:
        super().__init__(message)
        self.status = status


def find_tool(name: str) -> str | None:
    """The path of the program `name`, or None."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join([*path, *_SYSTEM_FOLDERS]))


def check_host(tools: Iterable[str] = HOST_TOOLS) -> None:
    """See that every one of `tools` is installed.

    Raises:
        LabError: some are not; the message has the command line that installs them.
    """
    missing = [name for name in tools if find_tool(name) is None]
    if "apt-get" in missing:
        raise LabError("the lab is made of Debian packages: it needs a Debian or Ubuntu machine")
    if missing:
        packages = sorted({HOST_TOOLS[name] for name in missing})
        raise LabError(
            f"the lab needs {', '.join(missing)}: sudo apt-get install {' '.join(packages)}"
        )


def run_tool(
    argv: Sequence[str | Path],
    *,
    doing: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run one of the host's programs to its end and return its standard output.

    `doing` completes the sentence "cannot ..." of the error. `env` is added to the environment.

    Raises:
        LabError: the program is not there, or it failed; with its last line of complaint.
    """
    name = str(argv[0])
    program = find_tool(name)
    if program is None:
        package = HOST_TOOLS.get(name)
        hint = f": sudo apt-get install {package}" if package else ""
        raise LabError(f"cannot {doing}: {name} is not installed{hint}")
    # One locale, so that what we read from programs is what we expect.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    done = subprocess.run(
        [program, *map(str, argv[1:])],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        complaint = last_line(done.stderr) or last_line(done.stdout)
        raise LabError(
            f"cannot {doing}: {complaint or f'{name} ended with status {done.returncode}'}"
        )
    return done.stdout


def last_line(text: str) -> str:
    """The last line of `text` that is not blank; an error line is preferred, where there is one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return (errors or lines or [""])[-1]
