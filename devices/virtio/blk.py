"""A disk: requests for sectors of 512 bytes, on one queue or several.

Modelled: reading and writing, flush, discard, write-zeroes, the serial number, and a write cache
that the driver can switch off. Data goes between the disk and the guest's buffers without a copy.
Left out: secure erase, zones, lifetime, and the geometry of cylinders; none of them is offered.

A request that the disk cannot carry out gets IOERR, one that it does not know UNSUPP. One
that has no place for its status, or no header, is none: the device then needs a reset.

Spec: virtio 1.2, "Block Device".
"""

from __future__ import annotations

import struct
from functools import partial

from devices.records import Record
from devices.registers import Register, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import RingError
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ClassVar, Protocol

    from devices.protocols import State
    from devices.token_bucket import RateLimit
    from devices.virtio.queue import Chain, Queue

    class Disk(Protocol):
        """What holds the data. Offsets and sizes are in bytes, whole sectors of the disk; every
        method may take long, and raises OSError where the host could not do it."""

        sectors: int
        serial: bytes

        @property
        def read_only(self) -> bool:
            """Whether writing is refused."""

        def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
            """Fill the buffers, one behind the other."""

        def write_from(self, offset: int, buffers: Sequence[memoryview]) -> None:
            """Write what is in the buffers."""

        def flush(self) -> None:
            """Make durable what was written."""

        def discard(self, offset: int, size: int) -> None:
            """What is there is not needed any more."""

        def zero(self, offset: int, size: int, *, unmap: bool) -> None:
            """Make it zeros; with `unmap` they need take no room."""


__all__ = ["SECTOR_SIZE", "Blk", "BlkState"]

SECTOR_SIZE = 512

SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 10
CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES = 1 << 11, 1 << 12, 1 << 13, 1 << 14

_IN, _OUT, _FLUSH, _GET_ID, _DISCARD, _WRITE_ZEROES = 0, 1, 4, 8, 11, 13
_OK, _IOERR, _UNSUPP = 0, 1, 2
_HEADER = struct.Struct("<IIQ")  # type, priority, sector
_SEGMENT = struct.Struct("<QII")  # sector, sectors, flags
_UNMAP = 1
_ID_SIZE = 20
_QUEUE_SIZE = 256
_MOST_SEGMENTS = 32
"""Of one discard or write-zeroes request."""
_MOST_SECTORS = 1 << 22
"""Of one segment of those: 2 GiB."""
_SIGNAL_EVERY = 16
"""So many requests may be done before the driver is told of the first."""


class BlkState(Record):
    """What the driver has chosen."""

    kind: ClassVar[str] = "virtio-blk"
    version: ClassVar[int] = 1

    sectors: int
    writeback: int
    features: int


class _NoDisk:
    """A disk without a sector."""

    sectors = 0
    read_only = True
    serial = b""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        raise OSError

    write_from = read_into

    def flush(self) -> None:
        raise OSError

    def discard(self, offset: int, size: int) -> None:
        raise OSError

    def zero(self, offset: int, size: int, *, unmap: bool) -> None:
        raise OSError


class Counts:
    """What one queue has done; nobody but its thread changes it."""

    __slots__ = ("errors", "flushes", "other", "read_bytes", "reads", "write_bytes", "writes")

    def __init__(self) -> None:
        self.reads = self.read_bytes = self.writes = self.write_bytes = 0
        self.flushes = self.other = self.errors = 0


