"""`vmm run --log`: what a guest prints and what vmm says of it, in a file or in the journal."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from vmm.cli import messages
from vmm.errors import ConfigError
from vmm.host.output import OutputBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["JOURNAL", "Log", "open_log", "usual_log"]

JOURNAL = "journal"
"""What stands for the journal where a file would."""

_JOURNAL_SOCKET = "/run/systemd/journal/stdout"
_INFO = 6
"""LOG_INFO."""

_HOLD = "log"
_PATIENCE_S = 1.0
_KEPT_S = 30 * 24 * 3600


def open_log(where: str, name: str) -> int:
    """Open a log for what a machine called `name` prints: a file, which is added to, or the
    journal, which takes each line as a message of vmm-NAME.

    Returns:
        Its descriptor.

    Raises:
        ConfigError: it cannot be written to.

    Spec: sd_journal_stream_fd(3), for what the stream means.
    """
    try:
        if where != JOURNAL:
            return os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with socket.socket(socket.AF_UNIX) as journal:
            journal.connect(_JOURNAL_SOCKET)
            journal.shutdown(socket.SHUT_RD)
            # Identifier, unit, priority, levels at the start of lines, and three copies to make.
            journal.sendall(f"vmm-{name}\n\n{_INFO}\n0\n0\n0\n0\n".encode())
            return journal.detach()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        hint = " (there is no systemd-journald here)" if where == JOURNAL else ""
        raise ConfigError(f"--log {where}: cannot be written: {why}{hint}") from None


def usual_log(name: str) -> str:
    """Where the log of a machine is that is detached and was told no other place.

    Those of more than 30 days ago are removed.

    Raises:
        ConfigError: there is no place for it.

    Spec: XDG Base Directory Specification, "Environment variables", for $XDG_STATE_HOME.
    """
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = os.path.join(base, "glassvm")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for entry in os.scandir(folder):
            if entry.name.endswith(".log") and entry.stat().st_mtime < time.time() - _KEPT_S:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; give a file with --log FILE") from None
    return os.path.join(folder, f"{name}.log")


class Log:
    """A log that is opened when there is a machine to write of, and then stays open: what there is
    to say may come behind a machine's end, or another machine like it.

    Args:
        where: a file, or the journal (`open_log`).
        name: of the machine.
    """

    def __init__(self, where: str, name: str) -> None:
        self._where = where
        self._name = name
        self._fd = -1

    @property
    def fd(self) -> int:
        """Its descriptor, or -1 before it is opened."""
        return self._fd

    def keep(self, machine: Machine, *, alone: bool) -> None:
        """Have a machine's console, and vmm's messages from now on, written to it.

        Messages go nowhere else if it is `alone`. Where the log takes nothing for long, the machine
        is held until it does, as for any reader of its output.

        Raises:
            ConfigError: it cannot be written to.
        """
        if self._fd < 0:
            self._fd = open_log(self._where, self._name)
        writer = _Writer(machine, self._fd)
        writer.output(machine.console.output)
        machine.console.tee(writer.output)
        first = [] if alone else [messages.to_standard_error]
        messages.outlets[:] = [*first, writer.message]
        machine.closers.append(writer.finish)


class _Writer:
    def __init__(self, machine: Machine, fd: int) -> None:
        self._in_line = False
        self._buffer = OutputBuffer(
            fd,
            machine.events,
            on_closed=self._closed,
            on_full=lambda: machine.pause(hold=_HOLD),
            on_room=lambda: machine.resume(hold=_HOLD),
        )

    def output(self, data: bytes) -> None:
        if data:
            self._in_line = not data.endswith(b"\n")
            self._buffer.write(data)

    def message(self, text: str) -> None:
        if self._in_line:
            self.output(b"\n")
        self.output(text.encode(errors="backslashreplace") + b"\n")
        self._buffer.drain(_PATIENCE_S)

    def finish(self) -> None:
        self._buffer.drain(_PATIENCE_S)
        self._buffer.stop()

    def _closed(self, error: OSError) -> None:
        messages.outlets[:] = [messages.to_standard_error]
        messages.say(f"--log: {error.strerror}: the log ends here, and the guest runs on")
