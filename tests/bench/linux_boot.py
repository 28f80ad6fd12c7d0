"""From the start of the program to the guest's init, and to the end; and the memory it takes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from linux_sides import MEMORY_MIB, SIDES, Guest

__all__ = ["FIGURES", "SCRIPT", "measure"]

INIT = b"init is here"
SCRIPT = f"echo {INIT.decode()}\nread line\npoweroff -f\n"
PATIENCE_S = 240

FIGURES = {"to init": "s", "to the end": "s", "own memory": "MiB"}
"""What is measured, and its unit; less is better."""


def measure(side: str, guest: Guest) -> dict[str, float]:
    """Boot a guest to its init, look at the program's memory, and let the guest power off.

    Seconds are of the host's clock from the start of the program; the memory is what the program
    holds beside the guest's when init runs.

    Raises:
        RuntimeError: it did not get there; the text has the end of its console.
    """
    began = time.monotonic()
    with subprocess.Popen(
        SIDES[side](guest),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        text = b""
        try:
            while INIT not in text:
                piece = os.read(process.stdout.fileno(), 4096)
                text += piece
                if not piece or time.monotonic() - began > PATIENCE_S:
                    last = text.decode(errors="replace")[-600:]
                    raise RuntimeError(f"{side} did not reach init:\n{last}")
            to_init = time.monotonic() - began
            own = own_memory_kib(process.pid)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.wait(PATIENCE_S)
        finally:
            process.kill()
    in_all = time.monotonic() - began
    return {"to init": to_init, "to the end": in_all, "own memory": own / 1024}


def own_memory_kib(pid: int) -> int:
    """The memory of a process that is its share, without mappings as large as the guest's RAM."""
    own = size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Size":
            size = int(value.split()[0])
        elif name == "Pss" and size < MEMORY_MIB * 1024 * 0.9:
            own += int(value.split()[0])
    return own
