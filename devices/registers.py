"""Registers declared once, as data.

A device file declares its registers and their bit fields in one table. The same table drives
the model (`RegisterDevice` below), names what a trace shows ("COM1 LSR = THRE|TEMT") and is
walked by the tests. The declaration reads like the register summary of a data sheet:

    LSR = Register("LSR", 5, access="r", reset=0x60, fields=bits(DR=0, OE=1, THRE=5, TEMT=6))
    LCR = Register("LCR", 3, fields=bits(WLS=(1, 0), STB=2, DLAB=7))
    DLL = Register("DLL", 0, when=When("LCR", 0x80, 0x80))

`when` says that a register answers at its offset only while another register has a value: a
divisor latch behind DLAB, a CMOS cell behind the index port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from devices.records import Record
from devices.wiring import open_bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Literal

__all__ = ["Field", "Register", "RegisterDevice", "RegisterTable", "When", "bits"]


class Field(Record):
    """`width` bits of a register, the lowest of them bit `low`."""

    name: str
    low: int
    width: int = 1
    values: Mapping[int, str] = MappingProxyType({})
    """Names for values of a field of several bits."""

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return ((1 << self.width) - 1) << self.low

    def get(self, value: int) -> int:
        """Take the field out of a register's value."""
        return (value & self.mask) >> self.low

    def put(self, value: int) -> int:
        """Shift a field's value into its place (bits that do not fit are cut off)."""
        return (value << self.low) & self.mask


def bits(**fields: int | tuple[int, int] | Field) -> tuple[Field, ...]:
    """Declare fields: `DR=0` is bit 0, `WLS=(1, 0)` is bits 1 down to 0."""
    made = []
    for name, where in fields.items():
        if isinstance(where, Field):
            made.append(where)
        elif isinstance(where, tuple):
            high, low = where
            made.append(Field(name, low, high - low + 1))
        else:
            made.append(Field(name, where))
    return tuple(made)


class When(Record):
    """The condition `value of register & mask == equals`."""

    register: str
    mask: int
    equals: int

    def holds(self, values: Mapping[str, int]) -> bool:
        """Say whether the condition holds, given the registers' current values."""
        return values.get(self.register, 0) & self.mask == self.equals

    def excludes(self, other: When) -> bool:
        """Say whether the two conditions can be seen never to hold at once."""
        return self.register == other.register and bool(
            (self.equals ^ other.equals) & self.mask & other.mask
        )


class Register(Record):
    """One register: `size` bytes at byte `offset` of its device's range."""

    name: str
    offset: int
    size: int = 1
    access: Literal["rw", "r", "w"] = "rw"
    reset: int = 0
    fields: tuple[Field, ...] = ()
    when: When | None = None
    doc: str = ""
    writable: int | None = None
    """The bits that a plain write changes; None means all of them."""
    w1c: int = 0
    """Bits that a write of 1 clears and a write of 0 leaves, as in most status registers."""
    exact: bool = False
    """It answers only accesses of its own offset and width; narrower and wider ones pass it by.
    Such a register may share its bytes with others (port 0xCF9 inside of the dword 0xCF8)."""

    def __getitem__(self, name: str) -> Field:
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(f"{self.name} has no field {name}")

    def mask(self, *names: str) -> int:
        """The bits of the named fields, in place."""
        result = 0
        for name in names:
            result |= self[name].mask
        return result

    def merge(self, old: int, new: int) -> int:
        """The value after a plain write of `new` over `old`, given `writable` and `w1c`."""
        changed = open_bus(self.size) if self.writable is None else self.writable
        changed &= ~self.w1c
        return (old & ~changed & ~(new & self.w1c)) | (new & changed)

    def decode(self, value: int) -> str:
        """Say a value in words: set bits by name, wider fields as NAME=value."""
        words = []
        rest = value
        for part in self.fields:
            rest &= ~part.mask
            number = part.get(value)
            if part.width == 1:
                if number:
                    words.append(part.name)
            elif number in part.values:
                words.append(f"{part.name}={part.values[number]}")
            elif number:
                words.append(f"{part.name}={number:#x}")
        if rest or not words:
            words.append(f"{rest:#x}")
        return "|".join(words)


class RegisterTable:
    """The registers of one device, found by name or by offset.

    Raises:
        ValueError: two registers of one name, or two that answer the same access at once.
    """

    def __init__(self, *registers: Register) -> None:
        self._by_name = {register.name: register for register in registers}
        if len(self._by_name) != len(registers):
            raise ValueError("two registers have the same name")
        self.span = max((r.offset + r.size for r in registers), default=0)
        self._at: dict[tuple[int, bool], tuple[Register, ...]] = {}
        self._exact: dict[tuple[int, int, bool], Register] = {}
        for register in registers:
            for mode in register.access:
                self._place(register, write=mode == "w")
        for (offset, size, write), exact in self._exact.items():
            for other in self.candidates(offset, write=write):
                if (other.offset, other.size) == (offset, size):
                    raise ValueError(_both_answer(exact, other, offset))

    def _place(self, register: Register, *, write: bool) -> None:
        if register.exact:
            if register.when is not None:
                raise ValueError(f"{register.name} cannot be both exact and conditional")
            where = (register.offset, register.size, write)
            other = self._exact.setdefault(where, register)
            if other is not register:
                raise ValueError(_both_answer(other, register, register.offset))
            return
        for offset in range(register.offset, register.offset + register.size):
            here = self._at.get((offset, write), ())
            for other in here:
                if _collide(other.when, register.when):
                    raise ValueError(_both_answer(other, register, offset))
            # Conditional registers are asked first; at most one is unconditional.
            in_order = sorted((*here, register), key=lambda r: r.when is None)
            self._at[offset, write] = tuple(in_order)

    def __iter__(self) -> Iterator[Register]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Register:
        return self._by_name[name]

    def candidates(self, offset: int, *, write: bool) -> tuple[Register, ...]:
        """The registers that may answer byte `offset`, conditional ones first (no exact ones)."""
        return self._at.get((offset, write), ())

    def at(
        self, offset: int, *, write: bool, values: Mapping[str, int], size: int | None = None
    ) -> Register | None:
        """The register that answers at `offset`, given the registers' current values.

        With the access's `size` in bytes an exact register is found as well, and first.
        """
        if size is not None:
            exact = self._exact.get((offset, size, write))
            if exact is not None:
                return exact
        for register in self._at.get((offset, write), ()):
            if register.when is None or register.when.holds(values):
                return register
        return None

    def resets(self) -> dict[str, int]:
        """Every register's value after reset."""
        return {register.name: register.reset for register in self}


