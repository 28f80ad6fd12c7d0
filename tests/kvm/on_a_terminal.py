"""A program on a pseudo-terminal, for tests of what a user sees and types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

__all__ = ["WAIT_S", "OnATerminal"]

WAIT_S = 60


class OnATerminal:
    """A program that has a terminal of its own; `output` is what it has written to it so far."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdout: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.master, self.slave = pty.openpty()
        # Carriage returns come from raw mode only.
        modes = termios.tcgetattr(self.slave)
        modes[1] &= ~termios.ONLCR
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        if size is not None:
            termios.tcsetwinsize(self.slave, size)
        self.modes = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            env=environment,
        )

    def read_until(self, wanted: bytes) -> None:
        end = time.monotonic() + WAIT_S
        while wanted not in self.output:
            assert time.monotonic() < end, f"no {wanted!r} in {self.output!r}"
            self.collect(0.2)

    def collect(self, wait_s: float = 0.0) -> None:
        while select.select([self.master], [], [], wait_s)[0]:
            self.output += os.read(self.master, 4096)
            wait_s = 0.0

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def ends(self) -> int:
        """Wait for the end, taking output; return the status (negative: the signal)."""
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running after {self.output!r}"
            self.collect(0.05)
        self.collect()
        return self.process.returncode

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ISIG)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.modes

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)
