from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.bus import Bus, FunctionPort, UnclaimedAccess
from vmm.errors import ConfigError, MappingOverlap


class Recorder:
    """A device that remembers what it was asked and answers each byte with its offset."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.log: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("r", offset, size))
        return sum((offset + lane & 0xFF) << 8 * lane for lane in range(size))

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("w", offset, size, value))

    def reset(self) -> None:
        self.log.clear()


@pytest.fixture
def bus() -> Bus:
    return Bus("port", 0x10000)


def test_a_device_sees_offsets_from_the_start_of_its_range(bus: Bus) -> None:
    device = Recorder()
    bus.map(range(0x3F8, 0x400), device)
    bus.write(0x3FB, 1, 0x80)
    assert bus.read(0x3FD, 1) == 5
    assert device.log == [("w", 3, 1, 0x80), ("r", 5, 1)]


def test_a_base_moves_the_offsets(bus: Bus) -> None:
    device = Recorder()
    bus.map(range(0x60, 0x61), device, base=0x60)
    bus.map(range(0x64, 0x65), device, base=0x60)
    bus.read(0x64, 1)
    assert device.log == [("r", 4, 1)]


def test_overlap_is_refused_and_names_both(bus: Bus) -> None:
    bus.map(range(0x10, 0x20), Recorder("first"))
    with pytest.raises(MappingOverlap, match=r"second .*0x1f\S+ overlaps first .*0x10\S+"):
        bus.map(range(0x1F, 0x30), Recorder("second"))


def test_a_default_gives_way(bus: Bus) -> None:
    default, device = Recorder("default"), Recorder("device")
    bus.map(range(0xF4, 0xF8), default, default=True)
    bus.write(0xF4, 1, 1)
    bus.map(range(0xF4, 0xF5), device)
    bus.write(0xF4, 1, 2)
    assert default.log == [("w", 0, 1, 1)]
    assert device.log == [("w", 0, 1, 2)]


@pytest.mark.parametrize("addresses", [range(0x10, 0x10), range(0, 8, 2), range(0xFFFF, 0x10001)])
def test_impossible_ranges_are_refused(bus: Bus, addresses: range) -> None:
    with pytest.raises(ConfigError):
        bus.map(addresses, Recorder())


def test_nobody_reads_as_ones_and_is_counted(bus: Bus) -> None:
    assert [bus.read(0x99, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    bus.write(0x99, 1, 7)
    assert bus.unclaimed == {(0x99, False): 3, (0x99, True): 1}


def test_what_is_remembered_of_unclaimed_addresses_is_bounded(bus: Bus) -> None:
    for port in range(0x10000):
        bus.read(port, 1)
    assert len(bus.unclaimed) <= 4096


def test_strict_makes_it_an_error() -> None:
    strict = Bus("port", 0x10000, strict=True)
    with pytest.raises(UnclaimedAccess, match=r"wrote to port 0x99"):
        strict.write(0x99, 2, 0)


def test_an_access_over_the_end_goes_out_in_bytes(bus: Bus) -> None:
    first, second = Recorder("first"), Recorder("second")
    bus.map(range(0x10, 0x12), first)
    bus.map(range(0x12, 0x14), second)
    bus.write(0x11, 2, 0xBBAA)
    assert first.log == [("w", 1, 1, 0xAA)]
    assert second.log == [("w", 0, 1, 0xBB)]
    # From where nobody is into a device.
    assert bus.read(0x0F, 2) == 0x00FF


def test_a_width_that_no_bus_has_goes_out_in_bytes(bus: Bus) -> None:
    device = Recorder()
    bus.map(range(0x10, 0x20), device)
    assert bus.read(0x10, 3) == 0x020100
    assert [entry[2] for entry in device.log] == [1, 1, 1]


def test_a_function_gets_the_whole_access(bus: Bus) -> None:
    port = FunctionPort("f")
    seen: list[tuple[int, int]] = []
    port.on_out = lambda value, size: seen.append((value, size))
    bus.map(range(0x10, 0x11), port, whole=True)
    bus.write(0x10, 4, 0x12345678)
    assert seen == [(0x12345678, 4)]
    assert bus.read(0x10, 2) == 0xFFFF
    port.on_in = lambda size: -1
    assert bus.read(0x10, 2) == 0xFFFF


def test_strings_are_advanced_element_by_element(bus: Bus) -> None:
    device = Recorder()
    bus.map(range(0x10, 0x18), device)
    bus.write_string(0x10, 2, memoryview(b"\x01\x02\x03\x04"))
    assert device.log == [("w", 0, 2, 0x0201), ("w", 0, 2, 0x0403)]
    data = bytearray(4)
    bus.read_string(0x13, 1, memoryview(data))
    assert data == b"\x03\x03\x03\x03"


def test_unmapping_is_noticed_by_the_cache(bus: Bus) -> None:
    mapping = bus.map(range(0x10, 0x11), Recorder())
    assert bus.read(0x10, 1) == 0
    bus.unmap(mapping)
    assert bus.read(0x10, 1) == 0xFF


def test_the_cache_of_a_huge_space_is_bounded() -> None:
    mmio = Bus("MMIO", 1 << 52)
    mmio.map(range(1 << 40), Recorder())
    for address in range(10_000):
        mmio.write(address * 8, 8, 0)
        mmio.read(address * 8, 8)
    assert len(mmio.readers) <= 4096
    assert len(mmio.writers) <= 4096


@given(
    ranges=st.lists(
        st.tuples(st.integers(0, 200), st.integers(1, 16)), max_size=6, unique_by=lambda r: r[0]
    ),
    accesses=st.lists(
        st.tuples(st.integers(0, 240), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=20
    ),
)
def test_every_byte_goes_to_its_owner(
    ranges: list[tuple[int, int]], accesses: list[tuple[int, int]]
) -> None:
    bus = Bus("port", 0x10000)
    owner: dict[int, int] = {}
    for start, size in ranges:
        try:
            bus.map(range(start, start + size), Recorder(f"at {start}"))
        except MappingOverlap:
            continue
        for byte in range(start, start + size):
            owner[byte] = start
    for address, size in accesses:
        expected = 0
        for lane in range(size):
            at = address + lane
            value = (at - owner[at]) & 0xFF if at in owner else 0xFF
            expected |= value << 8 * lane
        assert bus.read(address, size) == expected
