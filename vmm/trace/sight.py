"""An exit as somebody sees it who watches a guest: decoded as far as they ask.

An `Access` is a kind of exit (a reason, and for port I/O and MMIO an address, a width and a
direction): what can be known of it once is kept with it. A `Sight` is one exit of that kind.

Which of a device's registers answers may depend on another register (DLAB, an index port), and the
access itself may change that one. So these are noted when the exit comes, before it is handled.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from devices.registers import Register, RegisterTable
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from vmm.decode import decode_access, registers_in
from vmm.exits import Exit, describe

if TYPE_CHECKING:
    from vmm.bus import Bus
    from vmm.symbols import Symbols

__all__ = ["Access", "Place", "RegisterAccess", "Sight", "Surroundings"]

Values = Mapping[str, int]


class Surroundings(Protocol):
    """The machine, as far as accesses are decoded by it."""

    @property
    def pio(self) -> Bus:
        """Its ports."""

    @property
    def mmio(self) -> Bus:
        """Its addresses without memory."""

    @property
    def symbols(self) -> Symbols | None:
        """Names for the guest's addresses."""

    @property
    def devices(self) -> Mapping[str, Any]:
        """Its devices by name."""


class Place(NamedTuple):
    """A piece of an access, and the device that answers it."""

    name: str
    """The device's."""
    device: object
    table: RegisterTable | None
    offset: int
    """In the device."""
    lane: int
    """The piece's first byte in the access."""
    size: int
    selectors: tuple[str, ...]
    """Registers whose values decide which register this is."""

    def now(self) -> Values:
        """The selectors' values now."""
        values = getattr(self.device, "values", {}) if self.selectors else {}
        return {name: values.get(name, 0) for name in self.selectors}


class RegisterAccess(NamedTuple):
    """What an access did to one register."""

    device: str
    register: Register
    value: int
    """What was written or read, its bits in their places of the register."""


class Access:
    """A kind of exit; `address`, `size` and `write` are 0 where it is no access to a bus."""

    def __init__(
        self, around: Surroundings, reason: int, address: int, size: int, write: bool
    ) -> None:
        self.reason = reason
        self.address = address
        self.size = size
        self.write = write
        self._around = around

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The devices that answer. One that is late is made now."""
        bus = {KVM_EXIT_IO: self._around.pio, KVM_EXIT_MMIO: self._around.mmio}.get(self.reason)
        if bus is None:
            return ()
        found = []
        for mapping, lane, size in bus.pieces(self.address, self.size):
            device = self._around.devices.get(mapping.name)
            table = getattr(device, "registers", None)
            table = table if isinstance(table, RegisterTable) else None
            offset = self.address + lane - mapping.base
            selectors = {
                register.when.register
                for at in range(offset, offset + size)
                for register in (table.candidates(at, write=self.write) if table else ())
                if register.when is not None
            }
            found.append(
                Place(mapping.name, device, table, offset, lane, size, tuple(sorted(selectors)))
            )
        return tuple(found)

    @property
    def depends(self) -> bool:
        """Whether the values of other registers decide which register it is."""
        return any(place.selectors for place in self.places)

    def candidates(self, device: str) -> set[str]:
        """The registers of a device that it may be an access to."""
        return {
            register.name
            for place in self.places
            if place.name == device and place.table is not None
            for register in place.table
            if ("w" if self.write else "r") in register.access
            and register.offset < place.offset + place.size
            and place.offset < register.offset + register.size
        }


class Sight:
    """One exit, seen after it was handled.

    Args:
        access: its kind.
        exit: the exit.
        number: of its record in the vCPU's ring.
        before: the selectors' values when the exit came, for each of the access's places; None
            where nobody noted them.
    """

    __slots__ = ("_before", "_registers", "access", "exit", "number")

    def __init__(
        self, access: Access, exit: Exit, number: int, before: list[Values] | None
    ) -> None:
        self.access = access
        self.exit = exit
        self.number = number
        self._before = before
        self._registers: tuple[RegisterAccess, ...] | None = None

    @property
    def elements(self) -> list[int]:
        """What went over the bus, in elements of the access's size."""
        exit, bits = self.exit, 8 * self.exit.size
        return [exit.value >> bits * n & (1 << bits) - 1 for n in range(exit.count)]

    @property
    def registers(self) -> tuple[RegisterAccess, ...]:
        """What it did to registers of devices, in order; of a string, element by element."""
        if self._registers is None:
            exit, values = self.exit, self._values()
            self._registers = tuple(
                RegisterAccess(place.name, register, part)
                for element in self.elements
                for place, known in zip(self.access.places, values, strict=True)
                if place.table is not None
                for register, part in registers_in(
                    *(place.table, place.offset, place.size, exit.write),
                    *(element >> 8 * place.lane, known),
                )
            )
        return self._registers

    def __str__(self) -> str:
        """The exit in words: `vCPU 0, IO out 0x3f8 1b 0x48 'H' com1 THR = 0x48`."""
        exit, access = self.exit, self.access
        owners = [place.name for place in access.places]
        if exit.count == 1 and access.depends and self._before is None:
            # What the other registers held is not known: every one that it may be is named.
            owners = [f"{place.name} {_words(place, exit) or ''}" for place in access.places]
        elif exit.count == 1 and self.registers:
            owners = [f"{d} {r.name} = {r.decode(value)}" for d, r, value in self.registers]
        where = "" if exit.rip is None else f", RIP {exit.rip:#x}"
        return f"vCPU {exit.vcpu}, {describe(exit, ', '.join(owners))}{where}"

    def _values(self) -> list[Values]:
        return self._before or [place.now() for place in self.access.places]


def _words(place: Place, exit: Exit) -> str | None:
    value = exit.value >> 8 * place.lane
    return decode_access(place.table, place.offset, place.size, exit.write, value)
