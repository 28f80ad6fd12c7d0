"""Segments, as the descriptor table keeps them and as the processor has them loaded.

One declaration gives both: `flat_gdt` encodes the segments of `SEGMENTS` into a table, and the
machine loads its segment registers from the same `Segment` values. A guest that reloads a
register from the table therefore gets what it had.

Spec: AMD64 APM vol. 2, Segmented Virtual Memory.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "BOOT_CODE",
    "BOOT_DATA",
    "GDT_SIZE",
    "KERNEL_CODE32",
    "KERNEL_CODE64",
    "KERNEL_DATA",
    "NO_LDT",
    "SEGMENTS",
    "TSS",
    "TSS_SIZE",
    "USER_CODE32",
    "USER_CODE64",
    "USER_DATA",
    "Segment",
    "boot_segments",
    "descriptor",
    "flat_gdt",
    "real_mode_segment",
    "tss_segment",
]

KERNEL_CODE32 = 0x08
KERNEL_DATA = 0x10
KERNEL_CODE64 = 0x18
USER_CODE32 = 0x20 | 3
USER_DATA = 0x28 | 3
USER_CODE64 = 0x30 | 3
TSS = 0x38
"""Selector of the task-state segment; its descriptor takes two slots in long mode."""

BOOT_CODE = 0x10
BOOT_DATA = 0x18
"""Where Linux's boot protocol has its segments (`boot_segments`): __BOOT_CS and __BOOT_DS."""

GDT_SIZE = 0x48
"""Bytes of the table that `flat_gdt` returns."""
TSS_SIZE = 104
"""Bytes of a task-state segment without an I/O permission bitmap."""

# Types of code and data segments. The accessed bit is set from the start: VM entry on VT-x
# demands it in a loaded segment, and the processor then never writes to the table.
_CODE = 0xB  # execute, read, accessed
_DATA = 0x3  # read, write, accessed
_BUSY_TSS = 0xB  # with S clear; 32-bit in protected mode, 64-bit in long mode
_LDT = 0x2


def descriptor(
    base: int,
    limit: int,
    type: int,
    *,
    s: int = 1,
    dpl: int = 0,
    present: int = 1,
    avl: int = 0,
    l: int = 0,  # noqa: E741
    db: int = 0,
    g: int = 0,
) -> int:
    """Encode an 8-byte segment descriptor.

    `base` is 32 bits wide; `limit` is the 20 bits that the descriptor stores, in units of bytes
    (`g` clear) or of 4 KiB (`g` set); `type` is 4 bits, `dpl` 2 bits, all others one bit.

    Raises:
        ValueError: a value does not fit its bits.

    Spec: AMD64 APM vol. 2, Legacy Segment Descriptors.
    """
    result = 0
    for name, value, width, position in (
        ("base", base, 32, None),
        ("limit", limit, 20, None),
        ("type", type, 4, 40),
        ("s", s, 1, 44),
        ("dpl", dpl, 2, 45),
        ("present", present, 1, 47),
        ("avl", avl, 1, 52),
        ("l", l, 1, 53),
        ("db", db, 1, 54),
        ("g", g, 1, 55),
    ):
        if not 0 <= value < 1 << width:
            raise ValueError(f"{name} {value:#x} does not fit {width} bits")
        if position is not None:
            result |= value << position
    result |= (limit & 0xFFFF) | (limit >> 16) << 48
    result |= (base & 0xFF_FFFF) << 16 | (base >> 24) << 56
    return result


class Segment(
    namedtuple(
        "Segment",
        "base limit selector type present dpl db s l g avl unusable",
        defaults=(1, 0, 0, 1, 0, 0, 0, 0),
    )
):
    """A segment register with its hidden part, under the names of KVM's `struct kvm_segment`.

    `limit` is the last valid offset in bytes, whatever `g` says: 0xFFFFFFFF for 4 GiB.
    """

    __slots__ = ()

    @property
    def descriptor(self) -> int:
        """The 8-byte descriptor that loads this segment (the low half of a system one)."""
        return descriptor(
            self.base & 0xFFFF_FFFF,
            self.limit >> 12 if self.g else self.limit,
            self.type,
            s=self.s,
            dpl=self.dpl,
            present=self.present,
            avl=self.avl,
            l=self.l,
            db=self.db,
            g=self.g,
        )


def _flat(selector: int, type: int, *, db: int = 0, long: int = 0) -> Segment:
    return Segment(0, 0xFFFF_FFFF, selector, type, dpl=selector & 3, db=db, l=long, g=1)


SEGMENTS: Mapping[int, Segment] = MappingProxyType(
    {
        segment.selector: segment
        for segment in (
            _flat(KERNEL_CODE32, _CODE, db=1),
            _flat(KERNEL_DATA, _DATA, db=1),
            _flat(KERNEL_CODE64, _CODE, long=1),
            _flat(USER_CODE32, _CODE, db=1),
            _flat(USER_DATA, _DATA, db=1),
            _flat(USER_CODE64, _CODE, long=1),
        )
    }
)
"""The flat segments (base 0, 4 GiB) by selector; the selector's low two bits are the DPL."""


def boot_segments(*, long: bool) -> Mapping[int, Segment]:
    """The flat segments of a start by Linux's boot protocol; code is 64-bit or 32-bit.

    Spec: Linux, The Linux/x86 Boot Protocol (32-bit Boot Protocol; 64-bit Boot Protocol).
    """
    code = _flat(BOOT_CODE, _CODE, db=0 if long else 1, long=1 if long else 0)
    return {BOOT_CODE: code, BOOT_DATA: _flat(BOOT_DATA, _DATA, db=1)}


NO_LDT = Segment(0, 0, 0, _LDT, present=0, s=0, unusable=1)
"""LDTR with no local descriptor table."""


def tss_segment(base: int, size: int = TSS_SIZE) -> Segment:
    """TR for a task-state segment of `size` bytes (I/O bitmap included) at linear address `base`.

    It is busy, as LTR leaves it; VM entry takes no other.

    Spec: AMD64 APM vol. 2, Task-Management Resources.
    """
    return Segment(base, size - 1, TSS, _BUSY_TSS, s=0)


def real_mode_segment(selector: int, *, code: bool = False) -> Segment:
    """A segment register in real mode: base `selector` * 16, limit 64 KiB.

    Raises:
        ValueError: the selector does not fit 16 bits.

    Spec: AMD64 APM vol. 2, Real Mode Segmentation.
    """
    if not 0 <= selector <= 0xFFFF:
        raise ValueError(f"selector {selector:#x} does not fit 16 bits")
    return Segment(selector << 4, 0xFFFF, selector, _CODE if code else _DATA)


def flat_gdt(tss: Segment | None = None, segments: Mapping[int, Segment] = SEGMENTS) -> bytes:
    """Return the table of `segments`, `GDT_SIZE` bytes, with the null descriptor in front.

    The slot `TSS` describes `tss` (see `tss_segment`), or is not present without one.

    Spec: AMD64 APM vol. 2, Global Descriptor Table.
    """
    table = bytearray(GDT_SIZE)

    def put(offset: int, entry: int) -> None:
        table[offset : offset + 8] = entry.to_bytes(8, "little")

    for selector, segment in segments.items():
        put(selector & ~7, segment.descriptor)
    if tss is not None:
        put(TSS, tss.descriptor)
        put(TSS + 8, tss.base >> 32)
    return bytes(table)
