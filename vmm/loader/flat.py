"""Flat binaries: bytes at an address, started in the mode that the user names.

| format | mode | default address |
|---|---|---|
| flat16 | real, 16-bit | 0x7C00 |
| flat32 | protected, flat segments, paging off | 0x100000 |
| flat64 | long, the first 4 GiB identity-mapped | 0x100000 |

The entry point is the first byte unless the user names another one in the image. The stack
pointer starts at the load address (rounded down to 16) and grows down, away from the image. Two
cases have no room there. A real-mode image above 64 KiB starts with SP 0, which wraps to the top
of its segment; a protected or long mode image in the first page starts with the stack below the
start tables. No BIOS is there for flat16: its interrupt vectors are zero.
"""

from __future__ import annotations

from vmm.errors import BootError
from vmm.layout import FOUR_GIB, PAGE_SIZE
from vmm.loader.placement import Placement
from vmm.loader.plan import BootOptions, BootPlan, Mode, Start

__all__ = ["plan16", "plan32", "plan64"]

_REAL_MODE_END = 0x100000
_SEGMENT_SIZE = 0x10000


def plan16(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan a real-mode start of a flat binary.

    Raises:
        BootError: it does not fit into memory, or the entry point is not in it.
    """
    return _plan(image, options, "flat16", "real", default_addr=0x7C00)


def plan32(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan a protected-mode start of a flat binary.

    Raises:
        BootError: it does not fit into memory, or the entry point is not in it.
    """
    return _plan(image, options, "flat32", "protected", default_addr=0x100000)


def plan64(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan a long-mode start of a flat binary.

    Raises:
        BootError: it does not fit into memory, or the entry point is not in it.
    """
    return _plan(image, options, "flat64", "long", default_addr=0x100000)


def _plan(
    image: memoryview, options: BootOptions, name: str, mode: Mode, default_addr: int
) -> BootPlan:
    load_addr = default_addr if options.load_addr is None else options.load_addr
    entry = load_addr if options.entry is None else options.entry
    placement = Placement(options, start_tables=mode != "real")
    placement.put(load_addr, image, "image")
    if not load_addr <= entry < load_addr + len(image):
        raise BootError(
            f"{options.name}: entry point {entry:#x} is not in the image "
            f"({load_addr:#x}..{load_addr + len(image):#x})"
        )
    reach = _REAL_MODE_END if mode == "real" else FOUR_GIB
    if entry >= reach:
        raise BootError(
            f"{options.name}: entry point {entry:#x} is out of reach: a {name} image starts "
            f"below {reach:#x}"
        )
    if mode == "real":
        stack = load_addr if entry < _SEGMENT_SIZE else 0
    else:
        stack = load_addr if load_addr >= PAGE_SIZE else placement.start_tables
    start = Start(mode, entry, cpl=options.cpl, registers={"rsp": stack & ~0xF})
    return BootPlan(name, start, placement.writes)
