"""A kernel with a PVH entry point: an ELF with a note that names it, in 32-bit protected mode.

Linux has one, and so have FreeBSD and many small kernels.

Spec: Xen, x86/HVM direct boot ABI.
"""

from __future__ import annotations

from firmware.pvh_boot import start_info, start_info_size
from vmm.errors import BootError
from vmm.loader import elf, elf_notes
from vmm.loader.e820 import e820
from vmm.loader.linux_params import COMMAND_LINE_SIZE, command_line, place_initrd
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import BootOptions, BootPlan, Start
from vmm.loader.vmlinux import INITRD_ADDR_MAX

__all__ = ["plan"]

_INFO_FLOOR = 0x10000


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of an ELF by its PVH note.

    Raises:
        BootError: it is malformed, has no such note, or does not fit into memory.
    """
    name = options.name
    parsed = elf.parse(image, name)
    entry = elf_notes.pvh_entry(parsed)
    if entry is None:
        raise BootError(f"{name}: an ELF without a PVH entry point (no note of Xen's, type 18)")
    elf.check_entry(parsed.segments, entry, name)
    placement = Placement(options, start_tables=True)
    elf.put_segments(parsed.segments, placement)
    linux = elf_notes.is_linux(parsed)
    if linux:
        line = command_line(options, COMMAND_LINE_SIZE)
    else:
        line = c_string(options.append, "the command line", name)
    line_at = placement.allocate(len(line), "the command line", prefer=_INFO_FLOOR)
    placement.put(line_at, line, "the command line")
    initrd = place_initrd(options, placement, INITRD_ADDR_MAX[parsed.bits])
    modules = [initrd] if options.initrd is not None else []
    memory_map = [(r.start, r.size, r.type) for r in e820(options.layout)]
    size = start_info_size(len(modules), len(memory_map))
    info_at = placement.allocate(size, "the start info", align=16, prefer=_INFO_FLOOR)
    info = start_info(
        info_at,
        command_line=line_at,
        modules=modules,
        memory_map=memory_map,
        rsdp=options.rsdp,
    )
    placement.put(info_at, info, "the start info")
    start = Start(
        "protected",
        entry,
        registers={"rbx": info_at, "rsp": placement.start_tables},
        protocol="pvh",
    )
    notes = (f"{parsed.bits}-bit ELF, PVH, start info at {info_at:#x}",)
    return BootPlan("pvh", start, placement.writes, wants_tables=True, notes=notes)
