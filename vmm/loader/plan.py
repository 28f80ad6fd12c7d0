"""What a loader returns: a plan, as plain data.

A loader takes an image and says what goes where and how the first vCPU starts. It touches no
KVM and no machine, so that every loader is tested anywhere. `vmm.loader.apply` carries plans out.

A start in protected or long mode keeps its GDT and page tables in the last `START_TABLES_SIZE`
bytes of the RAM below 4 GiB, behind everything that a loader places. A guest that has tables of
its own may use the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from devices.records import Record
from firmware.start_tables import START_TABLES_SIZE
from vmm.layout import MemoryLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Protocol: TypeAlias = Literal["", "linux", "pvh"]
    """Whose rules a start in protected or long mode keeps beyond those of the mode. "linux": CS
    0x10, data segments 0x18. "pvh": of CR0 only PE is set, and the TSS lies at 0."""

    Mode: TypeAlias = Literal["real", "protected", "long", "reset"]
    """How a vCPU starts. "real": 16-bit, segments 0. "protected": 32-bit, flat segments, paging
off. "long": 64-bit, the first 4 GiB identity-mapped. "reset": as the processor leaves RESET
(CS base 0xFFFF0000, IP 0xFFF0)."""
else:
    Mode = Protocol = str

__all__ = [
    "START_TABLES_SIZE",
    "BootOptions",
    "BootPlan",
    "Mode",
    "Module",
    "Protocol",
    "Rom",
    "Start",
    "Write",
]


class Module(Record):
    """A file handed to the kernel beside its image (`--module FILE[ ARGUMENTS]`)."""

    name: str
    data: bytes | memoryview
    arguments: str = ""


class BootOptions(Record):
    """What a loader may need to know beside the image."""

    layout: MemoryLayout
    name: str = "image"
    """How messages call the image: its file name."""
    append: str = ""
    modules: tuple[Module, ...] = ()
    load_addr: int | None = None
    entry: int | None = None
    cpl: int = 0
    """Privilege level to start at: 0 or 3."""
    boot_drive: int = 0x80
    """DL for a boot sector: 0x00 first floppy, 0x80 first hard disk."""
    initrd: Module | None = None
    """The initial file system that Linux unpacks."""
    rng_seed: bytes = b""
    """Random bytes for Linux to begin its random numbers with."""
    rsdp: int = 0
    """Where Linux finds the ACPI tables, by their root pointer; 0: there are none, or it is to
    search for it."""


class Write(Record):
    """Bytes to put at a guest-physical address; `what` names them in messages."""

    gpa: int
    data: bytes | memoryview
    what: str = "image"
    zeros_after: int = 0
    """How many zero bytes follow the data (a .bss)."""

    @property
    def size(self) -> int:
        """How many bytes of guest memory it fills."""
        return len(self.data) + self.zeros_after


class Rom(Record):
    """Read-only memory outside of RAM: a firmware image below 4 GiB."""

    gpa: int
    data: bytes | memoryview
    what: str = "rom"


class Start(Record):
    """The first vCPU's start: mode, entry point and general registers."""

    mode: Mode
    entry: int = 0
    """Linear address of the first instruction (ignored for "reset")."""
    cpl: int = 0
    registers: Mapping[str, int] = MappingProxyType({})
    """General registers by their KVM names: {"rdx": 0x80, "rsp": 0x7C00}."""
    segment: int | None = None
    """Real mode: the segment for CS, DS, ES and SS. None takes 0 where the entry point is
    below 64 KiB, otherwise entry >> 4."""
    protocol: Protocol = ""


class BootPlan(Record):
    """Everything that has to be done to start an image."""

    format: str
    start: Start
    writes: tuple[Write, ...] = ()
    roms: tuple[Rom, ...] = ()
    bios: bool = False
    """The image expects BIOS services: install the Python BIOS before it starts."""
    wants_tables: bool = False
    """It looks for the tables that firmware leaves (ACPI, SMBIOS), as Linux does."""
    expects: tuple[int, int] = (0, 0)
    """Address and size of memory that the guest fills at once, with what it unpacks."""
    moved_by: int = 0
    """How far a position-independent image lies from where it was linked for, in bytes."""
    notes: tuple[str, ...] = ()
    """Facts worth showing with --debug: "multiboot 2, 5 tags"."""
