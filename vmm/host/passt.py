"""A network without privileges: passt, a program that turns a guest's frames into ordinary sockets.

It is started as a child with one end of a socket pair and leaves by itself when the other end is
closed, however this process ends. The guest gets the host's address by DHCP; the gateway's address
is the host's loopback.

A frame on the socket has its length before it, 4 bytes, big-endian. There are no offloads, but
frames may be as long as `MTU` lets them.

Spec: passt(1); the framing is that of QEMU's stream sockets.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence

from vmm.errors import ConfigError

__all__ = ["MTU", "Passt"]

MTU = 65520
"""What passt takes at most, in bytes behind the Ethernet header."""

_LENGTH = struct.Struct(">I")
_ETHERNET_HEADER = 14
_LONGEST_FRAME = MTU + _ETHERNET_HEADER
_ROOM = 8 * (_LONGEST_FRAME + _LENGTH.size)
_STARTED_S = 0.2
"""How long one that cannot start takes to say so."""
_BUSY_MS = 100
_STUCK_MS = 2000


class Passt:
    """A running passt, and the socket to it.

    Args:
        tcp, udp: port forwards "HOST:GUEST", as passt's -t and -u take them.
        interface: of the host, that gives addresses and routes; the one with the default route
            unless given.

    Raises:
        ConfigError: it is not installed, or does not start; the text has its own words.
    """

    offloads = 0
    header = False
    mtu = MTU

    def __init__(
        self, *, tcp: Sequence[str] = (), udp: Sequence[str] = (), interface: str | None = None
    ) -> None:
        program = shutil.which("passt")
        if program is None:
            raise ConfigError(
                "--net user: passt is not installed (Debian, Ubuntu: apt install passt)"
            )
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [program, "--foreground", "--quiet", "--fd", str(theirs.fileno())]
            for option, ports in (("--tcp-ports", tcp), ("--udp-ports", udp)):
                if ports:
                    command += [option, ",".join(ports)]
            if interface is not None:
                command += ["--interface", interface]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._words,  # a pipe that nobody reads would hold it up one day
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is the VMM's to handle
                )
            except OSError as error:
                self.socket.close()
                self._words.close()
                raise ConfigError(f"--net user: {program}: {error.strerror}") from None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STARTED_S)
            self.socket.close()
            raise ConfigError(f"--net user: passt did not start: {self._last_words()}")
        self.fd = self.socket.fileno()
        self._buffer = bytearray(_ROOM)
        self._have = memoryview(self._buffer)[:0]
        """What was read and not taken yet; begins with a frame's length."""

    def agree(self, features: int) -> None:
        """There is nothing to agree upon."""

    def send(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Send one frame; False: it was dropped, because passt is busy or gone.

        Waits for passt as long as a wire would take, and longer only within a frame.
        """
        size = sum(map(len, parts))
        if self.fd < 0 or not _ETHERNET_HEADER <= size <= _LONGEST_FRAME:
            return False
        rest = memoryview(b"".join((_LENGTH.pack(size), *parts)))
        whole = len(rest)
        while rest:
            try:
                rest = rest[self.socket.send(rest, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                if not self._wait_writable(_BUSY_MS if len(rest) == whole else _STUCK_MS):
                    if len(rest) < whole:  # whatever came next would be taken for its rest
                        self.close()
                    return False
            except OSError:
                self.close()
                return False
        return True

    def receive(self, parts: Sequence[memoryview]) -> int:
        """Take the next frame and return its bytes; 0: there is none now. What does not fit is
        lost."""
        frame = self._next()
        if frame is None:
            return 0
        done = 0
        for part in parts:
            piece = frame[done : done + len(part)]
            part[: len(piece)] = piece
            done += len(piece)
        return done

    def close(self) -> None:
        """Cut the cable; passt ends by itself. May be called twice."""
        if self.fd >= 0:
            self.fd = -1
            self.socket.close()
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._words.close()

    def _next(self) -> memoryview | None:
        while self.fd >= 0:
            have = self._have
            if len(have) >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(have)
                end = _LENGTH.size + size
                if size > _LONGEST_FRAME:  # the stream is out of step, and will never be in step
                    self.close()
                    return None
                if len(have) >= end:
                    self._have = have[end:]
                    return have[_LENGTH.size : end]
            if not self._read_more():
                return None
        return None

    def _read_more(self) -> bool:
        """Move what is there to the front and read on behind it; say whether anything came."""
        have = len(self._have)
        buffer = memoryview(self._buffer)
        if have:
            buffer[:have] = bytes(self._have)
        try:
            got = self.socket.recv_into(buffer[have:], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            got = -1
        except OSError:
            got = 0
        self._have = buffer[: have + max(got, 0)]
        if got == 0:
            self.close()
        return got > 0

    def _wait_writable(self, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(milliseconds))

    def _last_words(self) -> str:
        with self._words as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip() and "syslog" not in line]
        return told[-1] if told else f"status {self._process.returncode}, without a word"
