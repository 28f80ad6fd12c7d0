"""The emulated host: QEMU's software CPU with AMD-V, a disk for the system, one for the share.

The command's output comes through a virtio port of its own, byte for byte, and is passed on as
it arrives. The serial console has the kernel's messages, kept in a file to be shown when the
host dies; for a shell it is the terminal.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmm.lab.cache import Image
from vmm.lab.tools import LabError, Status, find_tool, last_line

__all__ = ["Host", "last_words", "run_command", "run_shell"]

# nokaslr and mitigations=off save emulated work; the emulated TSC needs no checking.
_APPEND = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable"

_REASONS = ("Kernel panic", "soft lockup", "self-detected stall", "detected stalls")


@dataclass(frozen=True)
class Host:
    """The machine to emulate, and the files of this run. `memory_mib` in MiB."""

    image: Image
    share: Path
    work: Path
    cpus: int
    memory_mib: int

    @property
    def console(self) -> Path:
        """The file with the kernel's messages."""
        return self.work / "console.log"

    @property
    def complaints(self) -> Path:
        """The file with QEMU's own messages."""
        return self.work / "qemu.log"

    def command_line(self, *, shell: bool) -> list[str]:
        """QEMU's command line.

        Raises:
            LabError: QEMU is not installed.
        """
        qemu = find_tool("qemu-system-x86_64")
        if qemu is None:
            raise LabError("the lab needs QEMU: sudo apt-get install qemu-system-x86")
        # QEMU must not outlive this process, even one that is killed.
        setpriv = find_tool("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        # signal=off: Ctrl-C is a key of the shell inside.
        console = "stdio,signal=off" if shell else f"file,path={_escape(self.console)}"
        output = "null" if shell else "stdio,signal=off"
        return [
            *(*guard, qemu, "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
            *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt"),
            *("-smp", str(self.cpus), "-m", str(self.memory_mib)),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initramfs)),
            *("-append", _APPEND),
            *_disk("root", self.image.root, "snapshot=on"),
            *_disk("share", self.share, "cache=unsafe"),
            *("-chardev", f"{console},id=console", "-serial", "chardev:console"),
            *("-chardev", f"{output},id=output", "-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=output,nr=1"),
        ]


def _escape(path: Path) -> str:
    """A path as a value in QEMU's option syntax, where a comma is written twice."""
    return str(path).replace(",", ",,")


def _disk(name: str, image: Path, option: str) -> list[str]:
    drive = f"if=none,id={name},format=raw,{option},file={_escape(image)}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]


def run_command(
    host: Host, out: BinaryIO, limit_s: float | None, silence_s: float | None = None
) -> None:
    """Run the emulated host until it powers off, its command's output going to `out`.

    Both are for a host that hangs, in seconds: `limit_s` in all, `silence_s` without any output.
    The command's own time is kept inside.

    Raises:
        LabError: the host did not power off in time, or QEMU failed.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    with (
        host.complaints.open("wb") as complaints,
        _qemu(
            host.command_line(shell=False),
            # Kept open and silent: at its end QEMU would take the output's port for unplugged.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            # The terminal's Ctrl-C is for this process, which then ends QEMU.
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        _pass_on(host, process.stdout.fileno(), out, deadline, silence_s)
        _wait(host, process, deadline)


def run_shell(host: Host) -> None:
    """Run the emulated host with its shell on standard input, a terminal, until it powers off.

    Raises:
        LabError: QEMU failed.
    """
    kept = termios.tcgetattr(sys.stdin)
    try:
        with _qemu(host.command_line(shell=True)) as process:
            _wait(host, process, None)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, kept)


@contextmanager
def _qemu(argv: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU, which does not outlive the block."""
    process: subprocess.Popen[bytes] = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def _pass_on(
    host: Host, source: int, out: BinaryIO, deadline: float | None, silence_s: float | None
) -> None:
    """Copy from the descriptor `source` to `out` until its end, or until the deadline.

    Raises:
        LabError: nothing came for `silence_s` seconds.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            wait = min((s for s in (left, silence_s) if s is not None), default=None)
            if not selector.select(wait):
                if wait == silence_s:
                    raise LabError(
                        f"the emulated host hangs: it said nothing for {silence_s:.0f} s"
                        + last_words(host),
                        Status.BROKEN,
                    )
                continue
            data = os.read(source, 65536)
            if not data:
                return
            out.write(data)
            out.flush()


def _wait(host: Host, process: subprocess.Popen[bytes], deadline: float | None) -> None:
    """Wait for QEMU's end. Raises `LabError` where it is too late or is not a power off."""
    try:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        status = process.wait(left)
    except subprocess.TimeoutExpired:
        raise LabError(
            "the emulated host hangs: it did not power off in time" + last_words(host),
            Status.TIMEOUT,
        ) from None
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        complaint = _tail(host.complaints)
        raise LabError(f"QEMU {how}" + (f": {complaint}" if complaint else ""), Status.BROKEN)


def last_words(host: Host) -> str:
    """What the console says of the end, to be put behind an error; empty where there is nothing."""
    line = _tail(host.console)
    return f"; its console ends with: {line}" if line else ""


def _tail(path: Path) -> str:
    """The last line that tells something: of a kernel that panicked or hung, the one with why."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()
    reasons = [line for reason in _REASONS for line in lines if reason in line]
    return last_line("\n".join(reasons[:1]) or text)
