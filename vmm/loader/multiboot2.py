"""Multiboot 2: a 32-bit kernel with a tagged header, started as GRUB's `multiboot2` command does.

What is handed over: command line (without the kernel's name, as GRUB has it), modules, memory
sizes and map, the ELF section headers with the symbols, the loader's name, the text screen where
the kernel knows it, and the load address of a kernel that was relocated. What a kernel may ask
for is in `multiboot2_header`.

Spec: Multiboot2 2.0, I386 machine state; Boot information format.
"""

from __future__ import annotations

import struct

from vmm.errors import BootError
from vmm.loader import elf
from vmm.loader.e820 import e820
from vmm.loader.elf_sections import SectionHeaders, place_sections
from vmm.loader.multiboot2_header import Relocation, Request, Tag, read_header
from vmm.loader.multiboot_kernel import (
    INFO_FLOOR,
    LOADER_NAME,
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

__all__ = ["plan"]

_BOOTED_MAGIC = 0x36D76289
_INFO_ALIGN = 8
_NO_PREFERENCE, _LOW, _HIGH = range(3)
_MAP_ENTRY = struct.Struct("<QQII")


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a multiboot 2 kernel in protected mode.

    Raises:
        BootError: there is no header, it is malformed or asks for what is not there, or the
            kernel or a module does not fit into memory.
    """
    name = options.name
    request = read_header(image, name)
    kernel = _kernel(image, request, name)
    placement = Placement(options, start_tables=True)
    delta = 0
    if request.relocation is not None:
        delta = _displacement(kernel, request.relocation, placement, name)
    entry = kernel.put(placement, name, delta)
    modules = place_modules(options, placement, kernel.end + delta)
    sections = None
    if kernel.elf is not None:
        prefer = max([kernel.end + delta, *(m.end for m in modules)])
        sections = place_sections(kernel.elf, image, placement, prefer=prefer)
    load_base = None if request.relocation is None else kernel.start + delta
    info = _information(options, request, modules, sections, load_base)
    what = "multiboot information"
    base = placement.allocate(len(info), what, align=_INFO_ALIGN, prefer=INFO_FLOOR)
    placement.put(base, info, what)
    registers = {"rax": _BOOTED_MAGIC, "rbx": base, "rsp": placement.start_tables}
    notes = [f"multiboot 2, {len(modules)} modules, information at {base:#x}", *request.notes]
    return BootPlan(
        "multiboot2",
        Start("protected", entry, registers=registers),
        placement.writes,
        notes=tuple(notes),
    )


def _kernel(image: memoryview, request: Request, name: str) -> Kernel:
    """Read the kernel by its header's addresses or as an ELF."""
    if request.addresses is not None:
        if request.entry is None:
            raise BootError(f"{name}: a multiboot 2 address tag without an entry address tag")
        return raw_kernel(image, name, request.offset, request.addresses, request.entry)
    if not elf.is_elf(image):
        raise BootError(
            f"{name}: a multiboot 2 header without an address tag in a file that is not an ELF"
        )
    return elf_kernel(image, name, request.entry)


def _displacement(kernel: Kernel, where: Relocation, placement: Placement, name: str) -> int:
    """Return how far a relocatable kernel is moved.

    Without a preference it stays where it was linked for, if that is free and allowed.
    """
    size, align = kernel.end - kernel.start, max(where.align, 1)
    if where.preference == _NO_PREFERENCE and where.lowest <= kernel.start:
        ceiling = min(kernel.end, where.highest)
        if placement.find(size, align=align, floor=kernel.start, ceiling=ceiling) is not None:
            return 0
    base = placement.find(
        size,
        align=align,
        floor=where.lowest,
        ceiling=where.highest,
        highest=where.preference == _HIGH,
    )
    if base is None:
        raise BootError(
            f"{name}: no room for the kernel of {size} bytes between {where.lowest:#x} and "
            f"{where.highest:#x}, as it asks; give the machine more with --memory"
        )
    return base - kernel.start


def _information(
    options: BootOptions,
    request: Request,
    modules: tuple[LoadedModule, ...],
    sections: SectionHeaders | None,
    load_base: int | None,
) -> bytes:
    """Return the boot information; it holds no addresses of its own."""
    command_line = c_string(options.append, "the command line", options.name)
    tags = [_tag(Tag.COMMAND_LINE, command_line), _tag(Tag.LOADER_NAME, LOADER_NAME)]
    tags += [_tag(Tag.MODULE, struct.pack("<II", m.start, m.end) + m.string) for m in modules]
    tags.append(_tag(Tag.MEMORY, struct.pack("<II", *memory_kib(options.layout))))
    memory_map = b"".join(
        _MAP_ENTRY.pack(entry.start, entry.size, entry.type, 0) for entry in e820(options.layout)
    )
    tags.append(_tag(Tag.MEMORY_MAP, struct.pack("<II", _MAP_ENTRY.size, 0) + memory_map))
    if request.text_screen and has_text_screen(options.layout):
        tags.append(_tag(Tag.FRAMEBUFFER, _text_screen()))
    if sections is not None:
        # The specification's table has 16-bit fields here; GRUB and the kernels that read the
        # tag have 32-bit ones.
        fields = struct.pack("<III", sections.count, sections.entry_size, sections.names_index)
        tags.append(_tag(Tag.ELF_SECTIONS, fields + sections.table))
    if load_base is not None:
        tags.append(_tag(Tag.LOAD_BASE, struct.pack("<I", load_base)))
    tags.append(_tag(Tag.END, b""))
    body = b"".join(tags)
    return struct.pack("<II", 8 + len(body), 0) + body


def _text_screen() -> bytes:
    screen = TextScreen
    return struct.pack(
        "<QIIIBBH",
        *(screen.ADDR, screen.PITCH, screen.COLUMNS, screen.ROWS),
        *(screen.BITS_PER_CHARACTER, screen.FRAMEBUFFER_TYPE, 0),
    )


def _tag(kind: int, content: bytes) -> bytes:
    """Return one tag, padded to 8 bytes; its size does not count the padding."""
    tag = struct.pack("<II", kind, 8 + len(content)) + content
    return tag + bytes(-len(tag) % _INFO_ALIGN)
