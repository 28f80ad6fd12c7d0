"""Multiboot 1: a 32-bit kernel with a header, started as GRUB's `multiboot` command does.

What is handed over: memory sizes and map, command line (without the kernel's name, as GRUB 2
has it), modules, the ELF section headers with the symbols, the loader's name, and the text
screen where the kernel asks for a video mode. What is not there: boot device, drives, BIOS
configuration table, APM and VBE. A kernel that asks for a graphics mode is refused: the
specification makes the request (flags bit 2) a requirement, and there is no graphics adapter.

Spec: Multiboot 0.6.96, OS image format; Machine state; Boot information format.
"""

from __future__ import annotations

import struct

from devices.records import Record
from vmm.errors import BootError
from vmm.layout import FOUR_GIB
from vmm.loader import elf
from vmm.loader.e820 import e820
from vmm.loader.elf_sections import SectionHeaders, place_sections
from vmm.loader.multiboot_kernel import (
    INFO_FLOOR,
    LOADER_NAME,
    Addresses,
    Kernel,
    LoadedModule,
    TextScreen,
    elf_kernel,
    has_text_screen,
    memory_kib,
    place_modules,
    raw_kernel,
)
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import BootOptions, BootPlan, Start

__all__ = ["find_header", "plan"]

_MAGIC = 0x1BADB002
_BOOTED_MAGIC = 0x2BADB002
_SEARCH_SIZE = 8192

# Header flags. Bits 0 to 15 are requirements.
_PAGE_ALIGN, _MEMORY_INFO, _VIDEO_MODE, _ADDRESS_FIELDS = 1 << 0, 1 << 1, 1 << 2, 1 << 16
_REQUIREMENTS = 0xFFFF
_HEADER = struct.Struct("<III")
_ADDRESSES = struct.Struct("<12xIIIII")
_VIDEO = struct.Struct("<32xIIII")
_EGA_TEXT_MODE = 1

# Information flags.
_HAS_MEMORY, _HAS_COMMAND_LINE, _HAS_MODULES, _HAS_SECTIONS = 1 << 0, 1 << 2, 1 << 3, 1 << 5
_HAS_MAP, _HAS_LOADER_NAME, _HAS_FRAMEBUFFER = 1 << 6, 1 << 9, 1 << 12

_INFO = struct.Struct("<III4xIIIIIIIII12xI20xQIIIBB6x4x")
"""flags, mem_lower, mem_upper, (boot_device), cmdline, mods_count, mods_addr, four words of ELF
sections, mmap_length, mmap_addr, (drives, config_table), boot_loader_name, (apm, vbe),
framebuffer: addr, pitch, width, height, bpp, type, (colour fields); padded to 120 bytes."""
_MAP_ENTRY = struct.Struct("<IQQI")
_MODULE = struct.Struct("<IIII")


class _Header(Record):
    offset: int
    addresses: Addresses | None
    entry: int
    text_screen: bool


