"""Which format an image has, told from its bytes.

In this order, first match wins:

1. An ELF: multiboot 2 or multiboot if it has such a header (2 where it has both), else PVH or
   Linux if it has a note that says so, else by class.
2. A Linux kernel (bzImage), told from its setup header. It also ends its first sector in 55 AA.
3. A first sector that ends in 55 AA. It comes before the next one because a disk made by GRUB
   has a multiboot header in its second sector.
4. A multiboot 2 or multiboot header in a file that is not an ELF.
5. A ROM with a jump at the reset vector.

Flat binaries have nothing to be told by; the user names their format.
"""

from __future__ import annotations

from vmm.errors import BootError
from vmm.loader import bootsector, firmware_rom

__all__ = ["detect"]

_ELF_MAGIC = b"\x7fELF"
_SETUP_MAGIC = b"HdrS"
_SETUP_MAGIC_OFFSET = 0x202
_MULTIBOOT_MAGICS = (bytes.fromhex("02b0ad1b"), bytes.fromhex("d65052e8"))
_SEARCHED = 32768


def detect(image: bytes | memoryview, name: str = "image") -> str:
    """Return the name of the image's format; `name` is what messages call the image.

    Raises:
        BootError: it is none that can be told from its bytes.

    Spec: Linux, The Linux/x86 Boot Protocol (The Real-Mode Kernel Header) for `linux`.
    """
    view = memoryview(image)
    if view[:4] == _ELF_MAGIC:
        return _multiboot(view) or _elf(view, name)
    if bootsector.has_signature(view):
        magic = view[_SETUP_MAGIC_OFFSET : _SETUP_MAGIC_OFFSET + len(_SETUP_MAGIC)]
        return "linux" if magic == _SETUP_MAGIC else "bootsector"
    if (found := _multiboot(view)) is not None:
        return found
    if firmware_rom.looks_like_rom(view):
        return "firmware"
    if len(view) and len(view) % bootsector.SECTOR_SIZE == 0:
        # It has the size of a disk, so a boot sector is what it was most likely meant to be.
        bootsector.check_signature(view, name)
    raise BootError(
        f"{name}: format not recognised in {len(view)} bytes (no ELF, multiboot, boot sector or "
        "firmware); name it with --format flat16, flat32 or flat64"
    )


def _elf(image: memoryview, name: str) -> str:
    from vmm.loader import elf, elf_notes

    parsed = elf.parse(image, name)
    if elf_notes.pvh_entry(parsed) is not None:
        return "pvh"
    return "vmlinux" if elf_notes.is_linux(parsed) else f"elf{parsed.bits}"


def _multiboot(image: memoryview) -> str | None:
    # The loaders are dear to import: first see whether the magic number is there at all.
    start = bytes(image[:_SEARCHED])
    if not any(magic in start for magic in _MULTIBOOT_MAGICS):
        return None
    from vmm.loader import multiboot, multiboot2_header

    if multiboot2_header.find_header(image) is not None:
        return "multiboot2"
    if multiboot.find_header(image) is not None:
        return "multiboot"
    return None
