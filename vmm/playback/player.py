"""The player: walks through a journal, calls the devices as they were called, and compares.

The journal says what is done to a device; what the device calls meanwhile has to be the journal's
next entry. So the first thing that it does differently is found at once, be it a clock that is
asked once more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devices.wiring import GuestAddressError, open_bus
from vmm.errors import ConfigError
from vmm.playback.models import model_class, surroundings
from vmm.playback.result import Difference, ReplayResult
from vmm.playback.words import access_words, call_words, error_words, outward_words, register_words
from vmm.trace.journal import (
    ACCESS,
    CALL,
    END,
    FOREIGN,
    MAKE,
    MAP,
    NESTED,
    NO_VCPU,
    OUT,
    RAISED,
    REGISTERS,
    WHEN,
    WRITE,
    Entry,
    JournalError,
    decode,
    encode,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device

__all__ = ["Player"]

_DEEPEST = 32
"""So deep no device calls the host that calls a device."""
_WIDTHS = (1, 2, 4, 8)
_ADDRESS_ERRORS = ("GuestAddressError", "GuestMemoryError")
"""The error that models know how to meet, and the machine's own kind of it."""


class _Differs(BaseException):
    """A device does something else than in the recording. No model may catch it."""

    def __init__(self, recorded: str, replayed: str) -> None:
        super().__init__(recorded, replayed)
        self.recorded, self.replayed = recorded, replayed


class _RecordedError(Exception):
    """What a call outward raised in the recorded machine, and raises again."""


@dataclass(slots=True)
class _Slot:
    """A device of the recording."""

    name: str
    device: Device | None = None
    """None: not replayed."""
    skipped: int = 0


