"""A machine in a process of its own, with a screen on a terminal that can be held."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
from pathlib import Path

from guests import WRITE_LOOP
from peers import Unavailable

from vmm.control.client import Client
from vmm.errors import VmmError
from vmm.trace.reader import LiveTrace

__all__ = ["WatchedMachine"]

_COLUMNS, _ROWS = 120, 40
_PATIENCE_S = 20.0
_SETTLE_S = 0.3
_NAME = "bench"


class WatchedMachine:
    """A guest that writes to a port for ever, and `vmm top` on it.

    Args:
        command: the `vmm` command.
        seconds: how long one measurement takes.

    Raises:
        Unavailable: one of the two does not start.
    """

    def __init__(self, command: list[str], seconds: float) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="vmm-")
        image = Path(self._folder.name, "loop.bin")
        image.write_bytes(WRITE_LOOP)
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": self._folder.name}
        os.environ["XDG_RUNTIME_DIR"] = self._folder.name
        run = [*command, "run", str(image), "--format", "flat16", "--name", _NAME]
        self._guest = subprocess.Popen(
            run, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=self._environment
        )
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", _ROWS, _COLUMNS, 0, 0))
        try:
            self._trace = self._connect()
            self._screen = subprocess.Popen(
                [*command, "top", _NAME],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**self._environment, "TERM": "xterm-256color"},
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self._shown = threading.Event()
        self._drain = threading.Thread(target=self._take, daemon=True)
        self._drain.start()
        if not self._shown.wait(_PATIENCE_S):
            raise Unavailable("the screen does not come up")

    def __enter__(self) -> WatchedMachine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.send_signal(signal.SIGCONT)
        self._screen.kill()
        self._guest.terminate()
        self._screen.wait()
        self._guest.wait()
        self._drain.join()
        os.close(self._master)
        self._trace.close()
        self._folder.cleanup()

    def watched(self) -> float:
        """Exits a second while the screen is shown."""
        self._screen.send_signal(signal.SIGCONT)
        return self._rate()

    def alone(self) -> float:
        """Exits a second of the same run while the screen's process is held."""
        self._screen.send_signal(signal.SIGSTOP)
        return self._rate()

    def _rate(self) -> float:
        time.sleep(_SETTLE_S)
        began, before = time.perf_counter(), self._trace.exits(0)
        time.sleep(self._seconds)
        return (self._trace.exits(0) - before) / (time.perf_counter() - began)

    def _connect(self) -> LiveTrace:
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with Client.connect(_NAME) as client:
                    fd = client.trace_fd()
                break
            except VmmError as error:
                if time.monotonic() > end or self._guest.poll() is not None:
                    raise Unavailable(f"the machine cannot be reached: {error}") from None
                time.sleep(0.05)
        try:
            return LiveTrace.from_fd(fd, _NAME)
        finally:
            os.close(fd)

    def _take(self) -> None:
        """Take what the screen writes, as a terminal does."""
        seen = b""
        while True:
            if not select.select([self._master], [], [], 0.2)[0]:
                if self._screen.poll() is not None:
                    return
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            if not self._shown.is_set():
                seen += data
                if b"exits" in seen and b"running" in seen:
                    self._shown.set()
