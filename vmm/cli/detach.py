"""`vmm run --detach`: the machine in a process of its own, which nobody waits for.

The process is there before the machine is: a virtual machine belongs to the memory of the process
that made it, and cannot be carried into another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from vmm.cli.log import usual_log
from vmm.cli.messages import report, say
from vmm.cli.options import Options
from vmm.cli.served import usual_name
from vmm.control.registry import check_name
from vmm.errors import ConfigError, ExitStatus

__all__ = ["Background", "in_background"]


class Background:
    """The process in the background, until it has told whoever started it that all is well."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self, log: int) -> None:
        """The machine can be reached by its name: let who waits go, and the terminal with them.

        Raises:
            BrokenPipeError: who waited is gone: nobody knows of this machine.
        """
        os.write(self._fd, b"ready")
        os.close(self._fd)
        os.dup2(log, 2, inheritable=True)


def in_background(options: Options, run: Callable[[Background], int]) -> int:
    """Have `run` called in a process of its own, and wait until the machine can be reached.

    Returns twice: here, and in the other process with the status of the run.

    Raises:
        ConfigError: the options need a terminal.
        ControlError: the name is none.
    """
    if options.name is not None:
        check_name(options.name)
    for name in ("tui", "shell"):
        if getattr(options, name):
            raise ConfigError(f"--detach and --{name}: a machine without a terminal has none")
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        os.close(told)
        _leave_terminal()
        options.name = options.name or usual_name(options.image)
        options.log = options.log or usual_log(options.name)
        return run(Background(tell))
    os.close(tell)
    name = options.name or usual_name(options.image, process)
    try:
        return _wait(process, told, name, options.log)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        raise
    finally:
        os.close(told)


def _leave_terminal() -> None:
    """Standard error stays, for what goes wrong before the machine can be reached."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _wait(process: int, told: int, name: str, log: str | None) -> int:
    if os.read(told, 16):
        print(name)
        if os.isatty(2):
            report(f"vmm: 'vmm console {name}' attaches; its log is {log or usual_log(name)}")
        return int(ExitStatus.OK)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status < 0:
        say(f"the machine's process was ended by {signal.Signals(-status).name}")
        return int(ExitStatus.VMM_FAULT)
    return status
