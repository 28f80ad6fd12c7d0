"""The question that is asked where a device raises: again, without it, or after a change.

The guest stands at the access meanwhile, and the other vCPUs at the gate.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmm.cli.messages import report, say
from vmm.cli.views import access_line, location
from vmm.errors import ConfigError, DeviceFault, FaultChoice
from vmm.userdev import UserDevice, user_devices

if TYPE_CHECKING:
    from vmm.cli.session import Session

__all__ = ["FaultPrompt", "ctrl_c_interrupts", "reload_device"]

_QUESTION = "[r]etry, [s]kip, [e]dit and reload, re[l]oad, [p]ython prompt, [q]uit? "
_LOOK_S = 0.2
_HELP = "r, s, e, l, p or q: retry calls the device again, skip answers ones and drops a write"


class FaultPrompt:
    """Asks the user what becomes of an access whose device raised.

    Args:
        session: lends the terminal.
        always: ask also where there is no terminal: answers are lines of standard input.
    """

    def __init__(self, session: Session, *, always: bool) -> None:
        self._session = session
        self._machine = session.machine
        self._always = always

    def ask(self, fault: DeviceFault) -> FaultChoice:
        """Ask until there is an answer. On the vCPU's thread (`Machine.on_device_fault`)."""
        if not self._always and not self._session.interactive:
            return "raise"
        with self._session.lent(), ctrl_c_interrupts():
            try:
                return self._ask(fault)
            except (KeyboardInterrupt, EOFError):
                report("")
                return "raise"

    def _ask(self, fault: DeviceFault) -> FaultChoice:
        ours = self._device_of(fault)
        path, line = self._tell(fault, ours)
        while True:
            answer = self._read_line().strip().lower()
            if answer in ("r", "retry"):
                return "retry"
            if answer in ("s", "skip"):
                return "skip"
            if answer in ("q", "quit"):
                return "raise"
            if answer in ("e", "edit") and path is not None:
                if _edit(path, line):
                    self._reload(ours)
            elif answer in ("l", "reload"):
                self._reload(ours)
            elif answer in ("p", "python"):
                from vmm.cli.shell import Shell

                Shell(self._session, fault=fault).look()
            else:
                report(_HELP)

    def _read_line(self) -> str:
        """Ask, and read a line of standard input.

        `input` would lose a Ctrl-C that comes before it reads, or that is another thread's.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C, or a signal that ends the run.
        """
        if not os.isatty(0):
            return input(_QUESTION)
        print(_QUESTION, end="", flush=True)
        while not select.select([0], [], [], _LOOK_S)[0]:
            if self._session.terminal.signal:
                raise KeyboardInterrupt
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    def _tell(self, fault: DeviceFault, ours: UserDevice | None) -> tuple[str | None, int]:
        """Say what happened where; returns the file and the line that an editor should open."""
        say(str(fault))
        steps = traceback.extract_tb(fault.__cause__.__traceback__) if fault.__cause__ else []
        own = [step for step in steps if ours is not None and step.filename == ours.path]
        for step in own or steps[-1:]:
            where = f"{os.path.basename(step.filename)}:{step.lineno}"
            report(f"  {where} in {step.name}: {step.line}")
        assert fault.access is not None  # nobody asks otherwise
        report(f"  the guest: {access_line(self._machine, fault.access)}")
        # Whether RIP is at the instruction or already behind it differs between KVM's ways.
        where = location(self._machine, fault.access.vcpu)
        report(f"  vCPU {fault.access.vcpu} is at that instruction or behind it: {where}")
        shown = (own or steps)[-1:]
        if not shown:
            return (None if ours is None else ours.path), 1
        return shown[0].filename, shown[0].lineno or 1

    def _device_of(self, fault: DeviceFault) -> UserDevice | None:
        name = getattr(fault.device, "name", None)
        return next((one for one in user_devices(self._machine) if one.device.name == name), None)

    def _reload(self, ours: UserDevice | None) -> None:
        if ours is None:
            report("this device is no --device: it cannot be reloaded")
            return
        reload_device(ours, report)


def reload_device(device: UserDevice, tell: Callable[[str], None]) -> None:
    """Read a user's device again, and say what became of that."""
    try:
        device.reload()
    except ConfigError as error:
        say(f"{error}; the old class stays")
    else:
        tell(f"{device.file} is reloaded; {device.device.name} keeps its state")


@contextmanager
def ctrl_c_interrupts() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _edit(path: str, line: int) -> bool:
    """Open the user's editor at a line; says whether it came back well."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(editor), f"+{line}", path], check=False).returncode
    except (OSError, ValueError) as error:
        say(f"$EDITOR {editor}: {error.strerror if isinstance(error, OSError) else error}")
        return False
    if status:
        say(f"$EDITOR {editor}: ended with status {status}; nothing is reloaded")
    return status == 0
