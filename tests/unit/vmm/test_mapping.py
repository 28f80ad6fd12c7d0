"""Private mappings of files over memory that is mapped already."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from vmm.mapping import has_private_pages, map_over, private_pages

PAGE = 4096


@pytest.fixture
def memory():
    """Eight pages of memory: the mapping, and where it is."""
    area = mmap.mmap(-1, 8 * PAGE)
    held = ctypes.c_char.from_buffer(area)
    yield area, ctypes.addressof(held)
    del held
    area.close()


@pytest.fixture
def file():
    """A file of nine pages, the first of 'a's, the second of 'b's and so on."""
    fd = os.memfd_create("test")
    os.write(fd, b"".join(bytes([ord("a") + n]) * PAGE for n in range(9)))
    yield fd
    os.close(fd)


def test_the_file_is_there_and_what_is_written_stays_out_of_it(memory, file):
    area, address = memory
    area[:] = b"x" * len(area)
    map_over(address, 8 * PAGE, file, PAGE)
    assert area[0:1] == b"b"
    assert area[-1:] == b"i"
    area[PAGE] = ord("!")
    assert os.pread(file, 1, 2 * PAGE) == b"c"
    assert area[PAGE : PAGE + 2] == b"!c"
    os.pwrite(file, b"?", 4 * PAGE)  # a page of the file that was not written here
    assert area[3 * PAGE : 3 * PAGE + 1] == b"?"


def test_a_part_can_be_mapped_and_the_rest_stays(memory, file):
    area, address = memory
    area[:] = b"x" * len(area)
    map_over(address + 2 * PAGE, PAGE, file, 0)
    assert bytes(area[::PAGE]) == b"xxaxxxxx"


def test_pages_that_were_written_are_found(memory, file):
    area, address = memory
    map_over(address, 8 * PAGE, file, 0)
    assert not has_private_pages(address, 8 * PAGE)
    assert area[0:1] + area[5 * PAGE : 5 * PAGE + 1] == b"af"  # looking at them does nothing
    assert list(private_pages(address, 8 * PAGE)) == []
    area[2 * PAGE + 5] = 0
    area[7 * PAGE] = 0
    found = [(2 * PAGE, 3 * PAGE), (7 * PAGE, 8 * PAGE)]
    assert list(private_pages(address, 8 * PAGE)) == found
    assert has_private_pages(address, 8 * PAGE)
    assert not has_private_pages(address + 3 * PAGE, 4 * PAGE)
    map_over(address, 8 * PAGE, file, 0)
    assert not has_private_pages(address, 8 * PAGE)


def test_without_proc_all_may_have_been_written(memory, monkeypatch):
    def refuse(path, flags):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "open", refuse)
    _, address = memory
    assert list(private_pages(address, 8 * PAGE)) == [(0, 8 * PAGE)]


def test_what_the_host_refuses_is_an_error(memory, file):
    _, address = memory
    with pytest.raises(OSError, match="Invalid argument") as refusal:
        map_over(address, PAGE, file, 1)  # no page boundary
    assert refusal.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="Bad file descriptor"):
        map_over(address, PAGE, -1, 0)
