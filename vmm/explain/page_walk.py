"""Walking a guest's page tables as its processor would, and telling every step.

All paging modes of x86 are here: 32-bit with 4 MiB pages, PAE, 4 and 5 levels with large pages,
and no paging at all. Left out: protection keys, shadow stacks, and the processor's copies of the
tables (TLB, and the PAE directory pointers that a write of CR3 loads): the walk reads what lies
in memory now.

Spec: AMD64 APM vol. 2, "Page Translation and Protection"; Intel SDM vol. 3, "Paging".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState, Paging

__all__ = ["Access", "Entry", "PageWalk", "Read", "read_linear", "walk"]

Access = Literal["read", "write", "execute"]

Read = Callable[[int, int], bytes]
"""Reads `size` bytes at a guest-physical address; raises GuestAddressError outside of memory."""

_FLAGS = ((0, "P"), (1, "W"), (2, "U"), (5, "A"), (6, "D"), (7, "PS"), (8, "G"), (63, "NX"))
_NX = 1 << 63
_FRAME = (1 << 52) - (1 << 12)


@dataclass(frozen=True, slots=True)
class Entry:
    """One table entry that the walk read: `value` at guest-physical `gpa`."""

    table: str
    index: int
    gpa: int
    value: int
    maps: int = 0
    """The size in bytes of the page that this entry maps; 0 for a pointer to a table."""

    @property
    def flags(self) -> str:
        """The set flags: "P W U A"."""
        return " ".join(
            name
            for bit, name in _FLAGS
            # Bit 7 of a last-level entry is PAT; only where it makes a page large is it PS.
            if self.value >> bit & 1 and not (bit == 7 and self.table == "PT")
        )

    def __str__(self) -> str:
        size = f"  {page_size_text(self.maps)} page" if self.maps else ""
        return (
            f"{self.table:>4}[{self.index:#05x}] at {self.gpa:#x}: {self.value:#018x} "
            f"[{self.flags or 'not present'}]{size}"
        )


@dataclass(frozen=True, slots=True)
class PageWalk:
    """Where a linear address leads."""

    gva: int
    """The linear address, cut to 32 bits outside of long mode."""
    access: Access
    paging: Paging
    entries: tuple[Entry, ...] = ()
    gpa: int | None = None
    """The guest-physical address; None if the walk was stopped."""
    stop: str = ""
    """What stopped it, in words; empty if the access is allowed."""
    mapped: bool = True
    """Whether a page is there at all (it may be protected against this access)."""

    @property
    def ok(self) -> bool:
        """Whether the processor would allow the access."""
        return not self.stop

    @property
    def leads_to(self) -> int | None:
        """The guest-physical address, also where the page is protected against this access; None
        where no page is there."""
        if self.gpa is not None or not self.mapped or not self.entries:
            return self.gpa
        last = self.entries[-1]
        return _frame(self.paging, last.value, last.maps) | (self.gva & (last.maps - 1))

    def lines(self) -> list[str]:
        """Tell the walk, one line for each step."""
        lines = [f"{self.access} of {self.gva:#x}, paging {self.paging}"]
        lines += [str(entry) for entry in self.entries]
        lines.append(self.stop or f"leads to guest-physical {self.gpa:#x}")
        return lines


def page_size_text(size: int) -> str:
    """4096 -> "4 KiB"."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size >> 10} KiB"


