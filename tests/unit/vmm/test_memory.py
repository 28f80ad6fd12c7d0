from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import ConfigError, GuestMemoryError, MappingOverlap
from vmm.layout import FOUR_GIB, HOLE_START, MemoryLayout
from vmm.memory import GuestMemory


@pytest.fixture
def memory():
    memory = GuestMemory(MemoryLayout.for_size(64 << 10))
    yield memory
    memory.close()


@pytest.fixture
def big():
    memory = GuestMemory(MemoryLayout.for_size(HOLE_START + (1 << 20)))
    yield memory
    memory.close()


def test_what_is_written_is_read(memory: GuestMemory) -> None:
    memory.write(0x1234, b"hello")
    assert memory.read(0x1234, 5) == b"hello"
    assert memory.read(0x1233, 7) == b"\0hello\0"


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    with memory.view(0x100, 4) as view:
        view[:] = b"abcd"
        memory.write(0x101, b"X")
        assert bytes(view) == b"aXcd"


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x10000, 1), (0xFFFF, 2), (-1, 1), (0, -1), (1 << 60, 1), (0, 1 << 40)]
)
def test_outside_is_refused(memory: GuestMemory, gpa: int, size: int) -> None:
    with pytest.raises(GuestMemoryError, match="not in guest memory"):
        memory.read(gpa, size)
    with pytest.raises(GuestMemoryError):
        memory.view(gpa, size)


def test_a_write_that_does_not_fit_writes_nothing(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError):
        memory.write(0xFFFE, b"abc")
    assert memory.read(0xFFFE, 2) == b"\0\0"


def test_nothing_at_all_is_always_there(memory: GuestMemory) -> None:
    assert memory.read(0x10000, 0) == b""


def test_fill(memory: GuestMemory) -> None:
    memory.fill(0x10, 0x20, 0xAA)
    assert memory.read(0xF, 0x22) == b"\0" + b"\xaa" * 0x20 + b"\0"


def test_ram_goes_on_above_the_hole() -> None:
    layout = MemoryLayout.for_size(HOLE_START + (1 << 20))
    memory = GuestMemory(layout)
    try:
        memory.write(FOUR_GIB, b"high")
        memory.write(HOLE_START - 4, b"low!")
        assert memory.read(FOUR_GIB, 4) == b"high"
        assert memory.read(HOLE_START - 4, 4) == b"low!"
        assert not memory.contains(HOLE_START)
        with pytest.raises(GuestMemoryError):
            memory.read(HOLE_START - 2, 4)
    finally:
        memory.close()


def test_rom_is_padded_with_ones_and_may_touch_ram_above(memory: GuestMemory) -> None:
    region = memory.add_rom(0xFFFF_F000, b"\x90\xf4", "rom")
    assert region.readonly
    assert memory.read(0xFFFF_F000, 4) == b"\x90\xf4\xff\xff"


def test_an_access_may_span_adjacent_regions() -> None:
    memory = GuestMemory(MemoryLayout.for_size(4096))
    try:
        memory.add_rom(4096, b"rom")
        memory.write(4094, b"abcd")
        assert memory.read(4094, 5) == b"abcdm"
        with pytest.raises(GuestMemoryError):
            memory.view(4094, 4)
    finally:
        memory.close()


def test_rom_over_ram_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(MappingOverlap, match=r"bios at 0xf000.* overlaps RAM"):
        memory.add_rom(0xF000, b"x", "bios")


@pytest.mark.parametrize("size", [0, -4096, 100])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(ConfigError):
        MemoryLayout.for_size(size)


def test_more_than_any_host_has_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="the host refuses it"):
        GuestMemory(MemoryLayout.for_size(1 << 62))


def test_huge_pages_say_how_to_reserve_them() -> None:
    with pytest.raises(ConfigError, match="multiple of 2M"):
        GuestMemory(MemoryLayout.for_size(1 << 20), huge_pages=True)


def test_closing_gives_the_descriptor_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        GuestMemory(MemoryLayout.for_size(1 << 20)).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_view_that_is_still_held_does_not_keep_it_from_closing() -> None:
    memory = GuestMemory(MemoryLayout.for_size(4096))
    memory.write(0, b"kept")
    view = memory.view(0, 4)
    memory.close()
    assert bytes(view) == b"kept"


