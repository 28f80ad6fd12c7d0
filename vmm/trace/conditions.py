"""Conditions on exits, for stops and filters: one grammar for the command line and for Python.

Terms, joined by commas, all of which have to hold:

    port=0x3f8              port I/O that touches this port; port=0x3f8-0x3ff, port=0x3f8+8
    mmio=0xfee00000+0x1000  an access that touches these guest-physical addresses
    device=com1             an access to a device
    reg=com1.LSR            an access to a register; which one it is, is decided as for tracers
    reg=com1.IER=1          that wrote or was given this value; reg=com1.LSR&1: any of these bits;
                            reg=com1.LSR&0x60=0x60: these bits have this value
    reason=HLT              an exit reason, as KVM names it
    rip=0x7c00              where the vCPU is; rip=main, rip=main+4, rip=0x7c00-0x7dff. To stop
                            there it needs no exit: without other terms it is a breakpoint, at a
                            linear address; with others it is RIP as it came with the exit
    exits=1000              the 1000th exit for which everything else holds, and those behind it
    slower=100us            handling it took longer; ns, us, ms or s
    value=0x41              what was written or read; value&0x80, value&0xf0=0x40
    write  read             the direction

Numbers are decimal, or hexadecimal with 0x. A range's end belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from devices.records import Record
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from vmm.errors import ConfigError
from vmm.exits import exit_reason

if TYPE_CHECKING:
    from vmm.symbols import Symbols
    from vmm.trace.sight import Access, Sight

__all__ = ["Condition", "Masked", "Register", "Span", "parse_condition"]

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s)")
_SYMBOL = re.compile(r"([A-Za-z_.$?@][^\s,+]*)(?:\+(\w+))?")
_REGISTER = re.compile(r"([^.,&=]+)\.(\w+)((?:[&=].*)?)")
_TERMS = (
    *("port", "mmio", "device", "reg", "reason", "rip", "exits", "slower", "value"),
    *("write", "read"),
)


class Span(NamedTuple):
    """A range of addresses; both ends belong to it."""

    first: int
    last: int

    def touches(self, address: int, size: int) -> bool:
        """Whether `size` bytes at `address` have a byte in it."""
        return address <= self.last and self.first < address + max(size, 1)


class Masked(NamedTuple):
    """A condition on a value: `equals` of the bits `mask`, or any of them where that is None."""

    mask: int
    equals: int | None

    def holds(self, value: int) -> bool:
        """Whether a value meets it."""
        found = value & self.mask
        return bool(found) if self.equals is None else found == self.equals


class Register(NamedTuple):
    """A register of a device, and what its value has to be."""

    device: str
    name: str
    value: Masked | None


class Condition(Record):
    """What an exit has to be. What is None is not asked."""

    text: str = ""
    """As it was given."""
    port: Span | None = None
    mmio: Span | None = None
    device: str | None = None
    register: Register | None = None
    reason: int | None = None
    rip: Span | None = None
    symbol: tuple[str, int] | None = None
    """A name in place of `rip`, and what is added to its address."""
    exits: int | None = None
    slower_ns: int | None = None
    value: Masked | None = None
    write: bool | None = None

    @property
    def asks_rip(self) -> bool:
        """Whether it asks where the vCPU was."""
        return self.rip is not None or self.symbol is not None

    @property
    def only_rip(self) -> bool:
        """Whether it asks for nothing of an exit: it is about any instruction at an address."""
        rest = (
            *(self.port, self.mmio, self.device, self.register, self.reason),
            *(self.slower_ns, self.value, self.write),
        )
        return self.asks_rip and all(term is None for term in rest)

    def check(self, devices: Mapping[str, Any]) -> None:
        """See that the devices and registers that it names are there.

        Raises:
            ConfigError: they are not.
        """
        device = self.device if self.register is None else self.register.device
        if device is None:
            return
        if device not in devices:
            raise self._wrong(f"there is no device {device}; there are {', '.join(devices)}")
        if self.register is not None:
            table = getattr(devices[device], "registers", ())
            known = [register.name for register in table]
            if self.register.name not in known:
                has = f"it has {', '.join(known)}" if known else "it has no table of registers"
                raise self._wrong(f"{device} has no register {self.register.name}; {has}")

    def resolved(self, symbols: Symbols | None) -> Condition:
        """The same with an address in place of a symbol.

        Raises:
            ConfigError: there is no such symbol.
        """
        if self.symbol is None:
            return self
        name, offset = self.symbol
        address = None if symbols is None else symbols.find(name)
        if address is None:
            hint = "give --symbols FILE" if symbols is None else "the image's symbols have none"
            raise self._wrong(f"there is no symbol {name}; {hint}")
        given = {field: getattr(self, field) for field in self._fields}
        given |= {"symbol": None, "rip": Span(address + offset, address + offset)}
        return Condition(**given)

    def may_hold(self, access: Access) -> bool:
        """Whether exits of a kind can meet it at all."""
        if self.reason is not None and access.reason != self.reason:
            return False
        if self.write is not None and (not access.size or access.write != self.write):
            return False
        if self.value is not None and not access.size:
            return False
        for span, reason in ((self.port, KVM_EXIT_IO), (self.mmio, KVM_EXIT_MMIO)):
            if span is not None and not (
                access.reason == reason and span.touches(access.address, access.size)
            ):
                return False
        if self.device is not None and all(p.name != self.device for p in access.places):
            return False
        wanted = self.register
        return wanted is None or wanted.name in access.candidates(wanted.device)

    def holds(self, sight: Sight) -> bool:
        """Whether an exit of a kind that `may_hold` meets it; `exits` is not counted here."""
        exit = sight.exit
        if self.slower_ns is not None and exit.handler_ns <= self.slower_ns:
            return False
        if self.value is not None and not any(map(self.value.holds, sight.elements)):
            return False
        if self.rip is not None and (
            exit.rip is None or not self.rip.first <= exit.rip <= self.rip.last
        ):
            return False
        return self.register is None or self._register_holds(sight, self.register)

    def _register_holds(self, sight: Sight, wanted: Register) -> bool:
        return any(
            (found.device, found.register.name) == (wanted.device, wanted.name)
            and (wanted.value is None or wanted.value.holds(found.value))
            for found in sight.registers
        )

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"condition {self.text}: {why}")


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConfigError: it is none; the message says which term and what would be right.
    """
    given: dict[str, Any] = {}
    for term in text.split(","):
        # value&0x80 has no "=" behind its name
        name = re.split(r"[=&]", term, maxsplit=1)[0].strip()
        rest = term.strip()[len(name) :]
        if name not in _TERMS:
            raise _wrong(text, f"{term.strip()!r} is no term; there are {', '.join(_TERMS)}")
        try:
            read = _READERS[name](rest)
        except ValueError as error:
            raise _wrong(text, f"{term.strip()}: {error}") from None
        for key, value in read.items():
            if key in given:
                raise _wrong(text, f"{name} is given twice, and both have to hold")
            given[key] = value
    return Condition(text=text, **given)


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"condition {text or repr(text)}: {why}")


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{text!r} is not a number; write 16 or 0x10")
    return value


