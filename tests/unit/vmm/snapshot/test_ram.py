"""A machine's memory as an image: what is written, what is a hole, what differs."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import MappingOverlap
from vmm.layout import MemoryLayout
from vmm.memory import GuestMemory
from vmm.snapshot.ram import (
    Comparison,
    MemoryImage,
    copy_changes,
    copy_memory,
    data_of_file,
    freeze,
    image_regions,
    laid_over,
    used_ranges,
)

PAGE = 4096
SIZE, SMALL = 8 << 20, 1 << 20
PIECE = 64 << 10
"""What is written of an image at once: of such a piece all is kept, or nothing."""


@pytest.fixture
def made():
    """Make memory, which is closed at the end."""
    open_ = []

    def make(size: int = SIZE) -> GuestMemory:
        memory = GuestMemory(MemoryLayout.for_size(size))
        open_.append(memory)
        return memory

    yield make
    for memory in open_:
        memory.close()


@pytest.fixture
def image():
    """Make an image of memory at an offset in a file, closed at the end."""
    open_ = []

    def make(memory: GuestMemory, offset: int = 0) -> MemoryImage:
        fd = os.memfd_create("image")
        taken = MemoryImage(fd, offset, image_regions(memory))
        open_.append(taken)
        os.ftruncate(fd, offset + sum(region.size for region in taken.regions))
        taken.written = copy_memory(memory, fd, offset)
        return taken

    yield make
    for taken in open_:
        taken.close()


def content(memory):
    return [(region.gpa, bytes(region.view)) for region in memory]


def test_regions_lie_one_behind_the_other_ram_first(made):
    memory = made()
    memory.add_rom(0xFFFF_0000, b"\x90" * 0x10000, "BIOS")
    found = image_regions(memory)
    assert [(r.gpa, r.size, r.offset, r.readonly, r.what) for r in found] == [
        (0, SIZE, 0, False, "RAM"),
        (0xFFFF_0000, 0x10000, SIZE, True, "BIOS"),
    ]


@given(
    st.lists(st.tuples(st.integers(0, SMALL - 9), st.binary(min_size=1, max_size=9)), max_size=6),
    st.sampled_from([0, PAGE, 1 << 20]),
)
def test_an_image_put_back_is_the_memory_that_it_was_taken_of(writes, offset):
    memory, other = (GuestMemory(MemoryLayout.for_size(SMALL)) for _ in range(2))
    fd = os.memfd_create("image")
    try:
        for gpa, data in writes:
            memory.write(gpa, data)
        os.ftruncate(fd, offset + SMALL)
        copy_memory(memory, fd, offset)
        MemoryImage(fd, offset, image_regions(memory)).put(other)
        assert content(other) == content(memory)
    finally:
        os.close(fd)
        memory.close()
        other.close()


def test_what_was_never_written_is_a_hole(made, image):
    memory = made()
    memory.write(3 << 20, b"here")
    memory.fill(5 << 20, PAGE)  # zeros: touched, and nothing to keep
    taken = image(memory, 1 << 20)
    assert taken.written == [(3 << 20, PAGE)]
    assert list(data_of_file(taken.fd, 0, 9 << 20)) == [(4 << 20, (4 << 20) + PAGE)]
    assert taken.read(3 << 20, 4) == b"here"
    with pytest.raises(KeyError):
        taken.read(SIZE - 2, 4)


def test_extents_that_meet_are_one(made, image):
    memory = made()
    memory.fill(0, 2 * PIECE, 1)
    memory.fill(4 * PIECE, PIECE, 1)
    assert image(memory).written == [(0, 2 * PIECE), (4 * PIECE, PIECE)]


def test_an_image_that_was_put_back_stays_as_it_is(made, image):
    memory, other = made(), made()
    memory.write(0x1000, b"first")
    taken = image(memory)
    taken.put(other)
    other.write(0x1000, b"other")
    assert taken.read(0x1000, 5) == b"first"
    assert memory.read(0x1000, 5) == b"first"
    taken.put(other)
    assert other.read(0x1000, 5) == b"first"


def test_read_only_regions_are_made_or_written(made, image):
    memory, other, wrong = made(), made(), made()
    memory.add_rom(0xFFFF_0000, b"\x01" * PAGE, "BIOS")
    taken = image(memory)
    taken.put(other)
    assert other.read(0xFFFF_0000, 2) == b"\x01\x01"
    other.write(0xFFFF_0000, b"\x02")
    taken.put(other)
    assert other.read(0xFFFF_0000, 2) == b"\x01\x01"
    wrong.add_rom(0xFFFE_F000, b"\x01" * (2 * PAGE), "another")
    with pytest.raises(MappingOverlap, match="BIOS at 0xffff0000"):
        taken.put(wrong)


@pytest.mark.parametrize("frozen", [False, True])
def test_only_pages_that_differ_are_changes_zeros_as_well(made, image, frozen):
    memory = made()
    memory.fill(0x10_0000, 4 * PAGE, 7)
    if frozen:
        freeze(memory)
    base = image(memory)
    memory.write(0x10_1004, b"new")
    memory.fill(0x10_2000, PAGE)  # was 7, is 0
    memory.write(0x40_0000, b"elsewhere")
    memory.write(0x10_3000, b"\7\7")  # as it was
    fd = os.memfd_create("changes")
    os.ftruncate(fd, PAGE + SIZE)
    changes = copy_changes(memory, base, fd, PAGE)
    assert changes == [(0x10_1000, 2 * PAGE), (0x40_0000, PAGE)]
    whole = laid_over(base, fd, PAGE, changes)
    other = made()
    whole.put(other)
    assert content(other) == content(memory)
    assert base.read(0x10_1004, 3) == b"\7\7\7"
    whole.close()
    os.close(fd)


def test_memory_is_compared_with_an_image_again_and_again(made, image):
    memory = made()
    memory.write(0x1000, b"abc")
    compare = Comparison(image(memory))
    assert compare.same(memory)
    memory.write(0x1001, b"x")
    memory.write(0x50_0000, b"y")
    assert not compare.same(memory)
    memory.write(0x1001, b"b")
    assert not compare.same(memory)  # there is still the other
    memory.write(0x50_0000, b"\0")
    assert compare.same(memory)
    memory.fill(0x1000, PAGE)  # what the image has is looked at too
    assert not compare.same(memory)


def test_used_ranges_are_what_may_hold_data(made):
    memory = made()
    memory.add_rom(0xFFFF_0000, b"\0" * PAGE, "ROM")
    ram, rom = sorted(memory, key=lambda region: region.readonly)
    assert list(used_ranges(memory, ram)) == []
    memory.write(2 << 20, b"x")
    assert list(used_ranges(memory, ram)) == [(2 << 20, (2 << 20) + PAGE)]
    assert list(used_ranges(memory, rom)) == [(0, PAGE)]
    freeze(memory)
    memory.write((2 << 20) + PAGE, b"behind it")  # a page of the process's own
    memory.write(6 << 20, b"y")
    assert list(used_ranges(memory, ram)) == [
        (2 << 20, (2 << 20) + 2 * PAGE),
        (6 << 20, (6 << 20) + PAGE),
    ]


def test_memory_is_frozen_without_a_copy_until_it_was_written_again(made):
    memory = made()
    memory.write(0x1000, b"one")
    first = freeze(memory)
    assert freeze(memory) == first
    memory.write(0x1000, b"two")
    assert os.pread(first[0], 3, first[1] + 0x1000) == b"one"
    second = freeze(memory)
    assert os.pread(second[0], 3, second[1] + 0x1000) == b"two"
    assert memory.read(0x1000, 3) == b"two"


def test_data_of_a_file_between_two_places():
    fd = os.memfd_create("holes")
    try:
        os.ftruncate(fd, 16 * PAGE)
        assert list(data_of_file(fd, 0, 16 * PAGE)) == []
        os.pwrite(fd, b"x" * PAGE, 4 * PAGE)
        os.pwrite(fd, b"x" * (2 * PAGE), 8 * PAGE)
        assert list(data_of_file(fd, 0, 16 * PAGE)) == [(4 * PAGE, 5 * PAGE), (8 * PAGE, 10 * PAGE)]
        assert list(data_of_file(fd, 9 * PAGE, 4 * PAGE)) == [(9 * PAGE, 10 * PAGE)]
        assert list(data_of_file(fd, 5 * PAGE, 3 * PAGE)) == []
    finally:
        os.close(fd)
