"""A machine's memory as an image: a file in which it lies range after range, holes and all.

    0          RAM, its ranges one behind the other (as `GuestMemory` has them in its memfd)
    behind it  read-only memory, each region from a page boundary

What was never written is a hole in the image and costs nothing. Putting an image back maps it
privately over the machine's memory: pages are read when they are first touched, and what the guest
writes stays its own.

Spec: lseek(2), SEEK_DATA and SEEK_HOLE.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from devices.records import Record
from vmm.layout import PAGE_SIZE
from vmm.mapping import has_private_pages, private_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.memory import GuestMemory, Region

__all__ = [
    "Comparison",
    "ImageRegion",
    "MemoryImage",
    "copy_changes",
    "copy_memory",
    "data_of_file",
    "freeze",
    "image_regions",
    "laid_over",
    "used_ranges",
]

_PIECE = 1 << 20
_ZEROS = bytes(64 << 10)


class ImageRegion(Record):
    """`size` bytes at guest-physical address `gpa`, which lie at `offset` in the image."""

    gpa: int
    size: int
    offset: int
    readonly: bool
    what: str


class MemoryImage:
    """An open image.

    Args:
        fd: the file; closed with this object.
        offset: where in the file the image begins, a page boundary.
        regions: what lies where.
    """

    def __init__(self, fd: int, offset: int, regions: tuple[ImageRegion, ...]) -> None:
        self.fd = fd
        self.offset = offset
        self.regions = regions

    def put(self, memory: GuestMemory) -> None:
        """Make `memory` what the image holds: RAM of the same layout, and its read-only regions,
        those that are not there yet."""
        memory.map_privately(self.fd, self.offset)
        have = {region.gpa: region for region in memory if region.kind == "rom"}
        for region in self.regions:
            if region.readonly:
                data = os.pread(self.fd, region.size, self.offset + region.offset)
                if region.gpa in have:
                    memory.write(region.gpa, data)
                else:
                    memory.add_rom(region.gpa, data, region.what)

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes at `gpa`, which lie in one region.

        Raises:
            KeyError: they do not.
        """
        for region in self.regions:
            if region.gpa <= gpa and gpa + size <= region.gpa + region.size:
                return os.pread(self.fd, size, self.offset + region.offset + gpa - region.gpa)
        raise KeyError(gpa)

    def copy(self, fd: int, offset: int) -> list[tuple[int, int]]:
        """Write the image into another file at `offset`, holes and all; where it has data.

        Raises:
            OSError: the file does not take it.
        """
        written: list[tuple[int, int]] = []
        size = sum(region.size for region in self.regions)
        for start, end in data_of_file(self.fd, self.offset, size):
            for at in range(start, end, _PIECE):
                piece = memoryview(os.pread(self.fd, min(_PIECE, end - at), at))
                _write_data(piece, fd, offset, at - self.offset, written)
        return written

    def close(self) -> None:
        """Let go of the file; mappings of it stay."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def image_regions(memory: GuestMemory) -> tuple[ImageRegion, ...]:
    """Where the regions of a machine's memory lie in an image of it; files are no part of it."""
    found, offset = [], 0
    own = (region for region in memory if region.kind != "file")
    for region in sorted(own, key=lambda region: (region.readonly, region.gpa)):
        found.append(ImageRegion(region.gpa, region.size, offset, region.readonly, region.what))
        offset += region.size
    return tuple(found)


def copy_memory(memory: GuestMemory, fd: int, offset: int) -> list[tuple[int, int]]:
    """Write what was ever written of a machine's memory into the file at `offset`, and leave holes
    for the rest. The vCPUs stand still.

    Returns:
        What was written: (offset in the image, size), in ascending order.

    Raises:
        OSError: the file does not take it.
    """
    by_gpa = {region.gpa: region for region in memory}
    written: list[tuple[int, int]] = []
    for place in image_regions(memory):
        region = by_gpa[place.gpa]
        for start, end in used_ranges(memory, region):
            for at in range(start, end, _PIECE):
                piece = region.view[at : min(at + _PIECE, end)]
                _write_data(piece, fd, offset, place.offset + at, written)
    return written


def copy_changes(
    memory: GuestMemory, base: MemoryImage, fd: int, offset: int
) -> list[tuple[int, int]]:
    """Write the pages that are not as in `base` into the file at `offset`. The vCPUs stand still.

    No log of dirty pages is needed: what was touched on neither side is not looked at, and what was
    is compared.

    Returns:
        What was written: (offset in the image, size), in ascending order; zeros as well.

    Raises:
        OSError: a file cannot be read or written.
    """
    written: list[tuple[int, int]] = []
    for _, at, now, then in _differences(memory, base):
        for page in range(0, len(now), PAGE_SIZE):
            part = now[page : page + PAGE_SIZE]
            if part != then[page : page + PAGE_SIZE]:
                os.pwrite(fd, part, offset + at + page)
                _note(written, at + page, len(part))
    return written


