"""A console, and ports beside it: streams of bytes between guest and host.

Modelled: one port as a plain console, or several with the control queues, by which either side says
what a port is called, that it is open, and how large the console's screen is; the emergency write.
Left out: ports that come and go while the guest runs.

Input goes into buffers that the guest has given; where it has none, or has not opened the port,
nothing is taken and the host offers it again (`on_room`). Of one request to send, at most 1 MiB
is sent: how long a request takes is not for the guest to choose.

Spec: virtio 1.2, "Console Device". The message of a new size has columns first, as the
specification says; most Linux kernels read it the other way round, but take a console without other
ports at its configuration space.
"""

from __future__ import annotations

import struct
from collections import deque

from devices.records import Record
from devices.registers import Register, RegisterTable
from devices.states import require, require_flags, require_unsigned
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import RingError
from devices.wiring import ByteSink, Signal, StateError, discard, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from devices.protocols import State
    from devices.virtio.queue import Queue

__all__ = ["ConsolePort", "ConsoleState", "VirtioConsole"]

SIZE, MULTIPORT, EMERG_WRITE = 1 << 0, 1 << 1, 1 << 2

DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY = 0, 1, 2, 3
CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = 4, 5, 6, 7
"""Events of control messages."""

_MESSAGE = struct.Struct("<IHH")  # port, event, value
_CONTROL_RX, _CONTROL_TX = 2, 3
_QUEUE_SIZE = 64
_MOST_PORTS = 31
_MOST_SENT = 1 << 20
_WAITING_PER_PORT = 8
"""Control messages that may wait for buffers; a driver that has none wants none."""


class ConsolePort:
    """One stream.

    Args:
        out: gets what the guest sends.
        on_room: called when the guest can take input again; it may call `receive` at once.
        name: what the guest finds it under (/dev/virtio-ports/NAME).
        console: it is a terminal of the guest's (hvc0), and no bare stream.
    """

    def __init__(
        self,
        out: ByteSink = discard,
        on_room: Signal = no_signal,
        *,
        name: str = "",
        console: bool = False,
    ) -> None:
        self.out = out
        self.on_room = on_room
        self.name = name
        self.console = console
        self.guest_open = self.host_open = False


class ConsoleState(Record):
    """What either side has been told."""

    kind: ClassVar[str] = "virtio-console"
    version: ClassVar[int] = 1

    cols: int
    rows: int
    multiport: bool
    guest_open: int
    """A bit a port."""
    host_open: int
    waiting: tuple[bytes, ...]
    """Control messages that the driver had no buffers for."""