def find_header(image: memoryview) -> int | None:
    """Return the byte at which a multiboot header with a right checksum lies, or None."""
    start = bytes(image[:_SEARCH_SIZE])
    magic = struct.pack("<I", _MAGIC)
    at = start.find(magic)
    while at >= 0:
        if at % 4 == 0 and at + _HEADER.size <= len(start):
            _, flags, checksum = _HEADER.unpack_from(start, at)
            if (_MAGIC + flags + checksum) % FOUR_GIB == 0:
                return at
        at = start.find(magic, at + 1)
    return None


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a multiboot 1 kernel in protected mode.

    Raises:
        BootError: there is no header, it is malformed or asks for what is not there, or the
            kernel or a module does not fit into memory.
    """
    name = options.name
    header = _read_header(image, options)
    if header.addresses is not None:
        kernel = raw_kernel(image, name, header.offset, header.addresses, header.entry)
    elif elf.is_elf(image):
        kernel = elf_kernel(image, name)
    else:
        raise BootError(
            f"{name}: a multiboot header without address fields in a file that is not an ELF"
        )
    placement = Placement(options, start_tables=True)
    entry = kernel.put(placement, name)
    modules = place_modules(options, placement, kernel.end)
    info = _put_info(image, options, placement, kernel, modules, header.text_screen)
    registers = {"rax": _BOOTED_MAGIC, "rbx": info, "rsp": placement.start_tables}
    notes = (f"multiboot 1, {len(modules)} modules, information at {info:#x}",)
    return BootPlan(
        "multiboot",
        Start("protected", entry, registers=registers),
        placement.writes,
        notes=notes,
    )


def _read_header(image: memoryview, options: BootOptions) -> _Header:
    name = options.name
    at = find_header(image)
    if at is None:
        raise BootError(
            f"{name}: not a multiboot kernel: no header with a right checksum in the first "
            f"{_SEARCH_SIZE} bytes"
        )
    _, flags, _ = _HEADER.unpack_from(image, at)
    unknown = flags & _REQUIREMENTS & ~(_PAGE_ALIGN | _MEMORY_INFO | _VIDEO_MODE)
    if unknown:
        raise BootError(f"{name}: the multiboot header requires unknown features {unknown:#x}")
    header = image[at:_SEARCH_SIZE]
    addresses, entry = None, 0
    text_screen = bool(flags & _VIDEO_MODE)
    needed = _VIDEO.size if text_screen else _ADDRESSES.size if flags & _ADDRESS_FIELDS else 0
    if len(header) < needed:
        raise BootError(f"{name}: malformed multiboot header: cut short after {len(header)} bytes")
    if flags & _ADDRESS_FIELDS:
        fields = _ADDRESSES.unpack_from(header)
        addresses, entry = Addresses(*fields[:4]), fields[4]
    if text_screen:
        _check_video(header, options)
    return _Header(at, addresses, entry, text_screen)


def _check_video(header: memoryview, options: BootOptions) -> None:
    """Refuse a video mode other than the text screen."""
    mode, width, height, depth = _VIDEO.unpack_from(header)
    no_preference = not (width or height or depth)
    if mode != _EGA_TEXT_MODE and not no_preference:
        raise BootError(
            f"{options.name}: the multiboot header requires a graphics mode "
            f"({width}x{height}x{depth}); there is a text screen only"
        )
    if not has_text_screen(options.layout):
        raise BootError(
            f"{options.name}: the multiboot header requires a text screen, and memory ends below "
            "it; use --memory 1M or more"
        )


def _put_info(
    image: memoryview,
    options: BootOptions,
    placement: Placement,
    kernel: Kernel,
    modules: tuple[LoadedModule, ...],
    text_screen: bool,
) -> int:
    """Plan the information structure; return its address."""
    sections = None
    if kernel.elf is not None:
        prefer = max([kernel.end, *(m.end for m in modules)])
        sections = place_sections(kernel.elf, image, placement, prefer=prefer)
    command_line = c_string(options.append, "the command line", options.name)
    # The length does not depend on the place, so a trial at 0 tells how much room it takes.
    size = len(_info(0, options, command_line, modules, sections, text_screen))
    what = "multiboot information"
    base = placement.allocate(size, what, align=16, prefer=INFO_FLOOR)
    placement.put(base, _info(base, options, command_line, modules, sections, text_screen), what)
    return base


def _info(
    base: int,
    options: BootOptions,
    command_line: bytes,
    modules: tuple[LoadedModule, ...],
    sections: SectionHeaders | None,
    text_screen: bool,
) -> bytes:
    """Return the information structure, with everything that it points to, for address `base`."""
    blob = bytearray(_INFO.size)

    def append(data: bytes) -> int:
        """Add data and return its address; tables stay aligned to 8."""
        blob.extend(bytes(-len(blob) % 8))
        where = base + len(blob)
        blob.extend(data)
        return where

    flags = _HAS_MEMORY | _HAS_COMMAND_LINE | _HAS_MODULES | _HAS_MAP | _HAS_LOADER_NAME
    strings = [append(module.string) for module in modules]
    module_table = b"".join(
        _MODULE.pack(module.start, module.end, string, 0)
        for module, string in zip(modules, strings, strict=True)
    )
    memory_map = b"".join(
        _MAP_ENTRY.pack(_MAP_ENTRY.size - 4, entry.start, entry.size, entry.type)
        for entry in e820(options.layout)
    )
    section_words = (0, 0, 0, 0)
    if sections is not None:
        flags |= _HAS_SECTIONS
        table = append(sections.table)
        section_words = (sections.count, sections.entry_size, table, sections.names_index)
    framebuffer = (0, 0, 0, 0, 0, 0)
    if text_screen:
        flags |= _HAS_FRAMEBUFFER
        screen = TextScreen
        framebuffer = (
            *(screen.ADDR, screen.PITCH, screen.COLUMNS, screen.ROWS),
            *(screen.BITS_PER_CHARACTER, screen.FRAMEBUFFER_TYPE),
        )
    lower, upper = memory_kib(options.layout)
    _INFO.pack_into(
        blob,
        0,
        *(flags, lower, upper, append(command_line)),
        *(len(modules), append(module_table)),
        *section_words,
        *(len(memory_map), append(memory_map), append(LOADER_NAME)),
        *framebuffer,
    )
    return bytes(blob)
