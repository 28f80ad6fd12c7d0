"""What multiboot 1 and 2 have in common: the kernel's place, its modules, memory and screen.

Both know a kernel as an ELF file, or as any file whose header names the addresses itself. Both
hand over modules, a memory map and the state of the screen, in different clothes.
"""

from __future__ import annotations

from typing import Final

from devices.records import Record
from vmm.errors import BootError
from vmm.layout import FOUR_GIB, PAGE_SIZE, MemoryLayout
from vmm.loader import elf
from vmm.loader.e820 import conventional_end
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import BootOptions

__all__ = [
    "INFO_FLOOR",
    "LOADER_NAME",
    "Addresses",
    "Kernel",
    "LoadedModule",
    "TextScreen",
    "elf_kernel",
    "has_text_screen",
    "memory_kib",
    "place_modules",
    "raw_kernel",
]

LOADER_NAME: Final = b"glassvm\0"

INFO_FLOOR = 0x10000
"""Boot information goes into conventional memory from here if it fits: kernels put early stacks
and the code that starts further CPUs below."""

_ONE_MIB = 0x100000
_FROM_FILE_START = 0xFFFF_FFFF


class TextScreen:
    """The 80x25 colour text screen, which is plain memory here (EGA text in the specification)."""

    ADDR: Final = 0xB8000
    PITCH: Final = 160
    COLUMNS: Final = 80
    ROWS: Final = 25
    BITS_PER_CHARACTER: Final = 16
    FRAMEBUFFER_TYPE: Final = 2


class Addresses(Record):
    """The address fields of a header: where its kernel goes. All physical."""

    header: int
    load: int
    load_end: int
    """0: to the end of the file."""
    bss_end: int
    """0: there is no bss."""


class Kernel(Record):
    """A kernel's memory and entry point, at the addresses that it was linked for."""

    segments: tuple[elf.Segment, ...]
    entry: int
    elf: elf.Elf | None

    @property
    def start(self) -> int:
        """The lowest address of a segment."""
        return min(s.gpa for s in self.segments)

    @property
    def end(self) -> int:
        """The first address behind every segment."""
        return max(s.gpa + s.size for s in self.segments)

    def put(self, placement: Placement, name: str, delta: int = 0) -> int:
        """Plan the kernel's memory, moved by `delta` bytes; return the entry point.

        Raises:
            BootError: it does not fit, or the entry point is not below 4 GiB.
        """
        elf.check_entry(self.segments, self.entry, name)
        elf.put_segments(self.segments, placement, delta)
        if self.entry + delta >= FOUR_GIB:
            raise BootError(
                f"{name}: entry point {self.entry + delta:#x} is out of reach of a 32-bit start"
            )
        return self.entry + delta


def elf_kernel(image: memoryview, name: str, entry: int | None = None) -> Kernel:
    """Read a kernel that is an ELF file; `entry` (physical) replaces its entry point.

    Raises:
        BootError: the ELF is malformed, or its entry point lies in no segment.
    """
    parsed = elf.parse(image, name)
    if entry is None:
        entry = elf.loaded_entry(parsed, name)
    return Kernel(parsed.segments, entry, parsed)


def raw_kernel(
    image: memoryview, name: str, header_offset: int, at: Addresses, entry: int
) -> Kernel:
    """Read a kernel whose header, at byte `header_offset` of the file, names its addresses.

    Raises:
        BootError: the addresses contradict each other or the file.

    Spec: Multiboot 0.6.96, Header address fields; Multiboot2 2.0, Address header tag.
    """
    load = at.header - header_offset if at.load == _FROM_FILE_START else at.load
    offset = header_offset - (at.header - load)
    if not 0 <= load <= at.header or offset < 0:
        raise BootError(
            f"{name}: malformed multiboot header: load address {at.load:#x} does not fit header "
            f"address {at.header:#x} at byte {header_offset} of the file"
        )
    load_end = at.load_end or load + len(image) - offset
    end = at.bss_end or load_end
    if not load < load_end <= end:
        raise BootError(
            f"{name}: malformed multiboot header: load address {load:#x}, load end "
            f"{load_end:#x} and bss end {end:#x} are not in ascending order"
        )
    if offset + load_end - load > len(image):
        raise BootError(
            f"{name}: the multiboot header loads up to byte {offset + load_end - load} of "
            f"{len(image)}; is the file cut short?"
        )
    data = image[offset : offset + load_end - load]
    return Kernel((elf.Segment(load, load, data, end - load),), entry, None)


class LoadedModule(Record):
    """A module's place (`end` is the first address behind it) and its NUL-terminated string."""

    start: int
    end: int
    string: bytes


def place_modules(
    options: BootOptions, placement: Placement, kernel_end: int
) -> tuple[LoadedModule, ...]:
    """Plan the modules, page-aligned, behind the kernel as far as there is room.

    A module's string is its arguments; without arguments its name, so that a kernel can tell
    modules apart.

    Raises:
        BootError: one is empty or finds no room.
    """
    placed = []
    prefer = max(kernel_end, _ONE_MIB)
    for module in options.modules:
        size, what = len(module.data), f"module {module.name}"
        if not size:
            raise BootError(f"{options.name}: {what} is empty")
        string = c_string(module.arguments or module.name, what, options.name)
        start = placement.allocate(size, what, align=PAGE_SIZE, prefer=prefer)
        placement.put(start, module.data, what)
        placed.append(LoadedModule(start, start + size, string))
        prefer = max(prefer, start + size)
    return tuple(placed)


def memory_kib(layout: MemoryLayout) -> tuple[int, int]:
    """Return KiB of RAM from 0 (639 at most) and from 1 MiB up to the first hole."""
    return conventional_end(layout) >> 10, max(layout.low_end - _ONE_MIB, 0) >> 10


def has_text_screen(layout: MemoryLayout) -> bool:
    """Say whether memory reaches up to where the text screen is."""
    return layout.contains(TextScreen.ADDR, TextScreen.PITCH * TextScreen.ROWS)