class Comparison:
    """Says whether a machine's memory is as in an image, over and over while the machine runs."""

    def __init__(self, image: MemoryImage) -> None:
        self._image = image
        self._differed: int | None = None

    def same(self, memory: GuestMemory) -> bool:
        """Whether all of it is. The vCPUs stand still.

        Raises:
            OSError: the image cannot be read.
        """
        gpa = self._differed  # what differed before mostly still does
        if gpa is not None and memory.read(gpa, PAGE_SIZE) != self._image.read(gpa, PAGE_SIZE):
            return False
        for gpa, _, now, then in _differences(memory, self._image):
            for page in range(0, len(now), PAGE_SIZE):
                if now[page : page + PAGE_SIZE] != then[page : page + PAGE_SIZE]:
                    self._differed = gpa + page
                    return False
        return True


def _differences(
    memory: GuestMemory, base: MemoryImage
) -> Iterator[tuple[int, int, memoryview, bytes]]:
    """The pieces in which memory is not as in an image: their guest-physical addresses, where they
    are in the image, what is in memory and what in the image."""
    by_gpa = {region.gpa: region for region in memory}
    for place in base.regions:
        view = by_gpa[place.gpa].view
        begin = base.offset + place.offset
        of_base = [
            (first - begin, last - begin)
            for first, last in data_of_file(base.fd, begin, place.size)
        ]
        for start, end in _merged([*of_base, *used_ranges(memory, by_gpa[place.gpa])]):
            for at in range(start, end, _PIECE):
                now = view[at : min(at + _PIECE, end)]
                then = os.pread(base.fd, len(now), begin + at)
                if bytes(now) != then:  # as views they are compared byte by byte
                    yield place.gpa + at, place.offset + at, now, then


def laid_over(
    base: MemoryImage, fd: int, offset: int, extents: Iterable[tuple[int, int]]
) -> MemoryImage:
    """An image of its own: `base` with the extents of a file over it.

    Raises:
        OSError: there is no memory for it.
    """
    made = MemoryImage(os.memfd_create("glassvm-snapshot", os.MFD_CLOEXEC), 0, base.regions)
    try:
        os.ftruncate(made.fd, sum(region.size for region in base.regions))
        base.copy(made.fd, 0)
        for start, size in extents:
            for at in range(start, start + size, _PIECE):
                piece = os.pread(fd, min(_PIECE, start + size - at), offset + at)
                os.pwrite(made.fd, piece, at)
    except BaseException:
        made.close()
        raise
    return made


def freeze(memory: GuestMemory) -> tuple[int, int]:
    """Make what RAM holds now a file that nobody writes to any more, of which this RAM, and others,
    are private copies. The vCPUs stand still.

    The first time nothing is copied; afterwards, if RAM was written since, all that it holds is.

    Returns:
        The file, which stays `memory`'s, and where in it RAM begins.

    Raises:
        OSError: the host refuses.
    """
    if memory.base is None:
        memory.freeze()
    elif any(has_private_pages(r.hva, r.size) for r in memory if r.kind == "ram"):
        fd = os.memfd_create("glassvm-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, memory.size)
            _copy_ram(memory, fd)
            memory.map_privately(fd, 0)
        finally:
            os.close(fd)
    assert memory.base is not None
    return memory.base


def _copy_ram(memory: GuestMemory, fd: int) -> None:
    for region in memory:
        if region.kind == "ram":
            offset = memory.ram_offset(region)
            for start, end in used_ranges(memory, region):
                done = start
                while done < end:
                    piece = region.view[done : min(done + _PIECE, end)]
                    done += os.pwrite(fd, piece, offset + done)


def _write_data(
    piece: memoryview, fd: int, offset: int, at: int, written: list[tuple[int, int]]
) -> None:
    """Write the parts of a piece that are not all zeros."""
    for start in range(0, len(piece), len(_ZEROS)):
        part = piece[start : start + len(_ZEROS)]
        if part == _ZEROS[: len(part)]:
            continue
        done = 0
        while done < len(part):
            done += os.pwrite(fd, part[done:], offset + at + start + done)
        _note(written, at + start, len(part))


def _note(written: list[tuple[int, int]], at: int, size: int) -> None:
    """Add an extent to those before it, joined to the last one where they meet."""
    if written and sum(written[-1]) == at:
        written[-1] = (written[-1][0], written[-1][1] + size)
    else:
        written.append((at, size))


def used_ranges(memory: GuestMemory, region: Region) -> Iterator[tuple[int, int]]:
    """The ranges of a region that may hold anything but zeros, as offsets in it."""
    if region.readonly:
        yield 0, region.size
        return
    start = memory.ram_offset(region)
    if memory.base is None:
        for first, last in data_of_file(memory.fd, start, region.size):
            yield first - start, last - start
        return
    base_fd, base_offset = memory.base
    begin = base_offset + start
    ranges = [
        (first - begin, last - begin) for first, last in data_of_file(base_fd, begin, region.size)
    ]
    yield from _merged([*ranges, *private_pages(region.hva, region.size)])


def data_of_file(fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of a file between `start` and `start + size` that are no holes."""
    at, end = start, start + size
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        if first >= end:
            return
        last = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        yield first, last
        at = last


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges in ascending order, those that meet joined."""
    held: tuple[int, int] | None = None
    for start, end in sorted(ranges):
        if held is not None and start <= held[1]:
            held = (held[0], max(held[1], end))
        else:
            if held is not None:
                yield held
            held = (start, end)
    if held is not None:
        yield held
