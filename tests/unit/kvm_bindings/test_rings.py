from __future__ import annotations

import struct

import pytest

from kvm_bindings import CoalescedRing


def make(capacity: int = 170) -> tuple[bytearray, CoalescedRing]:
    page = bytearray(8 + capacity * 24)
    return page, CoalescedRing(memoryview(page))


def put(page: bytearray, slot: int, address: int, size: int, value: int, pio: int = 0) -> None:
    struct.pack_into("=QIIQ", page, 8 + slot * 24, address, size, pio, value)


def indices(page: bytearray) -> tuple[int, int]:
    first, last = struct.unpack_from("=II", page)
    return first, last


def test_a_page_holds_170_entries() -> None:
    assert CoalescedRing(memoryview(bytearray(4096))).capacity == 170


def test_empty() -> None:
    _, ring = make()
    assert not ring
    assert ring.drain() == []


def test_oldest_first_and_the_kernel_sees_them_taken() -> None:
    page, ring = make()
    put(page, 0, 0xE9, 1, ord("a"), pio=1)
    put(page, 1, 0xFEE0_0000, 4, 0x1234_5678)
    struct.pack_into("=II", page, 0, 0, 2)
    assert ring
    assert ring.drain() == [(0xE9, 1, 97, True), (0xFEE0_0000, 4, 0x1234_5678, False)]
    assert indices(page) == (2, 2)


def test_bytes_beyond_the_size_are_left_over_from_older_writes() -> None:
    page, ring = make()
    put(page, 0, 0x80, 1, 0xDEAD_BEEF_CAFE_F00D)
    struct.pack_into("=II", page, 0, 0, 1)
    assert ring.drain() == [(0x80, 1, 0x0D, False)]


def test_it_wraps() -> None:
    page, ring = make(capacity=3)
    for slot, value in ((2, 1), (0, 2)):
        put(page, slot, 0x10, 2, value)
    struct.pack_into("=II", page, 0, 2, 1)
    assert [value for _, _, value, _ in ring.drain()] == [1, 2]
    assert indices(page) == (1, 1)


def test_a_full_ring_is_taken_whole() -> None:
    page, ring = make()
    for slot in range(170):
        put(page, slot, 0x10, 4, slot)
    # 169 of 170: the kernel leaves one free, so that full and empty differ.
    struct.pack_into("=II", page, 0, 100, 99)
    expected = [*range(100, 170), *range(99)]
    assert [value for _, _, value, _ in ring.drain()] == expected
    assert not ring


@pytest.mark.parametrize("first", [170, 0xFFFF_FFFF])
def test_indices_out_of_range_do_not_lead_out_of_the_page(first: int) -> None:
    page, ring = make()
    struct.pack_into("=II", page, 0, first, 169)
    assert len(ring.drain()) < 170


def test_release_lets_go_of_the_page() -> None:
    page, ring = make()
    ring.release()
    page.extend(b"x")  # refused while a view is open
