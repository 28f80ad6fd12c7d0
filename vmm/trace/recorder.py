"""Keeping the journal: what devices are given, and what they do, as the machine runs.

The machine makes its devices through `Journal.make`, which stands between them and all they are
connected to; a machine that keeps no journal makes them directly, and nothing is in between.

Spec: `vmm.trace.journal`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from devices.protocols import Device
from devices.wiring import open_bus
from vmm.trace.journal import (
    ACCESS,
    CALL,
    END,
    ENTRY,
    FOREIGN,
    MAKE,
    MAP,
    NESTED,
    OUT,
    RAISED,
    START,
    VERSION,
    WHEN,
    WRITE,
    Memory,
    Wire,
    encode,
)

__all__ = ["MOST_ENTRIES", "Journal"]

P = ParamSpec("P")
D = TypeVar("D", bound=Device)

MOST_ENTRIES = 512
"""So many entries wait in memory before they are written: what a SIGKILL can cost."""
_LONGEST_NS = 1_000_000_000
"""And so long, while devices are called at all."""

_ACCESS = struct.Struct("<BBHIQIBBHQQ")  # entry, when, offset, value
_ACCESS_SIZE = _ACCESS.size - ENTRY.size
_ONES = tuple(open_bus(size) for size in range(9))
_U64 = open_bus(8)
_READ, _WRITE = (ACCESS, 0), (ACCESS, WRITE)
_NO_ARGS, _NONE = encode(()), encode(None)
_END = ENTRY.pack(END, 0, 0, 0)


class Journal:
    """The journal of one machine. Everything is called with the device lock held.

    Args:
        write: takes the number of the first access in a chunk, and the chunk.
        where: the exit that is being handled on the calling thread, and its vCPU.
    """

    def __init__(
        self, write: Callable[[int, bytes], None], where: Callable[[], tuple[int, int]]
    ) -> None:
        self._write = write
        self._where = where
        self._entries: list[bytes] = [ENTRY.pack(START, 0, VERSION, 0)]
        self._numbers: dict[str, int] = {}
        self._count = 0
        self._own: set[str] = set()
        self._others: set[str] = set()
        self._wires = 0
        self._inside = False
        """A device model's code is running: what it calls is on its way out."""
        self._nesting = 0
        """Outward calls that have not come back; entries must stay until they have."""
        self._accesses = self._written = 0
        self._due_ns = 0

    # -- devices --------------------------------------------------------------------------

    def make(self, cls: Callable[P, D], /, *args: P.args, **kwargs: P.kwargs) -> D:
        """Make a device by calling `cls`, and note from now on what crosses its boundary."""
        import inspect

        bound = inspect.signature(cls).bind(*args, **kwargs)
        bound.apply_defaults()  # a clock that nobody gave is a clock
        wires, at = self._wires, len(self._entries)
        kept: dict[str, object] = {}
        given: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kept[name], given[name] = self._connect(value)
        self._inside = True
        try:
            device = cls(**given)  # type: ignore[call-arg]
        except BaseException:
            del self._entries[at:]
            self._wires = wires
            raise
        finally:
            self._inside = False
        if device.name in self._own:  # another one of that name
            del self._numbers[device.name]
        index = self._number(device.name)
        self._own.add(device.name)
        path = f"{getattr(cls, '__module__', '')}:{getattr(cls, '__qualname__', '')}"
        self._entries.insert(at, self._made(index, 0, path, device.name, kept))
        # On the object itself, so that it is still what it was for everybody else.
        vars(device).update(read=self._reads(index, device), write=self._writes(index, device))
        for method in ("reset", *getattr(device, "inputs", ())):
            vars(device)[method] = self._calls(index, method, getattr(device, method))
        return device

    def noted(self, device: Device) -> Device:
        """What to put on a bus for a device: itself, if `make` made it, or a front of it under its
        name. Anything else is put behind something that notes its accesses."""
        return device if device.name in self._own else _Foreign(self, device)

    def map(self, name: str, space: str, start: int, end: int, base: int) -> None:
        """Note where a device answers, or will when it is made."""
        payload = b"".join(map(encode, (space, start, end, base)))
        self._entries.append(ENTRY.pack(MAP, 0, self._number(name), len(payload)) + payload)

    def foreign_in(self, device: Device, function: Callable[[int], int]) -> Callable[[int], int]:
        """`function`, which answers a port, with its calls noted as accesses to `device`."""

        def read(size: int) -> int:
            value = function(size)
            self.foreign(device, 0, size, value, False)
            return value

        return read

    def foreign_out(
        self, device: Device, function: Callable[[int, int], None]
    ) -> Callable[[int, int], None]:
        """`function`, which takes a port's writes, with its calls noted as accesses to `device`."""

        def write(value: int, size: int) -> None:
            function(value, size)
            self.foreign(device, 0, size, value, True)

        return write

    def foreign(self, device: Device, offset: int, size: int, value: int, write: bool) -> None:
        """Note an access to something that cannot be replayed. Behind it: it may have waited,
        without the lock, while other devices were called."""
        device_number = self._foreign_number(device)
        now, (number, vcpu) = time.monotonic_ns(), self._where()
        head = (ACCESS, WRITE if write else 0, device_number, _ACCESS_SIZE)
        when = (now, number, vcpu, size, 0)
        entry = _ACCESS.pack(*head, *when, offset & _U64, value & _ONES[size])
        self._passed(len(self._entries), entry, now)

    def flush(self) -> None:
        """Write what waits, unless a device is being called."""
        if self._entries and not self._nesting and not self._inside:
            data = b"".join(self._entries)
            self._entries.clear()  # the same list: the functions around devices hold it
            first, self._written = self._written + 1, self._accesses
            self._write(first, data)
        self._due_ns = time.monotonic_ns() + _LONGEST_NS

    # -- inward ---------------------------------------------------------------------------

    def _reads(self, index: int, device: Device) -> Callable[[int, int], int]:
        inner, entries = device.read, self._entries
        pack, clock, where = _ACCESS.pack, time.monotonic_ns, self._where

        def read(offset: int, size: int) -> int:
            if self._inside:
                return inner(offset, size)
            at, self._inside = len(entries), True
            try:
                value = inner(offset, size)
            except Exception as error:
                entries.insert(at, self._failed(index, 0, offset, size, 0, error))
                raise
            finally:
                self._inside = False
            now, (number, vcpu), kept = clock(), where(), value & _ONES[size]
            entry = pack(
                *_READ, index, _ACCESS_SIZE, now, number, vcpu, size, 0, offset & _U64, kept
            )
            self._passed(at, entry, now)
            return value

        return read

    def _writes(self, index: int, device: Device) -> Callable[[int, int, int], None]:
        inner, entries = device.write, self._entries
        pack, clock, where = _ACCESS.pack, time.monotonic_ns, self._where

        def write(offset: int, size: int, value: int) -> None:
            if self._inside:
                inner(offset, size, value)
                return
            at, self._inside = len(entries), True
            try:
                inner(offset, size, value)
            except Exception as error:
                entries.insert(at, self._failed(index, WRITE, offset, size, value, error))
                raise
            finally:
                self._inside = False
            now, (number, vcpu), kept = clock(), where(), value & _ONES[size]
            entry = pack(
                *_WRITE, index, _ACCESS_SIZE, now, number, vcpu, size, 0, offset & _U64, kept
            )
            self._passed(at, entry, now)

        return write

    def _passed(self, at: int, entry: bytes, now: int) -> None:
        """Keep the entry of an access, in front of what the device called."""
        entries = self._entries
        self._accesses += 1
        if len(entries) == at:
            entries.append(entry)
        else:
            entries.insert(at, entry)
        if (len(entries) >= MOST_ENTRIES or now > self._due_ns) and not self._nesting:
            self.flush()

    def _failed(
        self, index: int, flags: int, offset: int, size: int, value: int, error: Exception
    ) -> bytes:
        """The entry of an access that raised."""
        self._accesses += 1
        said, (number, vcpu) = encode(_told(error)), self._where()
        head = (ACCESS, flags | RAISED, index, _ACCESS_SIZE + len(said))
        when = (time.monotonic_ns(), number, vcpu, size, 0)
        return _ACCESS.pack(*head, *when, offset & _U64, value & _ONES[size]) + said

    def _calls(self, index: int, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        entries, named = self._entries, encode(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return inner(*args, **kwargs)
            at, self._inside = len(entries), True
            given = named + encode(args) + encode(kwargs)
            flags, outcome = RAISED, b""
            try:
                result = inner(*args, **kwargs)
                flags, outcome = 0, encode(result)
            except Exception as error:
                outcome = encode(_told(error))
                raise
            finally:
                self._inside = False
                payload = self._when() + given + outcome
                entries.insert(at, ENTRY.pack(CALL, flags, index, len(payload)) + payload)
            self._write_when_due()
            return result

        return call

    # -- outward --------------------------------------------------------------------------

    def _connect(self, value: Any) -> tuple[object, Any]:
        """What an argument of a device is in the journal, and what the device is given for it."""
        if callable(getattr(value, "read", None)) and callable(getattr(value, "write", None)):
            memory = Memory(self._wire())
            reads = self._outward(memory.number, value.read)
            return memory, _Memory(reads, self._outward(self._wire(), value.write))
        if callable(value):
            wire = Wire(self._wire())
            return wire, self._outward(wire.number, value)
        return value, value

    def _wire(self) -> int:
        self._wires += 1
        return self._wires - 1

    def _outward(self, wire: int, function: Callable[..., Any]) -> Callable[..., Any]:
        entries, pack = self._entries, ENTRY.pack

        def call(*args: Any) -> Any:
            if not self._inside:
                return function(*args)
            at, self._inside = len(entries), False
            self._nesting += 1
            given = encode(args) if args else _NO_ARGS
            flags, outcome = RAISED, b""
            try:
                result = function(*args)
                flags, outcome = 0, _NONE if result is None else encode(result)
            except Exception as error:
                outcome = encode(_told(error))
                raise
            finally:
                self._inside = True
                self._nesting -= 1
                payload = given + outcome
                if len(entries) == at:
                    entries.append(pack(OUT, flags, wire, len(payload)) + payload)
                else:
                    flags |= NESTED
                    entries.insert(at, pack(OUT, flags, wire, len(payload)) + payload)
                    entries.append(_END)
            return result

        return call

    # -- entries --------------------------------------------------------------------------

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = self._count
            self._count += 1
        return self._numbers[name]

    def _foreign_number(self, device: Device) -> int:
        """The number of a device that `make` did not make; it is introduced if it was not yet."""
        name, number = device.name, self._number(device.name)
        if name not in self._others:
            self._others.add(name)
            self._entries.append(self._made(number, FOREIGN, "", name, {}))
        return number

    def _made(self, index: int, flags: int, path: str, name: str, kept: dict[str, object]) -> bytes:
        payload = self._when() + b"".join(map(encode, (path, name, kept)))
        return ENTRY.pack(MAKE, flags, index, len(payload)) + payload

    def _when(self) -> bytes:
        number, vcpu = self._where()
        return WHEN.pack(time.monotonic_ns(), number, vcpu, 0, 0)

    def _write_when_due(self) -> None:
        full = len(self._entries) >= MOST_ENTRIES
        if (full or time.monotonic_ns() > self._due_ns) and not self._nesting:
            self.flush()


class _Foreign:
    """A device that the machine did not make, with its accesses noted."""

    def __init__(self, journal: Journal, device: Device) -> None:
        self.name = device.name
        self._journal = journal
        self._device = device

    def read(self, offset: int, size: int) -> int:
        """Ask the device."""
        value = self._device.read(offset, size)
        self._journal.foreign(self, offset, size, value, False)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Hand it to the device."""
        self._device.write(offset, size, value)
        self._journal.foreign(self, offset, size, value, True)

    def reset(self) -> None:
        """Reset the device."""
        self._device.reset()


class _Memory:
    """Guest memory, or something like it, whose reads and writes are noted."""

    def __init__(self, read: Callable[..., Any], write: Callable[..., Any]) -> None:
        self.read = read
        self.write = write


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
