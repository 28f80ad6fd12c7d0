"""The multiboot 2 header: found in a kernel's file and read tag by tag into a `Request`.

A tag that is not marked optional must be understood and granted. Known and granted: information
requests, address, entry address, console, module alignment, relocation. A framebuffer tag is
granted where it leaves the mode to us (depth 0: the text screen); a graphics mode is refused, or
passed over where it is optional. The EFI tags (boot services and the two entry points) speak of
machines with EFI only, and are passed over on this one as the specification has it.

Spec: Multiboot2 2.0, OS image format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from devices.records import Record
from vmm.errors import BootError
from vmm.layout import FOUR_GIB
from vmm.loader.multiboot_kernel import Addresses

__all__ = ["Relocation", "Request", "Tag", "find_header", "read_header"]

_MAGIC = 0xE85250D6
_SEARCH_SIZE = 32768
_ALIGN = 8
_HEADER = struct.Struct("<IIII")
_TAG = struct.Struct("<HHI")
_OPTIONAL = 1
_ARCHITECTURES = {0: "i386", 4: "MIPS"}

_END, _INFORMATION, _ADDRESS, _ENTRY, _CONSOLE, _FRAMEBUFFER, _MODULE_ALIGN = range(7)
_EFI_BOOT_SERVICES, _EFI32_ENTRY, _EFI64_ENTRY, _RELOCATABLE = range(7, 11)

_CONSOLE_REQUIRED, _CONSOLE_EGA_TEXT = 1, 2
_MAX_RELOCATION_ALIGN = 1 << 30


class Tag:
    """Types of the tags in the boot information. All named, not all supplied."""

    END, COMMAND_LINE, LOADER_NAME, MODULE, MEMORY, BOOT_DEVICE, MEMORY_MAP = range(7)
    VBE, FRAMEBUFFER, ELF_SECTIONS, APM, EFI32, EFI64, SMBIOS = range(7, 14)
    ACPI_OLD, ACPI_NEW, NETWORK, EFI_MAP, EFI_BOOT_SERVICES = range(14, 19)
    EFI32_HANDLE, EFI64_HANDLE, LOAD_BASE = range(19, 22)


# Understood. The specification lets one be missing where there is nothing to tell: a kernel that
# came from no BIOS disk has no boot device, a machine without a screen no framebuffer.
_SUPPLIED = frozenset(
    {
        *(Tag.END, Tag.COMMAND_LINE, Tag.LOADER_NAME, Tag.MODULE, Tag.MEMORY, Tag.BOOT_DEVICE),
        *(Tag.MEMORY_MAP, Tag.FRAMEBUFFER, Tag.ELF_SECTIONS, Tag.LOAD_BASE),
    }
)
_NOT_SUPPLIED = {
    Tag.VBE: "VBE",
    Tag.APM: "APM",
    Tag.EFI32: "EFI 32-bit system table",
    Tag.EFI64: "EFI 64-bit system table",
    Tag.SMBIOS: "SMBIOS",
    Tag.ACPI_OLD: "ACPI 1.0 RSDP",
    Tag.ACPI_NEW: "ACPI 2.0 RSDP",
    Tag.NETWORK: "network",
    Tag.EFI_MAP: "EFI memory map",
    Tag.EFI_BOOT_SERVICES: "EFI boot services",
    Tag.EFI32_HANDLE: "EFI 32-bit image handle",
    Tag.EFI64_HANDLE: "EFI 64-bit image handle",
}


class Relocation(Record):
    """A kernel that runs anywhere: from `lowest` up to an end of `highest`, aligned to `align`."""

    lowest: int
    highest: int
    align: int
    preference: int
    """0: none, 1: as low as possible, 2: as high as possible."""


@dataclass(slots=True)
class Request:
    """What a header says and asks for."""

    offset: int
    """At which byte of the file the header lies."""
    addresses: Addresses | None = None
    entry: int | None = None
    relocation: Relocation | None = None
    text_screen: bool = False
    """The kernel knows what to do with the 80x25 text screen."""
    notes: list[str] = field(default_factory=list)


def find_header(image: memoryview) -> int | None:
    """Return the byte at which a multiboot 2 header with a right checksum lies, or None."""
    start = bytes(image[:_SEARCH_SIZE])
    magic = struct.pack("<I", _MAGIC)
    at = start.find(magic)
    while at >= 0:
        if at % _ALIGN == 0 and at + _HEADER.size <= len(start):
            fields = _HEADER.unpack_from(start, at)
            if sum(fields) % FOUR_GIB == 0:
                return at
        at = start.find(magic, at + 1)
    return None


def read_header(image: memoryview, name: str) -> Request:
    """Read the header of a multiboot 2 kernel.

    Raises:
        BootError: there is none, it is malformed, or it requires what is not there.
    """
    at = find_header(image)
    if at is None:
        raise BootError(
            f"{name}: not a multiboot 2 kernel: no header with a right checksum in the first "
            f"{_SEARCH_SIZE} bytes"
        )
    _, architecture, length, _ = _HEADER.unpack_from(image, at)
    if architecture != 0:
        which = _ARCHITECTURES.get(architecture, f"architecture {architecture}")
        raise BootError(f"{name}: a multiboot 2 kernel for {which}, not for x86")
    if not _HEADER.size <= length <= min(len(image), _SEARCH_SIZE) - at:
        raise BootError(
            f"{name}: malformed multiboot 2 header: {length} bytes at byte {at} of the file do not "
            f"end within its first {_SEARCH_SIZE}"
        )
    request = Request(at)
    for kind, optional, body in _tags(image[at : at + length], name):
        _apply(request, kind, optional, body, name)
    return request


def _tags(header: memoryview, name: str) -> Iterator[tuple[int, bool, memoryview]]:
    """Yield type, whether it is optional, and content of every tag up to the end tag."""
    at = _HEADER.size
    while at + _TAG.size <= len(header):
        kind, flags, size = _TAG.unpack_from(header, at)
        if kind == _END:
            return
        if not _TAG.size <= size <= len(header) - at:
            raise BootError(
                f"{name}: malformed multiboot 2 header: tag {kind} of {size} bytes at byte {at} "
                f"of a header of {len(header)}"
            )
        yield kind, bool(flags & _OPTIONAL), header[at + _TAG.size : at + size]
        at += -(-size // _ALIGN) * _ALIGN
    raise BootError(f"{name}: malformed multiboot 2 header: no end tag")


def _apply(request: Request, kind: int, optional: bool, body: memoryview, name: str) -> None:
    """Enter one tag into the request, or refuse it."""
    if kind == _INFORMATION:
        wanted = _words(body, len(body) // 4, kind, name)
        if not optional:
            _check_information(wanted, name)
    elif kind == _ADDRESS:
        request.addresses = Addresses(*_words(body, 4, kind, name))
    elif kind == _ENTRY:
        (request.entry,) = _words(body, 1, kind, name)
    elif kind == _CONSOLE:
        (flags,) = _words(body, 1, kind, name)
        if flags & _CONSOLE_EGA_TEXT:
            request.text_screen = True
        elif flags & _CONSOLE_REQUIRED and not optional:
            raise BootError(
                f"{name}: the multiboot 2 header requires a console other than the text screen, "
                "which is the only one"
            )
    elif kind == _FRAMEBUFFER:
        width, height, depth = _words(body, 3, kind, name)
        if depth == 0:
            request.text_screen = True
        elif optional:
            request.notes.append(f"framebuffer {width}x{height}x{depth} asked for, not there")
        else:
            raise BootError(
                f"{name}: the multiboot 2 header requires a graphics framebuffer "
                f"({width}x{height}x{depth}); there is a text screen only"
            )
    elif kind == _RELOCATABLE:
        request.relocation = _relocation(body, name)
    elif kind in (_MODULE_ALIGN, _EFI_BOOT_SERVICES, _EFI32_ENTRY, _EFI64_ENTRY):
        pass  # Modules always are page-aligned; EFI is not here.
    elif not optional:
        raise BootError(f"{name}: the multiboot 2 header requires an unknown feature (tag {kind})")


def _relocation(body: memoryview, name: str) -> Relocation:
    relocation = Relocation(*_words(body, 4, _RELOCATABLE, name))
    align = relocation.align
    if align & (align - 1) or align > _MAX_RELOCATION_ALIGN:
        raise BootError(
            f"{name}: malformed multiboot 2 header: relocation alignment {align:#x} is not a power "
            "of two up to 1 GiB"
        )
    return relocation


def _check_information(wanted: tuple[int, ...], name: str) -> None:
    """Refuse a request for information that is never supplied here."""
    for kind in wanted:
        if kind not in _SUPPLIED:
            what = _NOT_SUPPLIED.get(kind, "unknown")
            raise BootError(
                f"{name}: the multiboot 2 header requires {what} information (tag {kind}), which "
                "this machine does not have"
            )


def _words(body: memoryview, count: int, kind: int, name: str) -> tuple[int, ...]:
    """Return the first `count` 32-bit words of a tag's content."""
    if len(body) < 4 * count:
        raise BootError(
            f"{name}: malformed multiboot 2 header: tag {kind} has {len(body)} bytes of content, "
            f"expected {4 * count}"
        )
    return struct.unpack_from(f"<{count}I", body)
