"""Speaking to the user: one line a message, on standard error, whatever has become of it."""

from __future__ import annotations

import contextlib
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

__all__ = ["discard", "open_standard_files", "outlets", "report", "say", "to_standard_error"]


def say(text: str) -> None:
    """Print "vmm: text" in one line. A name in it may hold anything, so newlines are replaced."""
    report("vmm: " + " ".join(text.split("\n")))


def report(text: str) -> None:
    """Tell a text: on standard error, or wherever a log is kept."""
    for outlet in list(outlets):
        outlet(text)


def to_standard_error(text: str) -> None:
    """Print text to standard error. Where that cannot be written to, nobody can be told."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            discard(sys.stderr)


outlets: list[Callable[[str], None]] = [to_standard_error]
"""Where texts go."""


def discard(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python would fail to write it once more at its
    end, and change the exit status."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def open_standard_files() -> None:
    """Open /dev/null in place of a standard file that is closed.

    The next file that is opened would otherwise take its number, and the guest's console would be
    connected to a disk image or to KVM.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    # Python has none of those that were closed when it started.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a guest draws, and names of files, may have no place in the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
