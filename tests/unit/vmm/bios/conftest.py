"""A PC for the BIOS without KVM: memory, registers and everything the BIOS is handed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from devices.wiring import GuestAddressError
from vmm.bios import Bios, BiosHost
from vmm.layout import MemoryLayout

MEMORY_SIZE = 2 << 20
STACK = 0x7000
STUBS = 0xF8000


class FakeMemory:
    """Two MiB with checked bounds; the layout may claim more."""

    def __init__(self) -> None:
        self.data = bytearray(MEMORY_SIZE)

    def _check(self, gpa: int, size: int) -> None:
        if gpa < 0 or size < 0 or gpa + size > len(self.data):
            raise GuestAddressError(f"{gpa:#x}")

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.data[gpa : gpa + size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self._check(gpa, len(data))
        self.data[gpa : gpa + len(data)] = data

    def word(self, gpa: int, size: int = 2) -> int:
        return int.from_bytes(self.read(gpa, size), "little")


@dataclass
class Segment:
    base: int = 0
    selector: int = 0


@dataclass
class Sregs:
    cs: Segment = field(default_factory=lambda: Segment(0xF0000, 0xF000))
    ds: Segment = field(default_factory=Segment)
    es: Segment = field(default_factory=Segment)
    ss: Segment = field(default_factory=Segment)
    cr0: int = 0x10


@dataclass
class Regs:
    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = STACK
    rbp: int = 0
    rip: int = 0
    rflags: int = 2


@dataclass
class FakeDisk:
    """A disk in memory. `broken` makes every access fail as a host's does."""

    sectors: int
    read_only: bool = False
    broken: bool = False

    def __post_init__(self) -> None:
        from vmm.host.disk import floppy_geometry, hard_disk_geometry

        self.data = bytearray(b"".join(n.to_bytes(4, "little") * 128 for n in range(self.sectors)))
        self.geometry = hard_disk_geometry(self.sectors)
        self.floppy_geometry = floppy_geometry(self.sectors)

    def read(self, lba: int, count: int) -> bytes:
        if self.broken:
            raise OSError(5, "Input/output error")
        assert lba + count <= self.sectors
        return bytes(self.data[lba * 512 : (lba + count) * 512])

    def write(self, lba: int, data: bytes) -> None:
        assert lba * 512 + len(data) <= len(self.data)
        self.data[lba * 512 : lba * 512 + len(data)] = data


class FakeUart:
    """The registers that INT 14h uses: what was written, and a line status to set."""

    name = "com1"

    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.line_status = 0x60
        self.received = b""

    def read(self, offset: int, size: int) -> int:
        if offset == 5:
            return self.line_status | bool(self.received)
        if offset == 6:
            return 0xB0
        if offset == 0 and self.received:
            first, self.received = self.received[0], self.received[1:]
            return first
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, value))

    def reset(self) -> None:
        self.written.clear()


@dataclass
class Answer:
    """What a call came back with: registers, and the caller's flags from the stack."""

    regs: Regs
    sregs: Sregs
    carry: bool
    zero: bool

    @property
    def waits(self) -> bool:
        """The stub was told to trap again."""
        return bool(self.regs.rflags & 1)

    def __getattr__(self, name: str) -> int:
        if name in ("ah", "bh", "ch", "dh"):
            return getattr(self.regs, f"r{name[0]}x") >> 8 & 0xFF
        if name in ("al", "bl", "cl", "dl"):
            return getattr(self.regs, f"r{name[0]}x") & 0xFF
        if name in ("ax", "bx", "cx", "dx", "si", "di", "bp"):
            return getattr(self.regs, f"r{name}") & 0xFFFF
        if name in ("eax", "ebx", "ecx", "edx"):
            return getattr(self.regs, f"r{name[1:]}") & 0xFFFFFFFF
        raise AttributeError(name)


class Pc:
    """A BIOS with everything around it under the test's hand."""

    def __init__(self, *, terminal: bool = False, memory_size: int = 64 << 20) -> None:
        self.memory = FakeMemory()
        self.out = bytearray()
        self.typed = bytearray()
        self.get_waits: list[float] = []
        self.now_ns = 0
        self.wall_ns = 1_785_672_306_000_000_000  # 2026-08-02 12:05:06 UTC
        self.requests: list[str] = []
        self.pauses: list[float] = []
        self.floppy = FakeDisk(2880)
        self.disk = FakeDisk(4096)
        self.uart = FakeUart()
        self.host = BiosHost(
            memory=self.memory,
            layout=MemoryLayout.for_size(memory_size),
            console=self.out.extend,
            keys=self,
            disks={0x00: self.floppy, 0x80: self.disk},
            serial={0: self.uart},
            terminal=terminal,
            clock_ns=lambda: self.now_ns,
            wall_clock_ns=lambda: self.wall_ns,
            request=self.requests.append,
            pause=self.pauses.append,
        )
        self.bios = Bios(self.host)
        self.bios.install()
        self.sregs = Sregs()

    def get(self, timeout_s: float) -> int | None:
        """The key source: never really waits."""
        self.get_waits.append(timeout_s)
        return self.typed.pop(0) if self.typed else None

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")

    def call(
        self, vector: int, ax: int = 0, *, flags: int = 0x0202, repeat: bool = False, **values: int
    ) -> Answer:
        """Do what an INT instruction and the ROM's stub do, up to the trap."""
        self.memory.write(STACK, b"\x34\x12\x00\x10" + flags.to_bytes(2, "little"))
        segments = {n: values.pop(n) for n in ("ds", "es") if n in values}
        for name, selector in segments.items():
            setattr(self.sregs, name, Segment(selector << 4, selector))
        regs = Regs(rax=ax, **{f"r{name}": value for name, value in values.items()})
        regs.rip = (STUBS & 0xFFFF) + vector * 32 + 3
        regs.rflags |= int(repeat)
        assert self.bios.handle(0xF0000 + regs.rip, regs, self.sregs) is not None
        left = self.memory.word(STACK + 4)
        return Answer(regs, self.sregs, bool(left & 1), bool(left & 0x40))


@pytest.fixture
def pc() -> Pc:
    """A PC whose console is a pipe."""
    return Pc()


@pytest.fixture
def terminal_pc() -> Pc:
    """A PC whose console is a terminal."""
    return Pc(terminal=True)


@pytest.fixture
def make_pc() -> type[Pc]:
    """For PCs of another kind."""
    return Pc