class Blk(VirtioDevice):
    """A virtio disk in front of `disk`.

    Args:
        disk: holds the data.
        name: the device's.
        queues: how many there are; each is served by a thread of its own.
        limit: how many requests and bytes a second; None: no limit.
        later: calls a function after so many seconds, where there is a limit.
    """

    device_id = 2
    blocks = True
    config = RegisterTable(
        Register("capacity", 0, 8, "r", doc="Sectors of 512 bytes."),
        Register("size_max", 8, 4, "r"),
        Register("seg_max", 12, 4, "r", doc="Buffers of data in a request."),
        Register("cylinders", 16, 2, "r"),
        Register("heads", 18, 1, "r"),
        Register("geometry_sectors", 19, 1, "r"),
        Register("blk_size", 20, 4, "r"),
        Register("physical_block_exp", 24, 1, "r"),
        Register("alignment_offset", 25, 1, "r"),
        Register("min_io_size", 26, 2, "r", doc="In blocks."),
        Register("opt_io_size", 28, 4, "r"),
        Register("writeback", 32, 1, writable=1, fields=bits(WRITEBACK=0)),
        Register("unused0", 33, 1, "r"),
        Register("num_queues", 34, 2, "r"),
        Register("max_discard_sectors", 36, 4, "r"),
        Register("max_discard_seg", 40, 4, "r"),
        Register("discard_sector_alignment", 44, 4, "r"),
        Register("max_write_zeroes_sectors", 48, 4, "r"),
        Register("max_write_zeroes_seg", 52, 4, "r"),
        Register("write_zeroes_may_unmap", 56, 1, "r"),
    )

    def __init__(
        self,
        disk: Disk | None = None,
        name: str = "virtio-blk",
        *,
        queues: int = 1,
        limit: RateLimit | None = None,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.disk: Disk = disk or _NoDisk()
        self._limit, self._later = limit, later
        self._waiting: set[int] = set()
        """The queues that wait until the limit lets them go on."""
        self.queue_sizes = (_QUEUE_SIZE,) * queues
        self.counts = [Counts() for _ in range(queues)]
        self.features = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | MQ
        self.values |= {
            "capacity": self.disk.sectors,
            "seg_max": _QUEUE_SIZE - 2,
            "blk_size": SECTOR_SIZE,
            "physical_block_exp": 3,  # 4 KiB, in which the host's page cache counts
            "min_io_size": 8,
            "num_queues": queues,
        }
        if self.disk.read_only:
            self.features |= RO
        else:
            self.features |= CONFIG_WCE | DISCARD | WRITE_ZEROES
            self.values |= {
                "writeback": 1,
                "max_discard_sectors": _MOST_SECTORS,
                "max_discard_seg": _MOST_SEGMENTS,
                "discard_sector_alignment": 8,
                "max_write_zeroes_sectors": _MOST_SECTORS,
                "max_write_zeroes_seg": _MOST_SEGMENTS,
                "write_zeroes_may_unmap": 1,
            }
        self._agreed = 0

    def activate(self, features: int) -> None:
        """Take what was agreed upon; without flushes every write is durable when it is done."""
        self._agreed = features
        if features & CONFIG_WCE and not features & FLUSH:
            self.values["writeback"] = 0

    def reset(self) -> None:
        """Return to the cache that the disk begins with."""
        self._agreed = 0
        self.values["writeback"] = 0 if self.disk.read_only else 1

    def serve(self, queue: Queue) -> None:
        """Carry out the requests that wait.

        Raises:
            RingError: one of them is none.
        """
        limit, signalled = self._limit, 0
        counts, transport = self.counts[queue.index], self.transport
        while True:
            if limit is not None and (wait := limit.wait_ns()):
                self._wait(queue.index, wait)
                return
            chain = queue.pop()
            if chain is None:
                return
            queue.push(chain, self._carry_out(chain, counts))
            if limit is not None:
                limit.take(chain.readable_bytes + chain.writable_bytes)
            signalled += 1
            if not signalled % _SIGNAL_EVERY and transport is not None:
                transport.used(queue)

    def counters(self) -> dict[str, int]:
        """Requests by kind, bytes, and errors, of all queues together."""
        return {name: sum(getattr(c, name) for c in self.counts) for name in Counts.__slots__}

    def save(self) -> BlkState:
        """Return what the driver has chosen."""
        return BlkState(
            sectors=self.values["capacity"],
            writeback=self.values["writeback"],
            features=self._agreed,
        )

    def load(self, state: State) -> None:
        """Become the disk that `state` was saved from.

        Raises:
            StateError: it is of something else, or of a disk of another size.
        """
        state = require(state, BlkState)
        require_unsigned(state, sectors=64, writeback=1, features=64)
        if state.sectors != self.values["capacity"]:
            raise StateError(
                f"'virtio-blk' field sectors: the disk has {self.values['capacity']} here and had "
                f"{state.sectors}"
            )
        self.values["writeback"] = state.writeback
        self._agreed = state.features

    # -- limits -----------------------------------------------------------------------------

    def _wait(self, index: int, wait_ns: int) -> None:
        """Have a queue served when there are tokens again."""
        if index not in self._waiting and self._later is not None:
            self._waiting.add(index)
            self._later(wait_ns / 1e9, partial(self._go_on, index))

    def _go_on(self, index: int) -> None:
        self._waiting.discard(index)
        if self.transport is not None:
            self.transport.kick(index)

    # -- requests ---------------------------------------------------------------------------

    def _carry_out(self, chain: Chain, counts: Counts) -> int:
        """Carry out one request; return how many bytes of its buffers were filled."""
        header, sent = _header(chain.readable)
        kind, _, sector = _HEADER.unpack(header)
        room = chain.writable
        if not room:
            raise RingError("a request without a place for its status")
        last = room[-1]
        status = last[-1:]
        room = room[:-1] if len(last) == 1 else [*room[:-1], last[:-1]]
        done = 0
        try:
            if kind == _IN:
                size = self._size(sector, room)
                self.disk.read_into(sector * SECTOR_SIZE, room)
                counts.reads += 1
                counts.read_bytes += size
                done = size
            elif kind == _OUT:
                self._writable()
                size = self._size(sector, sent)
                self.disk.write_from(sector * SECTOR_SIZE, sent)
                counts.writes += 1
                counts.write_bytes += size
                self._settle()
            elif kind == _FLUSH:
                counts.flushes += 1
                self.disk.flush()
            else:
                counts.other += 1
                done = self._rarer(kind, sent, room)
            status[0] = _OK
        except OSError:
            counts.errors += 1
            status[0] = _IOERR
            return 0 if room else 1
        except _Unsupported:
            counts.errors += 1
            status[0] = _UNSUPP
            return 0 if room else 1
        return done + 1 if done == sum(map(len, room)) else done

    def _rarer(self, kind: int, sent: list[memoryview], room: list[memoryview]) -> int:
        """The requests that do not come by the thousand."""
        if kind == _GET_ID:
            left = self.disk.serial[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
            done = 0
            for view in room:
                part = left[done : done + len(view)]
                view[: len(part)] = part
                done += len(part)
            return done
        if kind == _DISCARD and self._agreed & DISCARD:
            for offset, size, flags in self._segments(sent):
                if flags:
                    raise _Unsupported
                self.disk.discard(offset, size)
            return 0
        if kind == _WRITE_ZEROES and self._agreed & WRITE_ZEROES:
            for offset, size, flags in self._segments(sent):
                if flags & ~_UNMAP:
                    raise _Unsupported
                self.disk.zero(offset, size, unmap=bool(flags & _UNMAP))
            self._settle()
            return 0
        raise _Unsupported

    def _segments(self, sent: list[memoryview]) -> list[tuple[int, int, int]]:
        """The ranges of a request, all of them on the disk: offset, size in bytes, flags."""
        self._writable()
        size = sum(map(len, sent))
        if size % _SEGMENT.size or not 0 < size <= _MOST_SEGMENTS * _SEGMENT.size:
            raise OSError
        data = b"".join(sent)
        found = []
        for sector, count, flags in _SEGMENT.iter_unpack(data):
            if count > _MOST_SECTORS or sector + count > self.disk.sectors:
                raise OSError
            found.append((sector * SECTOR_SIZE, count * SECTOR_SIZE, flags))
        return found

    def _size(self, sector: int, buffers: list[memoryview]) -> int:
        """How many bytes there are to read or write, which all lie on the disk."""
        size = sum(map(len, buffers))
        if size % SECTOR_SIZE or sector + size // SECTOR_SIZE > self.disk.sectors:
            raise OSError
        return size

    def _writable(self) -> None:
        if self.disk.read_only:
            raise OSError

    def _settle(self) -> None:
        """Make a write durable where the driver counts on that without a flush."""
        agreed = self._agreed
        cached = self.values["writeback"] if agreed & CONFIG_WCE else agreed & FLUSH
        if not cached:
            self.disk.flush()


class _Unsupported(Exception):
    """A request that is not known here."""


def _header(readable: list[memoryview]) -> tuple[bytes | memoryview, list[memoryview]]:
    """A request's header, and what follows it."""
    if readable and len(readable[0]) == _HEADER.size:  # as every driver has it
        return readable[0], readable[1:]
    taken, rest = b"", list(readable)
    while rest and len(taken) < _HEADER.size:
        first = rest.pop(0)
        missing = _HEADER.size - len(taken)
        taken += bytes(first[:missing])
        if len(first) > missing:
            rest.insert(0, first[missing:])
    if len(taken) < _HEADER.size:
        raise RingError("a request that is shorter than its header")
    return taken, rest
