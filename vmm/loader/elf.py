"""ELF executables: their segments, and the plain formats `elf32` and `elf64`.

Models little-endian x86 executables (ET_EXEC) and position-independent ones without an
interpreter (ET_DYN). Relocations are not applied: a position-independent kernel relocates itself.
Two things are decided here:

- A segment goes to its physical address. Some linkers leave all of these zero; then the virtual
  addresses are taken.
- The entry point is virtual. It is translated through the segment that holds it; if none does, it
  is taken as physical, as higher-half kernels with a hand-written linker script have it.

A plain ELF start knows no boot protocol. The command line, if there is one, lies in memory as a
NUL-terminated string with its address in RDI (EDI), which is otherwise zero. RSP is the end of
the RAM below the start tables; no memory is set aside for the stack.

Spec: Tool Interface Standard ELF 1.2; System V ABI, AMD64 supplement (object files).
"""

from __future__ import annotations

import struct

from devices.records import Record
from vmm.errors import BootError
from vmm.layout import FOUR_GIB, PAGE_SIZE
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import BootOptions, BootPlan, Mode, Start

__all__ = [
    "DEFAULT_LOAD_ADDR",
    "Elf",
    "Segment",
    "check_entry",
    "is_elf",
    "loaded_entry",
    "parse",
    "plan32",
    "plan64",
    "put_segments",
]

DEFAULT_LOAD_ADDR = 0x100000
"""Where a position-independent executable goes if the user names no place."""

_MAGIC = b"\x7fELF"
_ELFDATA2LSB = 1
_ET_EXEC, _ET_DYN = 2, 3
_TYPES = {0: "of no type", 1: "a relocatable object file (not linked)", 4: "a core dump"}
_EM_386, _EM_X86_64 = 3, 62
_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
_PN_XNUM = 0xFFFF

_HEADERS = {32: struct.Struct("<16xHHIIIIIHHHHHH"), 64: struct.Struct("<16xHHIQQQIHHHHHH")}
_MAX_ALIGN = 1 << 30


class Segment(Record):
    """`size` bytes of memory at `gpa`: `data`, then zeros. `vaddr` is what it is linked for."""

    vaddr: int
    gpa: int
    data: memoryview
    size: int


class Elf(Record):
    """What the headers of an ELF file say; every offset in it was checked."""

    bits: int
    machine: int
    entry: int
    """As linked: a virtual address."""
    relocatable: bool
    """ET_DYN: it runs wherever it is put."""
    align: int
    """The largest alignment of its segments in bytes, a power of two."""
    segments: tuple[Segment, ...]
    notes: tuple[memoryview, ...]
    """The contents of its PT_NOTE segments, as far as they are in the file."""
    section_table: tuple[int, int, int, int]
    """Section header table: file offset, bytes an entry, entries, index of the name table.
    Not checked: it plays no part in loading."""


def is_elf(image: memoryview) -> bool:
    """Say whether the image starts as an ELF file does."""
    return image[:4] == _MAGIC


