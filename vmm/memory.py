"""Guest memory: what lies at a guest-physical address.

RAM is one memfd, mapped range by range around the holes of the physical address map; read-only
memory (a firmware image) and files (persistent memory) are mapped beside it. Addresses are checked
here, for everybody: no other module turns a guest-physical address into a pointer.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator

from vmm.errors import ConfigError, GuestMemoryError, MappingOverlap
from vmm.layout import PAGE_SIZE, MemoryLayout, RamRange
from vmm.mapping import map_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    FileAccess: TypeAlias = Literal["read-only", "writable", "private"]

__all__ = ["GuestMemory", "Region"]

_HUGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25
"""Make huge pages of a range now, whatever the host has set for later (Linux 6.1)."""
_MADV_REMOVE = 9
"""Free the pages and what backs them (madvise(2))."""


class Region:
    """`size` bytes of host memory that the guest sees from `gpa` on, called `what` in messages."""

    __slots__ = ("fd", "gpa", "kind", "map", "readonly", "size", "skipped", "view", "what")

    def __init__(
        self,
        gpa: int,
        size: int,
        map: mmap.mmap,
        view: memoryview,
        readonly: bool,
        what: str,
        skipped: int = 0,
        *,
        kind: Literal["ram", "rom", "file"],
        fd: int = -1,
    ) -> None:
        self.gpa = gpa
        self.size = size
        self.map = map
        self.view = view
        self.readonly = readonly
        self.what = what
        self.skipped = skipped
        """How many bytes of `map` come before the region."""
        self.kind = kind
        """RAM; read-only memory that belongs to the machine; or a file, which does not."""
        self.fd = fd
        """The file that it is a shared mapping of, from its beginning; -1 where it is none, or RAM,
        which is `GuestMemory.fd`."""

    @property
    def end(self) -> int:
        """The first guest-physical address behind the region."""
        return self.gpa + self.size

    @property
    def hva(self) -> int:
        """The host virtual address of the region's first byte."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map)) + self.skipped

    def advise(self, advice: int, start: int, end: int) -> None:
        """Give the host advice (MADV_*) on a piece of the region, which it may not follow.

        Spec: madvise(2).
        """
        with contextlib.suppress(OSError):
            self.map.madvise(advice, self.skipped + start, end - start)