@given(st.lists(st.tuples(st.integers(0, 0x10000), st.binary(max_size=64)), max_size=10))
def test_it_behaves_like_an_array_of_bytes(writes: list[tuple[int, bytes]]) -> None:
    memory = GuestMemory(MemoryLayout.for_size(64 << 10))
    model = bytearray(64 << 10)
    try:
        for gpa, data in writes:
            if gpa + len(data) <= len(model):
                memory.write(gpa, data)
                model[gpa : gpa + len(data)] = data
            else:
                with pytest.raises(GuestMemoryError):
                    memory.write(gpa, data)
        assert memory.read(0, len(model)) == model
    finally:
        memory.close()


def blocks(memory: GuestMemory) -> int:
    """How much the host has given for RAM so far, in bytes."""
    return os.fstat(memory.fd).st_blocks * 512


def test_what_is_discarded_goes_back_to_the_host() -> None:
    memory = GuestMemory(MemoryLayout.for_size(4 << 20))
    memory.fill(0, 4 << 20, 0xEE)
    full = blocks(memory)
    memory.discard(memory.dma(1 << 20, 2 << 20, write=True))
    assert full - blocks(memory) == 2 << 20
    assert memory.read((1 << 20) - 1, 1) == memory.read(3 << 20, 1) == b"\xee"
    # Of a piece that ends within pages only the whole ones.
    memory.discard(memory.view(0x10, 0x2000))
    assert full - blocks(memory) == (2 << 20) + 0x1000
    assert memory.read(0, 0x1000) == b"\xee" * 0x1000 == memory.read(0x2000, 0x1000)
    memory.close()


def test_of_a_private_copy_the_image_stays() -> None:
    memory = GuestMemory(MemoryLayout.for_size(1 << 20))
    memory.write(0x3000, b"image")
    memory.freeze()
    memory.write(0x3000, b"other")
    memory.discard(memory.dma(0x3000, 0x1000, write=True))
    assert memory.read(0x3000, 5) == b"image"
    memory.close()


def test_nothing_else_is_discarded() -> None:
    memory = GuestMemory(MemoryLayout.for_size(1 << 20))
    rom = memory.add_rom(0xFFFF_0000, b"rom" * 100)
    memory.discard(memoryview(bytearray(1 << 16)))
    memory.discard(memory.view(0xFFFF_0000, 0x1000))
    memory.discard(memory.view(0, 0))
    memory.discard(memoryview(b"x" * 8192))
    assert bytes(rom.view[:3]) == b"rom"
    memory.close()


@pytest.mark.parametrize("size", [2 << 20, 64 << 20, 5 << 30])
def test_ram_lies_where_huge_pages_of_the_host_fit(size):
    memory = GuestMemory(MemoryLayout.for_size(size))
    try:
        assert [region.hva % (2 << 20) for region in memory] == [0] * len(memory.layout.ranges)
    finally:
        memory.close()


def test_memory_that_will_be_written_soon_keeps_what_it_has():
    memory = GuestMemory(MemoryLayout.for_size(16 << 20))
    try:
        memory.write(0x40_0000, b"is there")
        for gpa, size in ((0x30_0000, 0x50_0000), (0x20_0000, 1), (0, 1 << 40), (1 << 40, 1)):
            memory.expect(gpa, size)
        assert memory.read(0x40_0000, 9) == b"is there\0"
        assert memory.read(0x60_0000, 8) == bytes(8)
    finally:
        memory.close()


def test_transfers_of_devices(big):
    """What a device may reach: RAM on either side of the hole, and read-only memory to read."""
    big.write(0x1000, b"low")
    assert bytes(big.dma(0x1000, 3, write=False)) == b"low"
    big.dma(FOUR_GIB, 4, write=True)[:] = b"high"
    assert big.read(FOUR_GIB, 4) == b"high"
    big.add_rom(0xFFFF_F000, b"rom")
    assert bytes(big.dma(0xFFFF_F000, 3, write=False)) == b"rom"
    with pytest.raises(GuestMemoryError, match="read-only"):
        big.dma(0xFFFF_F000, 3, write=True)
    end = big.layout.low_end
    assert len(big.dma(end - 4, 4, write=True)) == 4
    for gpa, size in ((end - 4, 5), (end, 1), (-1, 1), (1, -1), (1 << 64, 1), (FOUR_GIB - 1, 2)):
        with pytest.raises(GuestMemoryError):
            big.dma(gpa, size, write=False)


def test_only_what_a_device_may_write_is_noted(big):
    big.written = set()
    big.dma(0x5000, 100, write=False)
    assert big.written == set()
    big.dma(0x5FFF, 2, write=True)
    assert big.written == {5, 6}
