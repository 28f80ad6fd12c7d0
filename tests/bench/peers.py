"""What the monitor is measured against: a VMM in C, and QEMU's microvm."""

from __future__ import annotations

import shutil
import subprocess
from functools import cached_property
from pathlib import Path

__all__ = ["CPeer", "Unavailable", "qemu_command"]

_SOURCE = Path(__file__).with_name("peer.c")
_TIMEOUT_S = 120


class Unavailable(Exception):
    """A figure cannot be measured here; the message says why."""


class CPeer:
    """The VMM of `peer.c`, compiled when it is first used.

    Args:
        folder: where the program is put.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def nanoseconds(self, what: str, count: int) -> list[int]:
        """Run `peer WHAT COUNT` and return the times that it prints.

        Raises:
            Unavailable: it cannot be compiled, or it fails.
        """
        done = subprocess.run(
            [self._program, what, str(count)], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if done.returncode:
            raise Unavailable(f"the C peer failed: {done.stderr.strip()}")
        return [int(line) for line in done.stdout.split()]

    @cached_property
    def _program(self) -> Path:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Unavailable("no C compiler (cc) for the peer: sudo apt install gcc libc6-dev")
        program = self._folder / "peer"
        done = subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-o", program, _SOURCE],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise Unavailable(f"the C peer does not compile: {(errors or ['?'])[0]}")
        return program


def qemu_command(rom: Path, *, lean: bool = False) -> list[str]:
    """QEMU's microvm with a serial port and a debug exit, booting `rom`.

    As it comes it has what our PC has: PIC, PIT, IOAPIC and clock. `lean` takes out what this
    guest does not use, which is the quickest start that QEMU has for it. The CPU model is QEMU's
    own: "host" and "max" end in a failed assertion on some backends.

    Raises:
        Unavailable: QEMU is not installed.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise Unavailable("no QEMU to measure against: sudo apt install qemu-system-x86")
    machine = "microvm,accel=kvm" + (",pic=off,pit=off,rtc=off" if lean else "")
    options = "-m 64M -nodefaults -no-user-config -display none -serial stdio -no-reboot"
    debug_exit = "isa-debug-exit,iobase=0xf4,iosize=4"
    return [program, "-M", machine, *options.split(), "-device", debug_exit, "-bios", str(rom)]
