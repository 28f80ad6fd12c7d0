"""A Linux kernel that is not packed: the ELF file `vmlinux`, entered at its own entry point.

The entry point is that which the kernel has for its own unpacker, so the state is that of the boot
protocol: 64-bit mode, or 32-bit mode for a 32-bit kernel, and `boot_params`. There is no setup
header to be copied, so one is made.

Spec: Linux, The Linux/x86 Boot Protocol (32-bit Boot Protocol; 64-bit Boot Protocol).
"""

from __future__ import annotations

from firmware.linux_boot import BOOT_FLAG, HDRS, Loadflags
from vmm.errors import BootError
from vmm.layout import FOUR_GIB
from vmm.loader import elf
from vmm.loader.linux_params import COMMAND_LINE_SIZE, Takes, place_params
from vmm.loader.placement import Placement
from vmm.loader.plan import BootOptions, BootPlan, Start

__all__ = ["INITRD_ADDR_MAX", "plan"]

INITRD_ADDR_MAX = {32: 0x37FF_FFFF, 64: 0x7FFF_FFFF}
"""What bzImages of either kind say; an ELF file says nothing."""

_VERSION = 0x020F
_ALIGNMENT = 0x20_0000


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a vmlinux.

    Raises:
        BootError: it is malformed, or does not fit into memory.
    """
    name = options.name
    parsed = elf.parse(image, name)
    entry = elf.loaded_entry(parsed, name)
    if entry >= FOUR_GIB:
        raise BootError(f"{name}: entry point {entry:#x} is not below 4 GiB")
    placement = Placement(options, start_tables=True)
    elf.put_segments(parsed.segments, placement)
    takes = Takes(COMMAND_LINE_SIZE, INITRD_ADDR_MAX[parsed.bits], rng_seed=True)
    values = {
        "boot_flag": BOOT_FLAG,
        "header": HDRS,
        "version": _VERSION,
        "loadflags": Loadflags.LOADED_HIGH,
        "kernel_alignment": _ALIGNMENT,
        "cmdline_size": COMMAND_LINE_SIZE,
        "initrd_addr_max": takes.initrd_addr_max,
    }
    params = place_params(options, placement, takes, b"", values)
    start = Start(
        "long" if parsed.bits == 64 else "protected",
        entry,
        registers={"rsi": params, "rsp": placement.start_tables},
        protocol="linux",
    )
    notes = (f"{parsed.bits}-bit vmlinux, boot_params at {params:#x}",)
    return BootPlan("vmlinux", start, placement.writes, wants_tables=True, notes=notes)
