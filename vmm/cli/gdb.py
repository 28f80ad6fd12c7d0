"""`vmm run --gdb` and `vmm gdb NAME`: GDB on a machine, from its start or in the middle."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import vmm.gdb
from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.cli.session import Session
from vmm.control.client import Client
from vmm.errors import ConfigError
from vmm.gdb.server import Debugger, read_address
from vmm.machine import Machine
from vmm.result import RunResult

__all__ = ["gdb", "linger", "open_debugger"]

_SCRIPT = Path(vmm.gdb.__file__).with_name("attach.gdb")
"""What has GDB follow a guest from mode to mode."""
_PATIENCE_S = 30.0


def open_debugger(machine: Machine, options: Options, name: str) -> None:
    """Let GDB attach to a machine that is about to run, and say how.

    Raises:
        ConfigError: the address is none, or is taken.
    """
    waits = not options.gdb_nowait
    debugger = Debugger(machine, read_address(options.gdb), wait=waits)
    does = "the guest waits for gdb" if waits else "gdb can attach"
    say(f"{does} at {debugger.where}; from another terminal: vmm gdb {name}")


def linger(session: Session, result: RunResult) -> None:
    """Let GDB see how the run ended; until it has gone, or a signal comes."""
    debugger = session.machine.debugger
    if debugger is None or not debugger.attached or session.paused or session.terminal.signal:
        return
    if result.died:
        say(f"{result.summary()}; gdb has it, Ctrl-C here or 'detach' there lets it go")
    with _signals(session), contextlib.suppress(KeyboardInterrupt):
        debugger.linger(result)


def gdb(options: Options) -> int:
    """Have a machine that runs listen for GDB, and become GDB on it.

    Raises:
        ControlError: there is no such machine, or it cannot.
    """
    with Client.connect(options.name) as client:
        where = client.call("gdb", timeout_s=_PATIENCE_S, address=options.listen)["where"]
        symbols = client.call("symbols")
    program = None if options.print else shutil.which("gdb")
    command = [program or "gdb", "-q", *_options(symbols), "-ex", f"target remote {where}"]
    command += [word for line in options.ex for word in ("-ex", line)]
    if options.batch:
        command.insert(1, "-batch")
    if program is None:
        if not options.print:
            say("gdb is not installed (apt-get install gdb); it would be started like this:")
        print(shlex.join(command))
        return 0
    sys.stdout.flush()
    try:
        os.execv(program, command)
    except OSError as error:
        raise ConfigError(f"{program}: {error.strerror}") from None


def _options(symbols: dict[str, Any]) -> list[str]:
    """What GDB is given besides: the script, and the guest's symbols where the image has any."""
    found = ["-x", str(_SCRIPT)]
    path = symbols["path"]
    if path and _is_elf(path):
        bias = symbols["bias"]
        found += ["-ex", f"symbol-file {f'-o {bias:#x} ' if bias else ''}{shlex.quote(path)}"]
    return found


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


@contextlib.contextmanager
def _signals(session: Session) -> Iterator[None]:
    """Have signals that ask for our end come as Ctrl-C does."""

    def asked(number: int, frame: FrameType | None) -> None:
        session.terminal.signal = number
        raise KeyboardInterrupt

    before = {n: signal.signal(n, asked) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