def _collide(one: When | None, two: When | None) -> bool:
    """Two registers at one place collide unless a condition keeps them apart.

    An unconditional register behind a conditional one is fine: it answers for the rest.
    """
    if one is None or two is None:
        return one is two
    return one.register == two.register and not one.excludes(two)


def _both_answer(one: Register, two: Register, offset: int) -> str:
    return f"{one.name} and {two.name} both answer at offset {offset:#x}"


class RegisterDevice:
    """A device driven by its table: name the registers, write a method where one does something.

    A register is a plain cell in `self.values` unless the class has a method for it:
    `read_LSR(self) -> int` answers a read, `write_IER(self, value)` takes a write. An access of
    another width than the register's is put together from (or taken apart into) the registers
    that it covers, lowest offset first, as a bus with byte lanes does; where no register
    answers it reads as `unanswered`. Bytes of a register that a narrow write leaves out keep
    their value. Registers declared `exact` take no part in that. A cell obeys `writable` and
    `w1c`; a method takes the write as it comes and may use `Register.merge` itself.
    """

    registers: RegisterTable
    """The class's, or an instance's own where they depend on how it is made."""
    unanswered: ClassVar[int] = 0xFF
    """What a byte reads as where no register answers: ones on a bus, 0 in PCI configuration
    space."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """The methods by which the host acts on the device beside the bus and `reset`: bytes arrive, a
    timer expires. Their arguments and results are what a recording can hold: numbers, booleans,
    text, bytes, and tuples and dicts of them."""
    name: str = "device"

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name
        self.values: dict[str, int] = self.registers.resets()
        self.connect()

    def connect(self) -> None:
        """Find the table's registers and the methods for them again: the class has changed.

        Registers that are new have their values after reset.
        """
        self.values = {**self.registers.resets(), **self.values}
        self._readers: dict[str, Callable[[], int]] = {}
        self._writers: dict[str, Callable[[int], None]] = {}
        # The accesses that need no thought: one unconditional register, its own width.
        self._plain_reads: dict[tuple[int, int], Callable[[], int]] = {}
        self._plain_writes: dict[tuple[int, int], Callable[[int], None]] = {}
        for register in self.registers:
            self._connect(register)

    def reset(self) -> None:
        """Return every register to its value after power-on."""
        self.values.update(self.registers.resets())

    def read(self, offset: int, size: int) -> int:
        """Answer a read of `size` bytes at `offset`."""
        plain = self._plain_reads.get((offset, size))
        if plain is not None:
            return plain()
        result, position = 0, 0
        while position < size:
            register, taken = self._run(offset + position, size - position, write=False)
            if register is None:
                value = self.unanswered
            else:
                value = self._readers[register.name]() >> (
                    8 * (offset + position - register.offset)
                )
            result |= (value & open_bus(taken)) << (8 * position)
            position += taken
        return result

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes at `offset`."""
        plain = self._plain_writes.get((offset, size))
        if plain is not None:
            plain(value)
            return
        position = 0
        while position < size:
            register, taken = self._run(offset + position, size - position, write=True)
            if register is not None:
                shift = 8 * (offset + position - register.offset)
                lanes = open_bus(taken) << shift
                part = (value >> (8 * position) << shift) & lanes
                # A kept 1 must not clear a write-1-to-clear bit.
                kept = self.values[register.name] & ~lanes & ~register.w1c
                self._writers[register.name](kept | part)
            position += taken

    def _run(self, offset: int, size: int, *, write: bool) -> tuple[Register | None, int]:
        """Who answers at `offset`, and for how many of the `size` bytes from there."""
        at = self.registers.at
        register = at(offset, write=write, values=self.values)
        if register is None:
            return None, 1
        taken = 1
        limit = min(size, register.offset + register.size - offset)
        while taken < limit and at(offset + taken, write=write, values=self.values) is register:
            taken += 1
        return register, taken

    def _connect(self, register: Register) -> None:
        name = register.name
        reader: Callable[[], int] | None = getattr(self, f"read_{name}", None)
        writer: Callable[[int], None] | None = getattr(self, f"write_{name}", None)
        self._readers[name] = reader or (lambda: self.values[name])
        self._writers[name] = writer or self._cell_writer(register)
        where = (register.offset, register.size)
        lanes = range(register.offset, register.offset + register.size)
        for write, mode in ((False, "r"), (True, "w")):
            alone = all(self.registers.candidates(n, write=write) == (register,) for n in lanes)
            if mode in register.access and (register.exact or (register.when is None and alone)):
                if write:
                    self._plain_writes[where] = self._writers[name]
                else:
                    self._plain_reads[where] = self._readers[name]

    def _cell_writer(self, register: Register) -> Callable[[int], None]:
        name = register.name
        if register.writable is None and not register.w1c:
            return lambda value: self.values.__setitem__(name, value)
        return lambda value: self.values.__setitem__(name, register.merge(self.values[name], value))