class Player:
    """Plays a journal once.

    Args:
        entries: the journal.
        began_ns: the time that is 0 s.
        overrides: what to make devices with, by name.
        only: the one device to replay.
    """

    def __init__(
        self,
        entries: Iterator[Entry],
        *,
        began_ns: int = 0,
        overrides: Mapping[str, Callable[..., Device]] | None = None,
        only: str | None = None,
    ) -> None:
        self._entries = entries
        self._next: Entry | None = None
        self._began_ns = began_ns
        self._overrides = overrides or {}
        self._only = only
        self._slots: dict[int, _Slot] = {}
        # Where devices answer: the space, start, end and base. Known before they are made.
        self._ranges: dict[int, list[tuple[str, int, int, int]]] = {}
        self._wires: dict[int, str] = {}
        self._depth = 0
        self._replayed = self._calls = self._outward_calls = 0
        self._difference: Difference | None = None
        self.accesses = 0
        """How many accesses of the journal have been passed, the one at hand included."""

    def play(self) -> None:
        """Play up to the end or to the first difference.

        Raises:
            JournalError: the journal is damaged.
        """
        self._advance()
        while self._next is not None and self._difference is None:
            self._inward()

    def check_names(self) -> None:
        """See that the devices that were named are there.

        Raises:
            ConfigError: one is not.
        """
        if self._difference is not None:
            return  # what comes later was not looked at
        names = [slot.name for slot in self._slots.values()]
        for wanted in (*self._overrides, *(() if self._only is None else (self._only,))):
            if wanted not in names:
                raise ConfigError(
                    f"no device {wanted!r} in the recording; it has {', '.join(names) or 'none'}"
                )

    def result(self, *, complete: bool = True) -> ReplayResult:
        """What was found."""
        return ReplayResult(
            accesses=self._replayed,
            calls=self._calls,
            outward=self._outward_calls,
            difference=self._difference,
            skipped={s.name: s.skipped for s in self._slots.values() if s.skipped},
            complete=complete,
        )

    # -- inward ---------------------------------------------------------------------------

    def _inward(self) -> None:
        """Play the next entry, an inward one, with all that belongs to it."""
        entry = self._take()
        if entry.kind == MAKE:
            self._make(entry)
        elif entry.kind == MAP:
            self._map(entry)
        elif entry.kind == ACCESS:
            self._access(entry)
        elif entry.kind == CALL:
            self._call(entry)
        else:
            raise JournalError(f"an entry of kind {entry.kind} belongs to nothing")

    def _make(self, entry: Entry) -> None:
        path, at = _text(entry, WHEN.size)
        name, at = _text(entry, at)
        arguments, _ = decode(entry.payload, at)
        if entry.who in self._slots or not isinstance(arguments, dict):
            raise JournalError(f"device {name} is made in a way that no device is")
        slot = self._slots[entry.who] = _Slot(name)
        cls = self._overrides.get(name) or model_class(path)
        if cls is None or (self._only is not None and name != self._only):
            self._pass_by()
            return
        if entry.flags & FOREIGN and name not in self._overrides:
            return
        self._calls += 1
        given = surroundings(cls, name, arguments, self._outward, self._wires)

        def make() -> None:
            slot.device = cls(**given)

        self._perform(slot, entry, f"making of {name}", make, encode(None))

    def _map(self, entry: Entry) -> None:
        values, at = [], 0
        for _ in range(4):
            value, at = decode(entry.payload, at)
            values.append(value)
        space, *numbers = values
        if not isinstance(space, str) or not all(type(number) is int for number in numbers):
            raise JournalError("a range of addresses that is none")
        start, end, base = numbers
        self._ranges.setdefault(entry.who, []).append((space, start, end, base))

    def _access(self, entry: Entry) -> None:
        slot = self._slot(entry)
        self.accesses += 1
        try:
            offset, value = REGISTERS.unpack_from(entry.payload, WHEN.size)
            size = WHEN.unpack_from(entry.payload)[3]
        except struct.error:
            raise JournalError("an access is cut off") from None
        if size not in _WIDTHS:
            raise JournalError(f"an access of {size} bytes")
        device = slot.device
        if device is None:
            slot.skipped += 1
            self._pass_by()
            return
        self._replayed += 1
        write = bool(entry.flags & WRITE)
        if write:
            outcome = encode(None)

            def act() -> Any:
                device.write(offset, size, value)
        else:
            outcome = encode(value)

            def act() -> Any:
                return device.read(offset, size) & open_bus(size)

        if entry.flags & RAISED:
            outcome = bytes(entry.payload[WHEN.size + REGISTERS.size :])

        def what() -> str:
            ranges = self._ranges.get(entry.who, ())
            return access_words(slot.name, device, ranges, offset, size, write, value)

        def told(data: bytes) -> str:
            number = decode(memoryview(data))[0]
            return register_words(device, offset, size, write, number)

        self._perform(slot, entry, what, act, outcome, told)

    def _call(self, entry: Entry) -> None:
        slot = self._slot(entry)
        method, at = _text(entry, WHEN.size)
        args, at = decode(entry.payload, at)
        named, at = decode(entry.payload, at)
        if not isinstance(args, tuple) or not isinstance(named, dict):
            raise JournalError(f"a call of {slot.name} without arguments")
        device = slot.device
        if device is None:
            self._pass_by()
            return
        self._calls += 1
        inputs = ("reset", *getattr(device, "inputs", ()))
        function = getattr(device, method, None) if method in inputs else None
        if function is None:
            raise JournalError(f"{slot.name} cannot be called by {method}")
        what = f"{call_words(method, args, named)} of {slot.name}"
        outcome = bytes(entry.payload[at:])
        self._perform(slot, entry, what, lambda: function(*args, **named), outcome)

    def _perform(
        self,
        slot: _Slot,
        entry: Entry,
        what: str | Callable[[], str],
        act: Callable[[], Any],
        recorded: bytes,
        told: Callable[[bytes], str] | None = None,
    ) -> None:
        """Do something to a device, and compare what comes of it with the recording."""
        error = None
        try:
            try:
                outcome = encode(act())
            except JournalError:
                raise  # met on the way
            except Exception as raised:
                error = raised
                outcome = encode(f"{type(raised).__name__}: {raised}")
            if self._next is not None and self._next.kind == OUT:
                missing = outward_words(self._wires, *self._read_outward(self._next)[:2])
                raise _Differs(missing, "no such call" if error is None else error_words(error))
            raised_then = bool(entry.flags & RAISED)
            if outcome != recorded or (error is not None) != raised_then:
                raise _Differs(
                    _outcome_words(recorded, raised_then, told),
                    _outcome_words(outcome, error is not None, told),
                )
        except _Differs as differs:
            if self._difference is None:
                when, number, vcpu, _, _ = WHEN.unpack_from(entry.payload)
                self._difference = Difference(
                    device=slot.name,
                    access=self.accesses,
                    what=what if isinstance(what, str) else what(),
                    recorded=differs.recorded,
                    replayed=differs.replayed,
                    exit=None if vcpu == NO_VCPU else number,
                    vcpu=None if vcpu == NO_VCPU else vcpu,
                    seconds=(when - self._began_ns) / 1e9,
                )
            if self._depth:
                raise

    # -- outward --------------------------------------------------------------------------

    def _outward(self, wire: int, args: tuple[Any, ...]) -> Any:
        """A device calls: it has to be what the journal has next."""
        entry = self._next
        given = encode(args)
        if entry is None or entry.kind != OUT:
            raise _Differs("no such call", outward_words(self._wires, wire, args))
        number, then, outcome_at = self._read_outward(entry)
        if number != wire or entry.payload[:outcome_at] != given:
            raise _Differs(
                outward_words(self._wires, number, then), outward_words(self._wires, wire, args)
            )
        self._outward_calls += 1
        self._advance()
        if entry.flags & NESTED:
            self._inner()
        result, _ = decode(entry.payload, outcome_at)
        if entry.flags & RAISED:
            kind = str(result).partition(":")[0]
            raise (GuestAddressError if kind in _ADDRESS_ERRORS else _RecordedError)(result)
        return result

    def _pass_by(self) -> None:
        """Leave out what a device that is not replayed called; others may be called inside."""
        while self._next is not None and self._next.kind == OUT:
            if self._take().flags & NESTED:
                self._inner()

    def _inner(self) -> None:
        """Play what the host did to devices before a call outward came back."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise JournalError("calls lie in one another too deep")
        try:
            while self._next is not None and self._next.kind != END:
                self._inward()
            if self._next is None:
                raise JournalError("it ends inside of a call")
            self._advance()
        finally:
            self._depth -= 1

    @staticmethod
    def _read_outward(entry: Entry) -> tuple[int, tuple[Any, ...], int]:
        args, at = decode(entry.payload)
        if not isinstance(args, tuple):
            raise JournalError("a call outward without arguments")
        return entry.who, args, at

    # -- entries --------------------------------------------------------------------------

    def _advance(self) -> None:
        self._next = next(self._entries, None)

    def _take(self) -> Entry:
        entry = self._next
        assert entry is not None
        self._advance()
        if entry.kind in (MAKE, ACCESS, CALL) and len(entry.payload) < WHEN.size:
            raise JournalError("an entry is too short")
        return entry

    def _slot(self, entry: Entry) -> _Slot:
        slot = self._slots.get(entry.who)
        if slot is None:
            raise JournalError(f"there is no device number {entry.who}")
        return slot


def _text(entry: Entry, at: int) -> tuple[str, int]:
    value, at = decode(entry.payload, at)
    if not isinstance(value, str):
        raise JournalError("a name that is no text")
    return value, at


def _outcome_words(data: bytes, raised: bool, told: Callable[[bytes], str] | None) -> str:
    value, _ = decode(memoryview(data))
    if raised:
        return f"an error ({value})"
    if told is not None and isinstance(value, int):
        return told(data)
    return repr(value)