class GuestMemory:
    """The memory of one machine, addressed by guest-physical address.

    Args:
        layout: where the RAM lies.
        huge_pages: back RAM with 2 MiB pages from the host's reserved pool (hugetlbfs).

    Raises:
        ConfigError: the host does not give that much memory, or has no huge pages reserved.
    """

    def __init__(self, layout: MemoryLayout, *, huge_pages: bool = False) -> None:
        self.layout = layout
        self.huge_pages = huge_pages
        self._regions: list[Region] = []
        self._starts: list[int] = []
        self._low, self._low_end = memoryview(b""), 0
        """The RAM from address 0 on, and where it ends."""
        self.base: tuple[int, int] | None = None
        """The file, and where in it, that RAM is a private copy of; None: RAM is `fd` itself."""
        self.unseen_writers: list[str] = []
        """Who writes to RAM besides guest and VMM, so that nobody notes it."""
        self._shared_with = ""
        self.written: set[int] | None = None
        """The pages (gpa / 4096) that the host wrote to, or may have, where somebody wants to
        know; those that the guest wrote to are in KVM's log."""
        flags = os.MFD_CLOEXEC
        if huge_pages:
            if any(r.size % _HUGE_PAGE for r in layout.ranges):
                raise ConfigError("huge pages: memory must be a multiple of 2M")
            flags |= os.MFD_HUGETLB
        self.fd = os.memfd_create("glassvm-ram", flags)
        try:
            # Python maps nothing behind a file's end.
            os.ftruncate(self.fd, layout.size + (0 if huge_pages else _HUGE_PAGE))
            offset = 0
            for ram in layout.ranges:
                self._insert(self._map_ram(ram, offset))
                offset += ram.size
            os.ftruncate(self.fd, layout.size)
        except (OSError, OverflowError, ValueError) as error:
            self.close()
            raise ConfigError(_refusal(layout.size, huge_pages, error)) from None

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return self.layout.size

    def add_rom(self, gpa: int, data: bytes | memoryview, what: str = "rom") -> Region:
        """Map `data` read-only at `gpa`; it is padded with ones to whole pages.

        Raises:
            ConfigError: `gpa` is not on a page boundary, or `data` is empty.
            MappingOverlap: there is memory already.
        """
        if gpa % PAGE_SIZE or not len(data):
            raise ConfigError(f"{what}: read-only memory must be mapped on a 4K boundary")
        size = -(-len(data) // PAGE_SIZE) * PAGE_SIZE
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping[: len(data)] = bytes(data)
        mapping[len(data) :] = b"\xff" * (size - len(data))
        region = Region(gpa, size, mapping, memoryview(mapping), True, what, kind="rom")
        self._insert(region)
        return region

    def add_file(self, gpa: int, fd: int, size: int, access: FileAccess) -> Region:
        """Map the first `size` bytes of a file at `gpa`.

        Args:
            gpa, size: whole pages.
            fd: the file, which stays the caller's, must stay open and must not become shorter.
            access: the guest reads; it writes to the file; or to a copy of its own.

        Raises:
            MappingOverlap: there is memory already.
            OSError: the file cannot be mapped.
        """
        shared = access == "writable"
        mapping = mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if shared else mmap.ACCESS_COPY)
        region = Region(
            *(gpa, size, mapping, memoryview(mapping), access == "read-only", "a file"),
            kind="file",
            fd=fd if shared else -1,
        )
        self._insert(region)
        return region

    def ram_offset(self, region: Region) -> int:
        """Where a region of RAM begins in `fd`, or behind the offset of `base`."""
        return sum(r.size for r in self._regions if r.kind == "ram" and r.gpa < region.gpa)

    def map_privately(self, fd: int, offset: int) -> None:
        """Make RAM a private copy of a file from `offset` on: pages are read when they are first
        touched, and what is written stays here. What RAM held is gone.

        Addresses stay as they are, in the guest and in this process. The file must not become
        shorter.

        Raises:
            OSError: the file cannot be mapped.
        """
        self._refuse_while_shared()
        if self.huge_pages:
            raise ConfigError("memory of huge pages cannot be mapped from a file")
        for region in self._regions:
            if region.kind == "ram":
                map_over(region.hva, region.size, fd, offset + self.ram_offset(region))
        old = self.fd if self.base is None else self.base[0]
        self.base = os.dup(fd), offset
        self.fd = -1
        os.close(old)
        if self.written is not None:
            self.written.clear()

    def shared_fd(self, who: str) -> int:
        """Return RAM's file, for another process to map; from then on RAM stays that file.

        Args:
            who: called so in messages.

        Raises:
            ConfigError: RAM is a private copy of something, which no other process sees.
        """
        if self.base is not None:
            raise ConfigError(
                f"{who}: another process cannot see the memory of a machine out of a snapshot"
            )
        self._shared_with = who
        return self.fd

    def freeze(self) -> None:
        """Make RAM a private copy of what it is now: its file gets no more writes and can be shared
        with other machines (`base`). Not where it is a private copy already.

        Raises:
            ConfigError: RAM is made of huge pages.
            OSError: the host refuses.
        """
        self._refuse_while_shared()
        if self.huge_pages:
            raise ConfigError("memory of huge pages cannot be shared with a copy")
        self.base, self.fd = (self.fd, 0), -1
        for region in self._regions:
            if region.kind == "ram":
                map_over(region.hva, region.size, self.base[0], self.ram_offset(region))

    def expect(self, gpa: int, size: int) -> None:
        """Prepare for all of a range of RAM being written soon: where the host can, it gets
        huge pages, which are one fault where there were 512."""
        region = self._find(gpa)
        if region is None or region.kind != "ram":
            return
        start = -(-(gpa - region.gpa) // _HUGE_PAGE) * _HUGE_PAGE
        end = (min(gpa + size, region.end) - region.gpa) // _HUGE_PAGE * _HUGE_PAGE
        if start >= end:
            return
        for page in range(start, end, _HUGE_PAGE):
            region.view[page] = region.view[page]  # where nothing is, nothing is put together
        region.advise(_MADV_COLLAPSE, start, end)

    def view(self, gpa: int, size: int) -> memoryview:
        """Return `size` bytes at `gpa` as they are in memory: no copy, shared with the guest.

        The view must be released (or forgotten) before the machine is closed.

        Raises:
            GuestMemoryError: the range is not in memory, or not in one piece.
        """
        region = self._find(gpa)
        if region is None or size < 0 or gpa + size > region.end:
            raise GuestMemoryError(self._outside(gpa, size))
        if self.written is not None:
            self._note(gpa, size)  # whoever has a view may write through it
        start = gpa - region.gpa
        return region.view[start : start + size]

    def dma(self, gpa: int, size: int, *, write: bool) -> memoryview:
        """Return `size` bytes at `gpa` as they are in memory, for a device's transfers.

        As `view`, but for the directions: what is to be written must be memory that the guest can
        write to, and only that is noted as written.

        Raises:
            GuestMemoryError: the range is not in memory, not in one piece, or read-only.
        """
        if 0 <= size <= self._low_end - gpa and gpa >= 0 and self.written is None:
            return self._low[gpa : gpa + size]  # where nearly all of them go
        for region in self._regions:
            start = gpa - region.gpa
            if 0 <= start <= region.size - size and size >= 0:
                break
        else:
            raise GuestMemoryError(self._outside(gpa, size))
        if write:
            if region.readonly:
                raise GuestMemoryError(f"{size} bytes at {gpa:#x} are read-only ({region.what})")
            if self.written is not None:
                self._note(gpa, size)
        return region.view[start : start + size]

    def read(self, gpa: int, size: int) -> bytes:
        """Return a copy of `size` bytes at `gpa`.

        Raises:
            GuestMemoryError: some of it is not in memory.
        """
        region = self._find(gpa)
        if region is not None and size >= 0 and gpa + size <= region.end:
            start = gpa - region.gpa
            return bytes(region.view[start : start + size])
        return b"".join(bytes(piece) for piece in self._pieces(gpa, size))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `gpa`; read-only memory is written as well (the guest cannot).

        Raises:
            GuestMemoryError: some of it is not in memory; nothing was written.
        """
        source = memoryview(data).cast("B")
        done = 0
        pieces = self._pieces(gpa, len(source))
        if self.written is not None:
            self._note(gpa, len(source))
        for piece in pieces:
            piece[:] = source[done : done + len(piece)]
            done += len(piece)

    def fill(self, gpa: int, size: int, byte: int = 0) -> None:
        """Set `size` bytes at `gpa` to `byte`.

        Raises:
            GuestMemoryError: some of it is not in memory; nothing was written.
        """
        block = bytes([byte]) * min(size, 1 << 20)
        pieces = self._pieces(gpa, size)
        if self.written is not None:
            self._note(gpa, size)
        for piece in pieces:
            for start in range(0, len(piece), len(block)):
                part = piece[start : start + len(block)]
                part[:] = block[: len(part)]

    def discard(self, piece: memoryview) -> None:
        """Give the whole pages in a piece of RAM back to the host; what they hold afterwards is not
        defined. Huge pages stay.

        Args:
            piece: from `dma` or `view`.
        """
        if not piece or piece.readonly or self.huge_pages:
            return
        at = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        for region in self._regions:
            offset = at - region.hva
            if region.kind == "ram" and 0 <= offset < region.size:
                start = -(-offset // PAGE_SIZE) * PAGE_SIZE
                end = min(offset + len(piece), region.size) // PAGE_SIZE * PAGE_SIZE
                if start < end:
                    # Of a private copy only what was copied is ours to give.
                    advice = _MADV_REMOVE if self.base is None else mmap.MADV_DONTNEED
                    region.advise(advice, start, end)
                return

    def contains(self, gpa: int, size: int = 1) -> bool:
        """Say whether all of `size` bytes at `gpa` are in memory."""
        try:
            self._pieces(gpa, size)
        except GuestMemoryError:
            return False
        return True

    def close(self) -> None:
        """Unmap everything. Views that somebody still holds stay valid until they let go."""
        for region in self._regions:
            region.view.release()
            # A view of a user's own keeps the mapping until it goes.
            with contextlib.suppress(BufferError):
                region.map.close()
        self._regions.clear()
        self._low_end = 0
        self._starts.clear()
        if self.base is not None:
            os.close(self.base[0])
            self.base = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _refuse_while_shared(self) -> None:
        if self._shared_with:
            raise ConfigError(f"memory is shared with {self._shared_with}, and cannot be replaced")

    def _map_ram(self, ram: RamRange, offset: int) -> Region:
        """Map a range of RAM at an address where the host's huge pages and the guest's are the same
        ones. Python cannot say where, so there is room for moving it."""
        if self.huge_pages:
            mapping = mmap.mmap(self.fd, ram.size, offset=offset)
            view = memoryview(mapping)
            return Region(ram.start, ram.size, mapping, view, False, "RAM", kind="ram")
        mapping = mmap.mmap(self.fd, ram.size + _HUGE_PAGE, offset=offset)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        skipped = -address % _HUGE_PAGE
        map_over(address + skipped, ram.size, self.fd, offset, shared=True)
        view = memoryview(mapping)[skipped : skipped + ram.size]
        region = Region(ram.start, ram.size, mapping, view, False, "RAM", skipped, kind="ram")
        region.advise(mmap.MADV_HUGEPAGE, 0, ram.size)
        return region

    def _note(self, gpa: int, size: int) -> None:
        assert self.written is not None
        if size > 0:
            self.written.update(range(gpa // PAGE_SIZE, (gpa + size - 1) // PAGE_SIZE + 1))

    def _insert(self, region: Region) -> None:
        for other in self._regions:
            if region.gpa < other.end and other.gpa < region.end:
                raise MappingOverlap(
                    f"{region.what} at {region.gpa:#x}..{region.end - 1:#x} overlaps "
                    f"{other.what} at {other.gpa:#x}..{other.end - 1:#x}"
                )
        self._regions.append(region)
        self._regions.sort(key=lambda r: r.gpa)
        self._starts = [r.gpa for r in self._regions]
        if not region.gpa and not region.readonly:
            self._low, self._low_end = region.view, region.size

    def _find(self, gpa: int) -> Region | None:
        index = bisect_right(self._starts, gpa) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if gpa < region.end else None

    def _pieces(self, gpa: int, size: int) -> list[memoryview]:
        """The range as views, one for each region it touches, all of them checked first."""
        pieces = []
        position, left = gpa, size
        while left > 0:
            region = self._find(position)
            if region is None:
                raise GuestMemoryError(self._outside(gpa, size))
            start = position - region.gpa
            taken = min(left, region.size - start)
            pieces.append(region.view[start : start + taken])
            position += taken
            left -= taken
        if size < 0 or gpa < 0:
            raise GuestMemoryError(self._outside(gpa, size))
        return pieces

    def _outside(self, gpa: int, size: int) -> str:
        have = ", ".join(f"{r.gpa:#x}..{r.end - 1:#x}" for r in self._regions) or "nothing"
        return f"{size} bytes at {gpa:#x} are not in guest memory ({have})"


def _refusal(size: int, huge_pages: bool, error: Exception) -> str:
    mib = size >> 20
    if huge_pages:
        pages = -(-size // _HUGE_PAGE)
        return (
            f"huge pages: the host has no {pages} free pages of 2M for {mib}M of memory; "
            f"reserve them with: sysctl vm.nr_hugepages={pages}"
        )
    return f"memory of {mib}M: the host refuses it ({error}); use a smaller --memory"