@dataclass(frozen=True, slots=True)
class _Shape:
    """A paging mode: tables from the top as (name, lowest address bit), and their entries."""

    tables: tuple[tuple[str, int], ...]
    entry_size: int
    root_mask: int
    large: frozenset[str]
    """The tables whose entries may map a page themselves (bit 7)."""

    def index(self, gva: int, low: int) -> int:
        return gva >> low & (4096 // self.entry_size - 1)


def _shape(state: CpuState) -> _Shape:
    if state.paging == "32-bit":
        large = frozenset({"PD"} if state.cr4 >> 4 & 1 else ())
        return _Shape((("PD", 22), ("PT", 12)), 4, 0xFFFF_F000, large)
    pae = (("PDPT", 30), ("PD", 21), ("PT", 12))
    if state.paging == "PAE":
        return _Shape(pae, 8, 0xFFFF_FFE0, frozenset({"PD"}))
    top = (("PML5", 48), ("PML4", 39)) if state.paging == "5-level" else (("PML4", 39),)
    return _Shape(top + pae, 8, _FRAME, frozenset({"PDPT", "PD"}))


def _reserved(state: CpuState, table: str, value: int, maps: int, physical_bits: int) -> int:
    """The reserved bits that are set in an entry.

    Spec: Intel SDM vol. 3, the tables "Format of ..." of "Paging".
    """
    if state.paging == "32-bit":
        return value & 1 << 21 if maps > 4096 else 0
    bits = _FRAME & ~((1 << physical_bits) - 1)
    if maps > 4096:
        bits |= (maps - 1) & ~0x1FFF
    elif table in ("PML5", "PML4") or (table == "PDPT" and state.paging == "PAE"):
        bits |= 1 << 7
    if state.paging == "PAE":
        bits |= 0x7FF << 52
        if table == "PDPT":
            bits |= 0x166 | _NX
    if not state.efer >> 11 & 1:
        bits |= _NX
    return value & bits


def walk(
    state: CpuState,
    read: Read,
    gva: int,
    access: Access = "read",
    *,
    cpl: int | None = None,
    physical_bits: int = 52,
) -> PageWalk:
    """Translate the linear address `gva` for an access at privilege level `cpl`.

    `cpl` is the vCPU's own if not given; `physical_bits` is how many bits of physical address
    the guest's CPUID tells of.
    """
    level = state.cpl if cpl is None else cpl
    if not state.long_mode:
        gva &= 0xFFFF_FFFF
    paging = state.paging
    if paging == "off":
        return PageWalk(gva, access, paging, gpa=gva)
    if state.long_mode and not _canonical(gva, 57 if paging == "5-level" else 48):
        return PageWalk(gva, access, paging, stop="the address is not canonical", mapped=False)

    shape = _shape(state)
    table_gpa = state.cr3 & shape.root_mask
    entries: list[Entry] = []
    writable = user = executable = True
    for name, low in shape.tables:
        index = shape.index(gva, low)
        where = table_gpa + index * shape.entry_size
        try:
            value = int.from_bytes(read(where, shape.entry_size), "little")
        except GuestAddressError:
            stop = f"the {name} at guest-physical {table_gpa:#x} is not in memory"
            return PageWalk(gva, access, paging, tuple(entries), stop=stop, mapped=False)
        present = value & 1
        large = bool(name in shape.large and value >> 7 & 1)
        maps = (1 << low) if present and (large or low == 12) else 0
        entry = Entry(name, index, where, value, maps)
        entries.append(entry)
        if not present:
            stop = f"not present: {name} entry {index:#x} is {value:#x}"
            return PageWalk(gva, access, paging, tuple(entries), stop=stop, mapped=False)
        wrong = _reserved(state, name, value, maps, physical_bits)
        if wrong:
            stop = f"reserved bits {wrong:#x} are set in {name} entry {index:#x}"
            return PageWalk(gva, access, paging, tuple(entries), stop=stop, mapped=False)
        if not (name == "PDPT" and paging == "PAE"):
            # The directory pointers of PAE have no protection bits.
            writable = writable and bool(value & 2)
            user = user and bool(value & 4)
            executable = executable and not value & _NX
        if maps:
            break
        table_gpa = value & _FRAME

    stop = _forbidden(state, access, level, writable, user, executable)
    gpa = _frame(paging, value, maps) | (gva & (maps - 1))
    return PageWalk(gva, access, paging, tuple(entries), None if stop else gpa, stop)


def _frame(paging: Paging, value: int, maps: int) -> int:
    """Where the page of `maps` bytes begins that an entry maps."""
    base = value & _FRAME & ~(maps - 1)
    if paging == "32-bit" and maps > 4096:
        base |= (value >> 13 & 0xFF) << 32  # PSE-36: bits 39:32 of the address
    return base


def _canonical(gva: int, width: int) -> bool:
    upper = gva >> (width - 1)
    return upper in (0, (1 << (65 - width)) - 1)


def _forbidden(
    state: CpuState, access: Access, cpl: int, writable: bool, user: bool, executable: bool
) -> str:
    """Say what forbids an access to a page that is there, or "".

    Spec: Intel SDM vol. 3, "Determination of Access Rights".
    """
    if cpl == 3 and not user:
        return "the page is for the supervisor only (U is clear), and the access is of ring 3"
    if access == "execute":
        if not executable:
            return "the page is not executable (NX is set)"
        if cpl < 3 and user and state.cr4 >> 20 & 1:
            return "SMEP: ring 0 may not execute a user page"
        return ""
    if cpl < 3 and user and state.cr4 >> 21 & 1 and not state.rflags >> 18 & 1:
        return "SMAP: ring 0 may not access a user page while RFLAGS.AC is clear"
    if access == "write" and not writable and (cpl == 3 or state.cr0 >> 16 & 1):
        return "the page is write-protected (W is clear)"
    return ""


def read_linear(state: CpuState, read: Read, gva: int, size: int) -> bytes:
    """Read up to `size` bytes at a linear address: as many from its start as are in memory.

    Protection does not matter here, only whether a page is there: a debugger looks, the guest
    does not.
    """
    found = bytearray()
    wrap = 0xFFFF_FFFF_FFFF_FFFF if state.long_mode else 0xFFFF_FFFF
    while len(found) < size:
        here = (gva + len(found)) & wrap
        step = walk(state, read, here, "read", cpl=0)
        gpa = step.leads_to
        if gpa is None:
            break
        count = min(size - len(found), 4096 - (here & 0xFFF))
        try:
            found += read(gpa, count)
        except GuestAddressError:
            # The last page may end early; take what is there byte by byte.
            for offset in range(count):
                try:
                    found += read(gpa + offset, 1)
                except GuestAddressError:
                    return bytes(found)
    return bytes(found)