class VirtioConsole(VirtioDevice):
    """A console device. The first port is a console; more than one make it a device of ports."""

    device_id = 3
    config = RegisterTable(
        Register("cols", 0, 2, "r"),
        Register("rows", 2, 2, "r"),
        Register("max_nr_ports", 4, 4, "r"),
        Register("emerg_wr", 8, 4, "w", doc="Sends a byte without any queue."),
    )

    def __init__(
        self,
        ports: Sequence[ConsolePort] = (),
        name: str = "virtio-console",
        *,
        size: tuple[int, int] = (80, 25),
    ) -> None:
        super().__init__()
        self.name = name
        self.ports = list(ports) or [ConsolePort(console=True)]
        if len(self.ports) > _MOST_PORTS:
            raise ValueError(f"{len(self.ports)} ports: {_MOST_PORTS} at most")
        several = len(self.ports) > 1
        self.features = SIZE | EMERG_WRITE | (MULTIPORT if several else 0)
        self.queue_sizes = (_QUEUE_SIZE,) * (2 + 2 * len(self.ports) if several else 2)
        self.values |= {"cols": size[0], "rows": size[1], "max_nr_ports": len(self.ports)}
        self._sent = self._received = 0
        self._multiport = False
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_PER_PORT * len(self.ports))
        for port in self.ports:
            port.host_open = True

    # -- the host ---------------------------------------------------------------------------

    def receive(self, data: bytes, port: int = 0) -> int:
        """Give the guest input; return how many bytes it had room for.

        Raises:
            IndexError: there is no such port.
        """
        stream, transport = self.ports[port], self.transport
        if transport is None or not transport.running:
            return 0
        queue = transport.queues[_receive_queue(port)]
        if not queue.attached or (self._multiport and not stream.guest_open):
            return 0
        done = 0
        try:
            queue.refresh()
            while done < len(data) and (chain := queue.pop()) is not None:
                written = chain.write(data[done:])
                if chain.readable or not written:
                    raise RingError("a receive buffer without room")
                queue.push(chain, written)
                done += written
                self._received += written
        except RingError as error:
            transport.break_down(f"queue {queue.index}: {error}")
        transport.used(queue)
        return done

    def resize(self, cols: int, rows: int) -> None:
        """The console's screen has another size: columns and rows of characters."""
        self.values |= {"cols": cols & 0xFFFF, "rows": rows & 0xFFFF}
        if self._multiport:
            for number, port in enumerate(self.ports):
                if port.console:
                    self._tell_size(number)
            self._flush()
        if self.transport is not None:
            self.transport.config_changed()

    def set_open(self, port: int, connected: bool) -> None:
        """Tell the guest that somebody is at the other end of a port, or nobody."""
        stream = self.ports[port]
        if stream.host_open is not connected:
            stream.host_open = connected
            if self._multiport:
                self._tell(port, PORT_OPEN, int(connected))
                self._flush()

    # -- the guest --------------------------------------------------------------------------

    def activate(self, features: int) -> None:
        """Take what was agreed upon."""
        self._multiport = bool(features & MULTIPORT)

    def reset(self) -> None:
        """Forget what the driver did."""
        self._multiport = False
        self._waiting.clear()
        for port in self.ports:
            port.guest_open = False

    def write_config(self, name: str, value: int) -> None:
        """Send the byte of an emergency write."""
        if name == "emerg_wr":
            self.ports[0].out(bytes((value & 0xFF,)))

    def serve(self, queue: Queue) -> None:
        """Send what the guest has, hear what it tells, or use the room that it made.

        Raises:
            RingError: a buffer is to be written that can only be read, or a message is none.
        """
        index = queue.index
        if index == _CONTROL_RX:
            self._fill(queue)
        elif index == _CONTROL_TX:
            for chain in queue:
                message = chain.read(_MESSAGE.size)
                if chain.writable or len(message) < _MESSAGE.size:
                    raise RingError("a control message that is none")
                self._hear(*_MESSAGE.unpack(message))
                queue.push(chain, 0)
            self._flush()
        elif index & 1:
            port = self.ports[_port_of(index)]
            for chain in queue:
                if chain.writable:
                    raise RingError("a buffer to be written in a transmit queue")
                left = _MOST_SENT
                for view in chain.readable:
                    if left > 0:
                        port.out(bytes(view[:left]))
                        self._sent += min(left, len(view))
                        left -= len(view)
                queue.push(chain, 0)
        else:
            self.ports[_port_of(index)].on_room()

    def counters(self) -> dict[str, int]:
        """What went out of the guest, and what came in."""
        return {"output_bytes": self._sent, "input_bytes": self._received}

    # -- control messages -------------------------------------------------------------------

    def _hear(self, number: int, event: int, value: int) -> None:
        if event == DEVICE_READY:
            if value:
                for index in range(len(self.ports)):
                    self._tell(index, PORT_ADD)
            return
        if number >= len(self.ports):
            return
        port = self.ports[number]
        if event == PORT_READY and value:
            if port.console:
                self._tell(number, CONSOLE_PORT, 1)
                self._tell_size(number)
            if port.name:
                self._tell(number, PORT_NAME, 1, port.name.encode())
            if port.host_open:
                self._tell(number, PORT_OPEN, 1)
        elif event == PORT_OPEN:
            port.guest_open = bool(value)
            if value:
                port.on_room()

    def _tell(self, port: int, event: int, value: int = 0, more: bytes = b"") -> None:
        self._waiting.append(_MESSAGE.pack(port, event, value) + more)

    def _tell_size(self, port: int) -> None:
        size = struct.pack("<HH", self.values["cols"], self.values["rows"])
        self._tell(port, RESIZE, 0, size)

    def _flush(self) -> None:
        """Give the driver what waits for its buffers."""
        transport = self.transport
        if transport is None or not transport.running:
            return
        queue = transport.queues[_CONTROL_RX]
        if queue.attached:
            try:
                queue.refresh()
                self._fill(queue)
            except RingError as error:
                transport.break_down(f"queue {queue.index}: {error}")
            transport.used(queue)

    def _fill(self, queue: Queue) -> None:
        while self._waiting and (chain := queue.pop()) is not None:
            if chain.readable or not chain.writable:
                raise RingError("a buffer for control messages that cannot be written")
            queue.push(chain, chain.write(self._waiting.popleft()))

    # -- snapshots --------------------------------------------------------------------------

    def save(self) -> ConsoleState:
        """Return what either side has been told."""
        return ConsoleState(
            cols=self.values["cols"],
            rows=self.values["rows"],
            multiport=self._multiport,
            guest_open=sum(port.guest_open << n for n, port in enumerate(self.ports)),
            host_open=sum(port.host_open << n for n, port in enumerate(self.ports)),
            waiting=tuple(self._waiting),
        )

    def load(self, state: State) -> None:
        """Become the console that `state` was saved from.

        Raises:
            StateError: it is of something else.
        """
        state = require(state, ConsoleState)
        require_unsigned(state, cols=16, rows=16, guest_open=32, host_open=32)
        require_flags(state, "multiport")
        if (state.guest_open | state.host_open) >> len(self.ports):
            raise StateError(f"'virtio-console': it has {len(self.ports)} ports here")
        waiting = state.waiting
        if type(waiting) is not tuple or len(waiting) > (self._waiting.maxlen or 0):
            raise StateError("'virtio-console' field waiting: not a few messages")
        if any(type(message) is not bytes or len(message) > 4096 for message in waiting):
            raise StateError("'virtio-console' field waiting: something is no message")
        self.values |= {"cols": state.cols, "rows": state.rows}
        self._multiport = state.multiport
        self._waiting.clear()
        self._waiting.extend(waiting)
        for number, port in enumerate(self.ports):
            port.guest_open = bool(state.guest_open >> number & 1)
            port.host_open = bool(state.host_open >> number & 1)


def _receive_queue(port: int) -> int:
    return 2 * port + 2 if port else 0


def _port_of(queue: int) -> int:
    """The port that a queue with data belongs to."""
    return queue // 2 - 1 if queue >= 4 else 0
