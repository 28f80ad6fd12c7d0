"""The host's ends of vsock's connections: Unix sockets, as other monitors lay them out.

A program of the host connects to the socket PATH and sends "CONNECT 1234\\n" for the guest's port
1234; when the guest has taken the connection it reads "OK 1073741824\\n" (the host's port), and
from then on what the guest sends. A guest that connects to port 1234 of the host reaches the
socket PATH_1234.

Everything runs on the thread of host events, or on one that serves the device; streams are touched
with the machine's lock held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from devices.virtio.vsock_streams import VsockStreams
    from vmm.host.events import HostEvents

__all__ = ["VsockSockets"]

_LONGEST_GREETING = 32
_MOST_GREETINGS = 64
"""Connections at a time that have not said yet what they want."""
_BACKLOG = 128


class VsockSockets:
    """The sockets of one guest.

    Args:
        path: the socket that programs of the host connect to.
        events: watches the sockets.
        lock: the machine's.

    Raises:
        ConfigError: the path is too long, or taken, or not to be written to.
    """

    def __init__(self, path: str, events: HostEvents, lock: AbstractContextManager[object]) -> None:
        self.path = path
        self.streams: VsockStreams | None = None
        """The device's connections, once there is a device."""
        self._events = events
        self._lock = lock
        self._ends: set[_End] = set()
        self._greeting: set[_End] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._listener.bind(path)
            self._listener.listen(_BACKLOG)
        except OSError as error:
            self._listener.close()
            raise ConfigError(f"vsock: {path}: {_why(error)}") from None
        events.watch(self._listener.fileno(), self._arrival)

    def connect(self, port: int) -> _End | None:
        """The guest wants to reach a port of the host: connect to the socket for it."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(f"{self.path}_{port}")
        except OSError:  # nobody listens, or too many wait
            connection.close()
            return None
        return self._keep(connection)

    def close(self) -> None:
        """Close all, and remove the socket. May be called twice."""
        if self._listener.fileno() >= 0:
            self._events.unwatch(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        for end in list(self._ends):
            end.close()

    def _arrival(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._greeting) >= _MOST_GREETINGS:
            connection.close()
            return
        end = self._keep(connection)
        self._greeting.add(end)
        self._events.watch(connection.fileno(), lambda: self._listen_to(end))

    def _listen_to(self, end: _End) -> None:
        """Read what a newcomer wants, byte by byte: what is behind the line is the guest's."""
        port = end.greet()
        if port is None:
            return
        self._greeting.discard(end)
        self._events.unwatch(end.socket.fileno())
        with self._lock:
            streams = self.streams
            if port < 0 or streams is None or not streams.from_host(end, port):
                end.close()

    def _keep(self, connection: socket.socket) -> _End:
        end = _End(connection, self._events, self._lock, lambda: self.streams, self._forget)
        self._ends.add(end)
        return end

    def _forget(self, end: _End) -> None:
        self._ends.discard(end)
        self._greeting.discard(end)


class _End:
    """One connection."""

    def __init__(
        self,
        connection: socket.socket,
        events: HostEvents,
        lock: AbstractContextManager[object],
        streams: Callable[[], VsockStreams | None],
        forget: Callable[[_End], None],
    ) -> None:
        self.socket = connection
        self._fd = connection.fileno()
        self._events = events
        self._lock = lock
        self._streams = streams
        self._forget = forget
        self._greeting = b""

    def greet(self) -> int | None:
        """Read on in "CONNECT port"; the port once it is there, None before, -1: it is none."""
        while len(self._greeting) < _LONGEST_GREETING:
            try:
                byte = self.socket.recv(1)
            except BlockingIOError:
                return None
            except OSError:
                return -1
            if byte in (b"", b"\n"):
                break
            self._greeting += byte
        words = self._greeting.split()
        if len(words) != 2 or words[0] != b"CONNECT" or not words[1].isdigit():
            return -1
        port = int(words[1])
        return port if port < 1 << 32 else -1

    def read(self, size: int) -> bytes | None:
        """Give what is there; where nothing is, have it watched for."""
        try:
            return self.socket.recv(size)
        except BlockingIOError:
            self._events.watch(self._fd, self._readable)
            return None
        except OSError:
            return b""

    def write(self, data: bytes | memoryview) -> int | None:
        """Take what there is room for; where none is, have it watched for."""
        try:
            return self.socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._events.watch_writable(self._fd, self._writable)
            return 0
        except OSError:
            return None

    def connected(self, port: int) -> None:
        """Tell the program that the guest has taken the connection."""
        with contextlib.suppress(OSError):
            self.socket.send(b"OK %d\n" % port, socket.MSG_NOSIGNAL)

    def end_of_input(self) -> None:
        """Tell it that the guest sends no more."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it. May be called twice."""
        if self.socket.fileno() >= 0:
            self._events.unwatch(self._fd)
            self._events.unwatch_writable(self._fd)
            self.socket.close()
        self._forget(self)

    def _readable(self) -> None:
        with self._lock:
            if self.socket.fileno() >= 0:
                self._events.unwatch(self._fd)
                streams = self._streams()
                if streams is not None:
                    streams.can_read(self)

    def _writable(self) -> None:
        with self._lock:
            streams = self._streams()
            if self.socket.fileno() >= 0 and (streams is None or not streams.can_write(self)):
                self._events.unwatch_writable(self._fd)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "there is such a file already; remove it, if no other machine uses it"
    if isinstance(error.args[0], str):
        return str(error.args[0])  # the path is too long for a socket
    return os.strerror(error.errno or 0)
