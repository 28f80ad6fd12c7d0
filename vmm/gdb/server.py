"""The debugger's end on our side: a socket, a thread, and one GDB at a time.

The thread waits for GDB's packets while the guest stands, and for a stop or Ctrl-C while it runs.
It is a thread of its own, because a guest that is stepped keeps it busy.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from collections.abc import Callable

from vmm.errors import ConfigError
from vmm.gdb.packets import Decoder, ProtocolError, Sign, encode
from vmm.gdb.probe import Traps, find_traps
from vmm.gdb.stub import Stub
from vmm.gdb.target import Target
from vmm.machine import Machine
from vmm.result import RunResult

__all__ = ["Address", "Debugger", "read_address"]

_PIECE = 1 << 16
_PATIENCE_S = 5.0
"""How long GDB may leave what it is sent."""
_RESENDS = 8
_LONGEST_PATH = 107

Address = tuple[str, int] | str
"""A host and a port, or the path of a Unix socket."""


def read_address(text: str) -> Address:
    """Read `[HOST:]PORT` or `unix:PATH`.

    Raises:
        ConfigError: it is neither.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigError(f"{text}: give a path of 1 to {_LONGEST_PATH} bytes")
        return path
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 0x10000):
        raise ConfigError(f"{text!r} is no address for GDB; give [HOST:]PORT or unix:PATH")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


class Debugger:
    """Lets GDB attach to a machine; closes with it.

    Args:
        machine: the machine.
        address: where to listen (`read_address`).
        wait: hold the machine's run before its first instruction until GDB lets it go on.
        traps: says what this host traps.

    Raises:
        ConfigError: there cannot be listened.
    """

    def __init__(
        self,
        machine: Machine,
        address: Address,
        *,
        wait: bool = False,
        traps: Callable[[], Traps] = find_traps,
    ) -> None:
        self.clients = 0
        """How many GDBs have attached so far."""
        self._machine = machine
        self._path: str | None = None
        self._listener = self._listen(address)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._target = Target(machine, traps, self._wake)
        self._link: _Link | None = None
        self._changed = threading.Condition()
        self._closing = False
        if wait:
            self._target.hold()
        self._thread = threading.Thread(target=self._serve, name="gdb", daemon=True)
        self._thread.start()
        machine.debugger = self
        machine.closers.append(self.close)

    @property
    def where(self) -> str:
        """What GDB's `target remote` takes."""
        if self._path is not None:
            return os.path.abspath(self._path)
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def attached(self) -> bool:
        """Whether there is a GDB."""
        return self._link is not None

    def linger(self, result: RunResult) -> None:
        """Tell GDB how the run ended, and return when it has gone. A guest that died can be looked
        at until then."""
        with self._changed:
            if self._link is None:
                return
            self._target.ended(result)
            self._changed.wait_for(lambda: self._link is None or self._closing)

    def close(self) -> None:
        """Let GDB go, and listen no more. May be called twice."""
        if self._closing:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._target.close()
        self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        os.close(self._wake_fd)
        if self._machine.debugger is self:
            self._machine.debugger = None

    # -- the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while not self._closing:
            link = self._link
            wait_s = None if link is None else self._target.look_again_s
            ready = dict(poll.poll(None if wait_s is None else wait_s * 1000))
            if self._wake_fd in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
            if self._listener.fileno() in ready:
                self._accept(poll)
            if link is not None and self._link is link:
                keep = link.serve(readable=link.fileno() in ready)
                if not keep:
                    poll.unregister(link.fileno())
                    self._drop(link)
        if self._link is not None:
            self._link.farewell(self._machine.last_result)
            self._drop(self._link)

    def _accept(self, poll: select.poll) -> None:
        try:
            made, _ = self._listener.accept()
        except OSError:
            return
        if self._link is not None:
            made.close()  # one at a time
            return
        self._target.hold()
        self._link = _Link(made, self._target)
        self.clients += 1
        poll.register(made, select.POLLIN)

    def _drop(self, link: _Link) -> None:
        """GDB has gone: the guest goes on without it."""
        link.close()
        with contextlib.suppress(Exception):  # the machine may be at its end
            self._target.release()
        with self._changed:
            self._link = None
            self._changed.notify_all()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    # -- the socket -----------------------------------------------------------------------

    def _listen(self, address: Address) -> socket.socket:
        try:
            if isinstance(address, str):
                _clear(address)
                made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                old = os.umask(0o177)
                try:
                    made.bind(address)
                finally:
                    os.umask(old)
                self._path = os.path.abspath(address)
                made.listen(1)
            else:
                made = socket.create_server(
                    address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                )
        except OSError as error:
            where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
            raise ConfigError(f"GDB cannot be waited for at {where}: {error.strerror}") from None
        made.setblocking(False)
        return made


class _Link:
    """One connection of GDB's."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        self._socket = connection
        self._target = target
        self._decoder = Decoder()
        self._stub = Stub(target, self._send)
        self._last = b""
        self._resends = 0
        connection.settimeout(_PATIENCE_S)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def serve(self, *, readable: bool) -> bool:
        """Take what GDB sends, and have the guest go on; False where GDB has gone."""
        try:
            if readable:
                data = self._socket.recv(_PIECE)
                if not data:
                    return False
                for item in self._decoder.feed(data):
                    self._take(item)
                    if self._stub.closing:
                        return False
            self._stub.advance()
        except (OSError, ProtocolError):
            return False
        return not self._stub.closing

    def farewell(self, result: RunResult | None) -> None:
        """Tell GDB that the machine is gone."""
        with contextlib.suppress(OSError):
            self._send(b"W%02x" % (0 if result is None else result.status & 0xFF))

    def close(self) -> None:
        """Hang up."""
        self._stub.leave()
        self._socket.close()

    def _take(self, item: bytes | Sign) -> None:
        if isinstance(item, bytes):
            if self._stub.acknowledged:
                self._socket.sendall(b"+")
            if not self._target.running:  # GDB sends none while it waits for a stop
                self._stub.packet(item)
        elif item is Sign.INTERRUPT:
            self._stub.interrupt()
        elif item is Sign.DAMAGED:
            if not self._stub.acknowledged:
                raise ProtocolError("a wrong checksum")
            self._socket.sendall(b"-")
        elif item is Sign.RESEND and self._last:
            self._resends += 1
            if self._resends > _RESENDS:
                raise ProtocolError("nothing arrives whole")
            self._socket.sendall(self._last)
        elif item is Sign.ACK:
            self._resends = 0

    def _send(self, content: bytes) -> None:
        self._last = encode(content)
        self._socket.sendall(self._last)


def _clear(path: str) -> None:
    """Remove the socket of a process that was killed.

    Raises:
        OSError: somebody listens there.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind says what is wrong
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