def parse(image: memoryview, name: str) -> Elf:
    """Read the headers of an ELF executable.

    Raises:
        BootError: it is malformed, cut short, of another processor, or not an executable.
    """
    if not is_elf(image):
        raise BootError(f"{name}: not an ELF file: it starts with {bytes(image[:4]).hex(' ')}")
    bits = {1: 32, 2: 64}.get(image[4] if len(image) > 4 else 0, 0)
    header = _HEADERS.get(bits)
    if header is None or len(image) < header.size or image[5] != _ELFDATA2LSB:
        raise BootError(f"{name}: malformed ELF: no complete little-endian ELF header")
    (kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = (
        header.unpack_from(image)
    )
    if machine not in (_EM_386, _EM_X86_64):
        raise BootError(f"{name}: an ELF for another processor (machine {machine}), not for x86")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise BootError(f"{name}: not an executable ELF but {_TYPES.get(kind, f'type {kind}')}")
    segments, align, notes = _segments(image, name, bits, (phoff, phentsize, phnum))
    sections = (shoff, shentsize, shnum, shstrndx)
    return Elf(bits, machine, entry, kind == _ET_DYN, align, segments, notes, sections)


def _segments(
    image: memoryview, name: str, bits: int, table: tuple[int, int, int]
) -> tuple[tuple[Segment, ...], int, tuple[memoryview, ...]]:
    """Read the program headers; return the segments to load, their largest alignment, and the
    notes."""
    offset, entry_size, count = table
    entry = struct.Struct("<IIIIIIII" if bits == 32 else "<IIQQQQQQ")
    if count == _PN_XNUM:
        raise BootError(f"{name}: an ELF with more than 65534 program headers is not supported")
    if count and entry_size != entry.size:
        raise BootError(
            f"{name}: malformed ELF: program headers of {entry_size} bytes, expected {entry.size}"
        )
    if offset + count * entry.size > len(image):
        raise BootError(
            f"{name}: malformed ELF: program headers end at byte {offset + count * entry.size} of "
            f"{len(image)}"
        )
    found: list[tuple[int, int, memoryview, int]] = []
    notes = []
    largest_align = 1
    for index in range(count):
        values = entry.unpack_from(image, offset + index * entry.size)
        if bits == 32:
            kind, start, vaddr, paddr, file_size, size, _, align = values
        else:
            kind, _, start, vaddr, paddr, file_size, size, align = values
        if kind == _PT_INTERP:
            raise BootError(f"{name}: a dynamically linked program, not a kernel; link it -static")
        if kind == _PT_NOTE:
            notes.append(image[start : start + file_size])
        if kind != _PT_LOAD or not (size or file_size):
            continue
        if file_size > size:
            raise BootError(
                f"{name}: malformed ELF: segment {index} has {file_size} bytes in the file and "
                f"{size} in memory"
            )
        if start + file_size > len(image):
            raise BootError(
                f"{name}: malformed ELF: segment {index} ends at byte {start + file_size} of "
                f"{len(image)}; is the file cut short?"
            )
        if align & (align - 1) == 0 and align <= _MAX_ALIGN:
            largest_align = max(largest_align, align)
        found.append((vaddr, paddr, image[start : start + file_size], size))
    if not found:
        raise BootError(f"{name}: an ELF without anything to load (no PT_LOAD segment)")
    virtual = not any(paddr for _, paddr, _, _ in found)
    segments = tuple(
        Segment(vaddr, vaddr if virtual else paddr, data, size)
        for vaddr, paddr, data, size in found
    )
    return segments, largest_align, tuple(notes)


def loaded_entry(elf: Elf, name: str) -> int:
    """Return the physical address of the entry point, as linked.

    Raises:
        BootError: it lies in no segment.
    """
    for segment in elf.segments:
        if segment.vaddr <= elf.entry < segment.vaddr + segment.size:
            return elf.entry - segment.vaddr + segment.gpa
    check_entry(elf.segments, elf.entry, name)
    return elf.entry


def check_entry(segments: tuple[Segment, ...], entry: int, name: str) -> None:
    """Refuse a physical entry point that lies in no segment.

    Raises:
        BootError: it does not.
    """
    if not any(s.gpa <= entry < s.gpa + s.size for s in segments):
        raise BootError(f"{name}: entry point {entry:#x} is in none of the image's segments")


def put_segments(segments: tuple[Segment, ...], placement: Placement, delta: int = 0) -> None:
    """Plan the segments' memory, each moved by `delta` bytes.

    Raises:
        BootError: one is not in RAM, or overlaps something.
    """
    for index, s in enumerate(segments):
        zeros = s.size - len(s.data)
        placement.put(s.gpa + delta, s.data, f"segment {index}", zeros_after=zeros)


def plan32(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a 32-bit ELF in protected mode.

    Raises:
        BootError: it is malformed, not a 32-bit x86 executable, or does not fit into memory.
    """
    return _plan(image, options, 32, "protected")


def plan64(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a 64-bit ELF in long mode.

    Raises:
        BootError: it is malformed, not a 64-bit x86 executable, or does not fit into memory.
    """
    return _plan(image, options, 64, "long")


def _plan(image: memoryview, options: BootOptions, bits: int, mode: Mode) -> BootPlan:
    name = options.name
    elf = parse(image, name)
    if elf.bits != bits:
        raise BootError(f"{name}: a {elf.bits}-bit ELF; use --format elf{elf.bits}")
    if elf.machine != (_EM_386 if bits == 32 else _EM_X86_64):
        # Class and machine disagree in x32 programs, which run in long mode with short pointers.
        raise BootError(f"{name}: a {bits}-bit ELF with code for the other x86 mode (x32)")
    placement = Placement(options, start_tables=True)
    delta = _displacement(elf, options)
    put_segments(elf.segments, placement, delta)
    if options.entry is None:
        entry = loaded_entry(elf, name) + delta
    else:
        entry = options.entry
        check_entry(elf.segments, entry - delta, name)
    if entry >= FOUR_GIB:
        raise BootError(
            f"{name}: entry point {entry:#x} is out of reach: the start identity-maps 4 GiB"
        )
    registers = {"rsp": placement.start_tables, "rdi": 0}
    if options.append:
        line = c_string(options.append, "the command line", name)
        registers["rdi"] = placement.allocate(len(line), "the command line", prefer=0x10000)
        placement.put(registers["rdi"], line, "the command line")
    start = Start(mode, entry, registers=registers)
    notes = (f"{bits}-bit ELF, {len(elf.segments)} segments",)
    return BootPlan(f"elf{bits}", start, placement.writes, moved_by=delta, notes=notes)


def _displacement(elf: Elf, options: BootOptions) -> int:
    """Return how far the segments are moved from where they were linked for."""
    if not elf.relocatable:
        if options.load_addr is not None:
            raise BootError(
                f"{options.name}: linked for a fixed address; --load-addr is for flat and "
                "position-independent images"
            )
        return 0
    align = max(elf.align, PAGE_SIZE)
    linked = min(s.gpa for s in elf.segments) // align * align
    if options.load_addr is None:
        return -(-DEFAULT_LOAD_ADDR // align) * align - linked
    if options.load_addr % align:
        raise BootError(
            f"{options.name}: load address {options.load_addr:#x} is not a multiple of the "
            f"image's alignment, {align:#x}"
        )
    return options.load_addr - linked