def _after_equals(rest: str, example: str) -> str:
    if not rest.startswith("=") or not rest[1:]:
        raise ValueError(f"give {example}")
    return rest[1:]


def _span(text: str) -> Span:
    first, plus, count = text.partition("+")
    if plus:
        span = Span(_number(first), _number(first) + _number(count) - 1)
    else:
        first, minus, last = text.partition("-")
        span = Span(_number(first), _number(last if minus else first))
    if span.last < span.first:
        raise ValueError("the range is empty; its end belongs to it")
    return span


def _masked(text: str) -> Masked:
    """What stands behind a value: "=1", "&1" or "&3=1"."""
    if text.startswith("="):
        return Masked(-1, _number(text[1:]))
    mask, equals, value = text[1:].partition("=")
    return Masked(_number(mask), _number(value) if equals else None)


def _read_reason(rest: str) -> dict[str, Any]:
    reason = exit_reason(_after_equals(rest, "reason=HLT"))
    if reason is None:
        raise ValueError("KVM has no exit reason of this name; IO, MMIO, HLT, SHUTDOWN are some")
    return {"reason": reason}


def _read_register(rest: str) -> dict[str, Any]:
    found = _REGISTER.fullmatch(_after_equals(rest, "reg=DEVICE.REGISTER"))
    if found is None:
        raise ValueError("give reg=DEVICE.REGISTER, with =VALUE, &BITS or &BITS=VALUE behind it")
    device, name, value = found.groups()
    return {"register": Register(device, name, _masked(value) if value else None)}


def _read_rip(rest: str) -> dict[str, Any]:
    where = _after_equals(rest, "rip=0x7c00 or rip=main")
    if where[0].isdigit():
        return {"rip": _span(where)}
    found = _SYMBOL.fullmatch(where)
    if found is None:
        raise ValueError("give rip=0x7c00, rip=main or rip=main+4")
    return {"symbol": (found[1], _number(found[2]) if found[2] else 0)}


def _read_exits(rest: str) -> dict[str, Any]:
    count = _number(_after_equals(rest, "exits=1000"))
    if count < 1:
        raise ValueError("count from 1")
    return {"exits": count}


def _read_slower(rest: str) -> dict[str, Any]:
    found = _TIME.fullmatch(_after_equals(rest, "slower=100us"))
    if found is None:
        raise ValueError("give a time with its unit, as in slower=100us")
    return {"slower_ns": int(float(found[1]) * _UNITS[found[2]])}


def _read_value(rest: str) -> dict[str, Any]:
    if len(rest) < 2:
        raise ValueError("give value=0x41 or value&0x80")
    return {"value": _masked(rest)}


def _direction(write: bool) -> Callable[[str], dict[str, Any]]:
    def read(rest: str) -> dict[str, Any]:
        if rest:
            raise ValueError("this term stands alone")
        return {"write": write}

    return read


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "port": lambda rest: {"port": _span(_after_equals(rest, "port=0x3f8"))},
    "mmio": lambda rest: {"mmio": _span(_after_equals(rest, "mmio=0xfee00000+0x1000"))},
    "device": lambda rest: {"device": _after_equals(rest, "device=com1")},
    "reg": _read_register,
    "reason": _read_reason,
    "rip": _read_rip,
    "exits": _read_exits,
    "slower": _read_slower,
    "value": _read_value,
    "write": _direction(True),
    "read": _direction(False),
}
