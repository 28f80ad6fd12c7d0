"""The one block of memory that a guest started in protected or long mode stands on.

    +0x0000  page tables: PML4, PDPT and four page directories, 4 GiB in pages of 2 MiB
    +0x6000  GDT (`firmware.gdt`)
    +0x6100  TSS with an I/O permission bitmap that opens ports 0 to 0xEFFF

There is no IDT: until the guest loads its own, an exception is a shutdown, as on a processor
that was just switched into the mode. The TSS holds no stacks for the same reason.

The bitmap is for guests started at CPL 3. IOPL 3 alone would do on hardware, but kvm_pvm runs
CPL 3 with IOPL 0 whatever was asked for, and then consults the bitmap (measured). It ends at port
0xEFFF because the block would otherwise pass 32 KiB.

Spec: AMD64 APM vol. 2, Initializing Long Mode; 64-Bit Task State Segment.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping

from firmware.gdt import GDT_SIZE, SEGMENTS, TSS_SIZE, Segment, flat_gdt, tss_segment
from firmware.page_tables import TABLES_SIZE, identity_map

__all__ = ["START_TABLES_SIZE", "StartTables", "start_tables"]

START_TABLES_SIZE = 0x8000
"""Bytes of the block: 32 KiB."""

_GDT_OFFSET = 0x6000
_TSS_OFFSET = 0x6100
_TSS_IO_MAP_BASE = 102
"""Byte offset of the 16-bit field that says where the I/O permission bitmap begins."""
_OPEN_PORTS = 0xF000


class StartTables(namedtuple("StartTables", "gpa data cr3 gdt_base gdt_limit tr")):
    """The block and what the registers point at in it. All addresses are guest-physical.

    `data` are `START_TABLES_SIZE` bytes for guest memory at `gpa`; `gdt_limit` is the last valid
    byte offset in the GDT; `tr` is a `Segment`.
    """

    __slots__ = ()


def start_tables(
    gpa: int, *, user: bool = False, segments: Mapping[int, Segment] = SEGMENTS
) -> StartTables:
    """Build the block for guest-physical address `gpa`; `user` lets CPL 3 use every page, and the
    GDT describes `segments`.

    Raises:
        ValueError: `gpa` is not a multiple of 4 KiB, or the block would pass 4 GiB.
    """
    if not 0 <= gpa <= (1 << 32) - START_TABLES_SIZE:
        raise ValueError(f"start tables at {gpa:#x} do not lie below 4 GiB")
    tss = _open_tss()
    tr = tss_segment(gpa + _TSS_OFFSET, len(tss))
    block = b"".join(
        (
            identity_map(gpa, user=user).ljust(_GDT_OFFSET, b"\0"),
            flat_gdt(tr, segments).ljust(_TSS_OFFSET - _GDT_OFFSET, b"\0"),
            tss,
        )
    )
    return StartTables(
        gpa=gpa,
        data=block.ljust(START_TABLES_SIZE, b"\0"),
        cr3=gpa,
        gdt_base=gpa + _GDT_OFFSET,
        gdt_limit=GDT_SIZE - 1,
        tr=tr,
    )


def _open_tss() -> bytes:
    """A task-state segment that lets every privilege level use the ports below `_OPEN_PORTS`."""
    tss = bytearray(TSS_SIZE)
    tss[_TSS_IO_MAP_BASE : _TSS_IO_MAP_BASE + 2] = TSS_SIZE.to_bytes(2, "little")
    # The processor reads two bytes of the bitmap at a time, so a byte of ones ends it.
    return bytes(tss) + bytes(_OPEN_PORTS // 8) + b"\xff"


assert TABLES_SIZE <= _GDT_OFFSET
assert _GDT_OFFSET + GDT_SIZE <= _TSS_OFFSET
assert _TSS_OFFSET + len(_open_tss()) <= START_TABLES_SIZE
