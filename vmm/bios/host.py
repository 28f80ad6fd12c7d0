"""What the BIOS is handed by the machine, and how services reach guest memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from devices.wiring import ByteSink, Clock, GuestAddressError
from firmware.bios_rom import DriveGeometry
from vmm.bios.registers import BiosRegisters
from vmm.layout import MemoryLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device, GuestMemory

__all__ = [
    "WAIT_S",
    "A20Gate",
    "A20Latch",
    "BiosHost",
    "Disk",
    "KeySource",
    "MissingService",
    "Ram",
    "Request",
    "Service",
]

Request = Literal["reset", "poweroff", "stop"]
"""What a service may ask of the machine. "stop": the guest cannot go on; the notes say why."""

WAIT_S = 0.02
"""How long a service may keep its vCPU from interrupts and kicks, in seconds."""


_MAX_NOTES = 32


class MissingService(Exception):
    """Raised inside of a service: there is no such function. Never leaves the BIOS."""


class Disk(Protocol):
    """A disk as INT 13h uses it: 512-byte sectors by number."""

    @property
    def sectors(self) -> int:
        """How many sectors there are."""
        ...

    @property
    def read_only(self) -> bool:
        """Writing is refused."""
        ...

    @property
    def geometry(self) -> DriveGeometry:
        """The shape that CHS addresses are taken by, for a hard disk."""
        ...

    @property
    def floppy_geometry(self) -> DriveGeometry:
        """The shape that CHS addresses are taken by, for a floppy disk."""
        ...

    def save(self) -> dict[str, Any]:
        """What a snapshot has of the disk."""
        ...

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take it over.

        Raises:
            ValueError: it is another disk's.
        """
        ...

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from sector `lba`.

        Raises:
            OSError: the backend failed.
        """
        ...

    def write(self, lba: int, data: bytes) -> None:
        """Write whole sectors from sector `lba`.

        Raises:
            OSError: the backend failed.
        """
        ...


class KeySource(Protocol):
    """Where keyboard input comes from: the bytes of a terminal.

    Services run under the machine's device lock. `get` has to let go of it while it waits, and
    so has the `pause` of `BiosHost`, or nothing could be typed meanwhile.
    """

    def get(self, timeout_s: float) -> int | None:
        """Return the next byte, waiting for it at most `timeout_s` seconds; None without one."""
        ...


class A20Gate(Protocol):
    """The gate of address line 20."""

    enabled: bool


@dataclass
class A20Latch:
    """An A20 gate that remembers its setting. KVM guests always have the line open."""

    enabled: bool = True


class Ram:
    """Guest memory for services: little-endian integers, and no exceptions.

    Reading what is not memory gives ones, writing there does nothing.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory

    def read(self, gpa: int, size: int) -> bytes | None:
        """Return `size` bytes, None where some of them are not memory."""
        try:
            return self.memory.read(gpa, size)
        except GuestAddressError:
            return None

    def write(self, gpa: int, data: bytes | bytearray) -> bool:
        """Write bytes; False where some of them would not go to memory (none does then)."""
        try:
            self.memory.write(gpa, data)
        except GuestAddressError:
            return False
        return True

    def get(self, gpa: int, size: int = 1) -> int:
        """Return an unsigned integer of `size` bytes."""
        data = self.read(gpa, size)
        return (1 << 8 * size) - 1 if data is None else int.from_bytes(data, "little")

    def put(self, gpa: int, value: int, size: int = 1) -> None:
        """Store an unsigned integer of `size` bytes, cut to that size."""
        self.write(gpa, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))


@dataclass
class BiosHost:
    """Everything outside of the guest that services use.

    `disks` are numbered as DL numbers them: 0 and 1 floppies, 0x80 and up hard disks. `serial`
    holds the UARTs by port number (DX of INT 14h). `console` takes what the guest shows, UTF-8;
    `terminal` says that it understands cursor movement and colours. `pause` sleeps for seconds.
    `interrupts` says that the machine delivers any; `crtc` sets a register of the display's CRT
    controller, by index.
    """

    memory: GuestMemory
    layout: MemoryLayout
    console: ByteSink
    keys: KeySource
    disks: Mapping[int, Disk] = field(default_factory=dict)
    serial: Mapping[int, Device] = field(default_factory=dict)
    terminal: bool = False
    clock_ns: Clock = time.monotonic_ns
    wall_clock_ns: Clock = time.time_ns
    a20: A20Gate = field(default_factory=A20Latch)
    request: Callable[[Request], None] = lambda what: None
    pause: Callable[[float], None] = time.sleep
    interrupts: bool = False
    crtc: Callable[[int, int], None] = lambda index, value: None

    def __post_init__(self) -> None:
        self.ram = Ram(self.memory)
        self.notes: list[str] = []
        """Lines for the run's report: why a guest could not go on, what it asked in vain."""

    def note(self, text: str) -> None:
        """Add a line to the notes, once, and not without end."""
        if text not in self.notes and len(self.notes) < _MAX_NOTES:
            self.notes.append(text)


class Service:
    """One interrupt's functions, chosen by AH.

    A service is handed the caller's registers. To wait, it sets `regs.stub_carry` and returns:
    the guest then opens interrupts for a moment and the service is called again.
    """

    vector: int
    name: str

    def __init__(self, host: BiosHost) -> None:
        self.host = host
        self.ram = host.ram
        self.functions: Mapping[int, Callable[[BiosRegisters], None]] = {}

    def save(self) -> dict[str, int]:
        """What the service remembers between two calls, beside what is in guest memory. Times are
        counted from now."""
        return {}

    def load(self, saved: Mapping[str, int]) -> None:
        """Remember what `save` gave."""

    def handle(self, regs: BiosRegisters) -> None:
        """Carry out the function in AH.

        Raises:
            MissingService: there is no such function.
        """
        function = self.functions.get(regs.ah)
        if function is None:
            raise MissingService
        function(regs)

    def missing(self, regs: BiosRegisters) -> None:
        """Answer a function that is not there, as this interrupt does: carry set."""
        regs.carry = True
