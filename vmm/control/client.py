"""The other end of a control socket: what a screen or a script in another process uses.

with Client.connect("boot") as client:
    client.call("pause")
    print(client.call("registers")["vcpus"][0])
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import Any

from vmm.control.protocol import VERSION, ControlError, GoneError, Lines, pack
from vmm.control.registry import connect, pick

__all__ = ["Client"]

_PIECE = 1 << 16
_PATIENCE_S = 10.0


class Client:
    """A connection to one machine. One thread at a time.

    Raises:
        ControlError: what is connected is not a machine of this version.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.name = name
        self._socket = connection
        self._lines = Lines()
        self._numbers = itertools.count(1)
        self._messages: list[dict[str, Any]] = []
        self._fds: list[int] = []
        self._socket.settimeout(_PATIENCE_S)
        hello = self._next()
        if hello.get("hello") != VERSION:
            self.close()
            raise ControlError(
                f"{name} speaks version {hello.get('hello')} of the control protocol, this is "
                f"version {VERSION}: use the vmm that runs it"
            )
        self.pid: int = hello.get("pid", 0)

    @classmethod
    def connect(cls, name: str | None = None) -> Client:
        """Connect to a machine by name; without one, to the only one that runs.

        Raises:
            ControlError: there is no such machine, or there are several.
        """
        chosen = pick(name)
        return cls(connect(chosen), chosen)

    def call(self, op: str, *, timeout_s: float = _PATIENCE_S, **arguments: Any) -> dict[str, Any]:
        """Ask for one thing and wait for the answer.

        Raises:
            ControlError: the machine refuses, does not answer in time, or is gone.
        """
        number = next(self._numbers)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(pack({"id": number, "op": op, **arguments}))
            while True:
                answer = self._next()
                if answer.get("id") == number:
                    break
        except TimeoutError:
            raise ControlError(f"{self.name} does not answer within {timeout_s:g} s") from None
        except OSError:
            raise GoneError(f"{self.name} is gone") from None
        if "error" in answer:
            raise ControlError(str(answer["error"]))
        result: dict[str, Any] = answer.get("result", {})
        return result

    def trace_fd(self) -> int:
        """A descriptor of the machine's trace, to be mapped; the caller closes it.

        Raises:
            ControlError: the machine notes nothing.
        """
        return self._fd_of("trace")

    def console_stream(self, since: int = 0) -> socket.socket:
        """The guest's console: its output from byte `since` on, and what is typed the other way.
        The caller closes it; it ends when the connection does.

        Raises:
            ControlError: the machine refuses, or it is gone.
        """
        return socket.socket(fileno=self._fd_of("console_stream", since=since))

    def fileno(self) -> int:
        """The connection's descriptor, for `select`: readable when the machine goes away."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fd_of(self, op: str, **arguments: Any) -> int:
        self.call(op, **arguments)
        if not self._fds:
            raise ControlError(f"{self.name} passed no descriptor")
        return self._fds.pop()

    def _next(self) -> dict[str, Any]:
        while not self._messages:
            data, fds, _, _ = socket.recv_fds(self._socket, _PIECE, 4)
            self._fds.extend(fds)
            if not data:
                raise GoneError(f"{self.name} is gone")
            self._messages += self._lines.feed(data)
        return self._messages.pop(0)
