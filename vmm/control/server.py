"""The control socket of one machine: takes requests on the host-events thread.

Nothing that a client does can hurt the guest: requests are bounded, a client that sends garbage
or takes no answers is dropped, and what is asked is carried out between the guest's instructions.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmm.control.operations import Operations
from vmm.control.protocol import VERSION, ControlError, Lines, pack
from vmm.control.registry import bind
from vmm.errors import VmmError

if TYPE_CHECKING:
    from vmm.host.events import HostEvents
    from vmm.machine import Machine

__all__ = ["ControlServer"]

_MOST_CLIENTS = 16
_MOST_WAITING = 32 << 20
"""Answers that a client does not take, in bytes: then it is dropped."""
_PIECE = 1 << 16
_CREDENTIALS = struct.Struct("3i")


class ControlServer:
    """Serves one machine under a name; closes with it.

    Raises:
        ControlError: the name is taken, or there is no place for the socket.
    """

    def __init__(self, machine: Machine, name: str, image: str = "") -> None:
        self.name = name
        self._events = machine.events
        self._operations = Operations(machine, name, image)
        self._clients: set[_Client] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._socket, self._path = bind(name)
        self._events.watch(self._socket.fileno(), self._accept)
        # The first of the closers is called last: when the thread of host events has ended.
        machine.closers.insert(0, self.close)

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def linger(self, timeout_s: float | None = None) -> None:
        """Return when the last client has gone, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._clients or self._closed, timeout_s)

    def close(self) -> None:
        """Take the socket away and let clients go. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._events.unwatch(self._socket.fileno())
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._socket.close()
        for client in list(self._clients):
            client.close()

    def _accept(self) -> None:
        try:
            made, _ = self._socket.accept()
        except OSError:
            return
        if len(self._clients) >= _MOST_CLIENTS or not _is_ours(made):
            made.close()
            return
        client = _Client(made, self._events, self._answer, self._gone)
        self._clients.add(client)
        client.start()

    def _answer(
        self, client: _Client, message: dict[str, Any]
    ) -> tuple[dict[str, Any], int | None]:
        """Carry out one request; the answer, and a descriptor to pass with it."""
        number = message.pop("id", None)
        op = message.pop("op", None)
        try:
            result, fd = self._operations.carry_out(str(op), message, client)
        except (VmmError, OSError) as error:
            return {"id": number, "error": str(error)}, None
        except Exception as error:  # a fault of ours is the client's to see, not the guest's
            return {"id": number, "error": f"{type(error).__name__}: {error}"}, None
        return {"id": number, "result": result}, fd

    def _gone(self, client: _Client) -> None:
        self._operations.gone(client)
        with self._changed:
            self._clients.discard(client)
            self._changed.notify_all()


class _Client:
    """One connection, on the host-events thread."""

    def __init__(
        self,
        connection: socket.socket,
        events: HostEvents,
        answer: Callable[[_Client, dict[str, Any]], tuple[dict[str, Any], int | None]],
        gone: Callable[[_Client], None],
    ) -> None:
        self._socket = connection
        self._events = events
        self._answer = answer
        self._gone = gone
        self._lines = Lines()
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        self._size = 0
        self._open = True
        connection.setblocking(False)

    def start(self) -> None:
        """Greet the client, and listen to it."""
        self._events.watch(self._socket.fileno(), self._readable)
        self._send({"hello": VERSION, "pid": os.getpid()}, None)

    def close(self) -> None:
        """Let the client go."""
        if self._open:
            self._open = False
            number = self._socket.fileno()
            self._events.unwatch(number)
            self._events.unwatch_writable(number)
            self._socket.close()
            self._gone(self)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            messages = self._lines.feed(data)
        except ControlError as error:
            self._send({"id": None, "error": str(error)}, None)
            self.close()
            return
        for message in messages:
            if self._open:
                self._send(*self._answer(self, message))

    def _send(self, message: dict[str, Any], fd: int | None) -> None:
        line = pack(message)
        self._waiting.append((memoryview(line), fd))
        self._size += len(line)
        if self._size > _MOST_WAITING:
            self.close()
        else:
            self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                piece, fd = self._waiting[0]
                if fd is None:
                    sent = self._socket.send(piece)
                else:
                    sent = socket.send_fds(self._socket, [piece], [fd])
                self._size -= sent
                if sent == len(piece):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = (piece[sent:], None)
        except (BlockingIOError, InterruptedError):
            self._events.watch_writable(self._socket.fileno(), self._write)
        except OSError:
            self.close()
        else:
            self._events.unwatch_writable(self._socket.fileno())


def _is_ours(connection: socket.socket) -> bool:
    """Whether the client's user is this process's, or root. The folder's mode says so already.

    Spec: unix(7), SO_PEERCRED.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    return uid in (0, os.getuid())
