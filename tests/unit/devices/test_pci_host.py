"""Configuration mechanism #1 as firmware and kernels use it."""

from __future__ import annotations

import pytest

from devices.pci_host import PORTS, PciHost, bdf

ADDRESS, RESET, DATA = 0, 1, 4
ENABLE = 0x8000_0000


class Function:
    """A configuration space that notes its accesses."""

    def __init__(self) -> None:
        self.space = bytearray(range(256))
        self.accesses: list[tuple] = []

    def read_config(self, offset: int, size: int) -> int:
        self.accesses.append(("r", offset, size))
        return int.from_bytes(self.space[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("w", offset, size, value))


def select(host, where, register):
    host.write(ADDRESS, 4, ENABLE | where << 8 | register)


@pytest.fixture
def host():
    return PciHost()


def test_ports():
    assert (PORTS.start, PORTS.stop) == (0xCF8, 0xD00)


class TestAddress:
    def test_a_bdf_is_packed(self):
        assert bdf(0, 1, 3) == 0x0B
        assert bdf(255, 31, 7) == 0xFFFF

    @pytest.mark.parametrize("where", [(256, 0, 0), (0, 32, 0), (0, 0, 8), (-1, 0, 0)])
    def test_a_bdf_out_of_range(self, where):
        with pytest.raises(ValueError, match="no such PCI function"):
            bdf(*where)

    def test_it_latches_dwords(self, host):
        # Linux tells mechanism #1 by this.
        host.write(ADDRESS, 4, 0x8000_0000)
        assert host.read(ADDRESS, 4) == 0x8000_0000

    def test_reserved_bits_read_as_zero(self, host):
        host.write(ADDRESS, 4, 0xFFFF_FFFF)
        assert host.read(ADDRESS, 4) == 0x80FF_FFFC

    @pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (2, 2), (3, 1)])
    def test_narrow_accesses_pass_it_by(self, host, offset, size):
        host.write(ADDRESS, 4, 0x8000_0810)
        host.write(offset, size, 0)
        assert host.read(ADDRESS, 4) == 0x8000_0810
        assert host.read(offset, size) == (1 << 8 * size) - 1


class TestData:
    def test_the_host_bridge_is_at_zero(self, host):
        select(host, 0, 0)
        assert host.read(DATA, 4) == 0x1237_8086
        assert host.read(DATA, 2) == 0x8086
        assert host.read(DATA + 2, 2) == 0x1237
        select(host, 0, 0x08)
        assert host.read(DATA, 4) == 0x0600_0002

    def test_firmware_recognises_a_virtual_machine(self, host):
        select(host, 0, 0x2C)
        assert host.read(DATA, 4) == 0x1100_1AF4

    def test_nothing_without_enable(self, host):
        host.write(ADDRESS, 4, 0)
        assert host.read(DATA, 4) == 0xFFFF_FFFF
        host.write(DATA, 4, 0)

    def test_a_scan_of_every_bus_finds_one_function(self, host):
        found = []
        for where in [*range(256), *range(256, 0x10000, 8)]:
            select(host, where, 0)
            if host.read(DATA, 2) != 0xFFFF:
                found.append(where)
        assert found == [0]

    def test_writes_reach_the_selected_function(self, host):
        function = Function()
        host.attach(bdf(0, 3, 0), function)
        select(host, bdf(0, 3, 0), 0x10)
        host.write(DATA, 4, 0xFFFF_FFFF)
        host.write(DATA + 1, 1, 0x12)
        host.write(DATA + 2, 2, 0x3456)
        assert function.accesses == [
            ("w", 0x10, 4, 0xFFFF_FFFF),
            ("w", 0x11, 1, 0x12),
            ("w", 0x12, 2, 0x3456),
        ]

    def test_a_misaligned_access_goes_byte_by_byte(self, host):
        function = Function()
        host.attach(bdf(0, 3, 0), function)
        select(host, bdf(0, 3, 0), 0x40)
        assert host.read(DATA + 1, 2) == 0x4241
        host.write(DATA + 1, 2, 0xBBAA)
        assert function.accesses == [
            ("r", 0x41, 1),
            ("r", 0x42, 1),
            ("w", 0x41, 1, 0xAA),
            ("w", 0x42, 1, 0xBB),
        ]

    def test_an_access_over_the_end_is_cut(self, host):
        function = Function()
        host.attach(bdf(0, 3, 0), function)
        select(host, bdf(0, 3, 0), 0xFC)
        assert host.read(DATA + 3, 4) == 0xFFFF_FFFF
        assert function.accesses == [("r", 0xFF, 1)]
        assert host.read(DATA, 8) == 0xFFFF_FFFF_FFFE_FDFC

    def test_an_access_across_the_two_dwords_is_not_answered(self, host):
        select(host, 0, 0x58)
        assert host.read(2, 4) == 0xFFFF_FFFF
        host.write(2, 4, 0)
        host.write(0, 8, 0)
        assert host.read(ADDRESS, 4) == ENABLE | 0x58


class TestAttach:
    def test_a_place_is_taken_once(self, host):
        host.attach(bdf(0, 4, 0), Function())
        with pytest.raises(ValueError, match=r"00:04\.0 is taken"):
            host.attach(bdf(0, 4, 0), Function())
        with pytest.raises(ValueError, match=r"00:00\.0 is taken"):
            host.attach(0, Function())

    @pytest.mark.parametrize("where", [-1, 0x10000])
    def test_a_place_out_of_range(self, host, where):
        with pytest.raises(ValueError, match="no such PCI function"):
            host.attach(where, Function())


class TestReset:
    def test_the_way_firmware_asks_for_one(self):
        asked = []
        host = PciHost(on_reset=lambda: asked.append(True))
        host.write(RESET, 1, 0x02)
        assert asked == []
        assert host.read(RESET, 1) == 0x02
        host.write(RESET, 1, 0x06)
        assert asked == [True]

    def test_it_does_not_disturb_the_address(self, host):
        host.write(ADDRESS, 4, 0x8000_0010)
        host.write(RESET, 1, 0x02)
        assert host.read(ADDRESS, 4) == 0x8000_0010

    def test_other_bits_are_not_kept(self, host):
        host.write(RESET, 1, 0xFB)
        assert host.read(RESET, 1) == 0x02

    def test_power_on_reaches_the_bridge(self, host):
        select(host, 0, 0x58)
        host.write(DATA, 4, 0xFFFF_FFFF)
        host.reset()
        assert host.read(ADDRESS, 4) == 0
        select(host, 0, 0x58)
        assert host.read(DATA, 4) == 0x0000_0010


def test_a_snapshot_carries_the_bridge(host):
    select(host, 0, 0x5C)
    host.write(DATA, 4, 0x3333_3333)
    twin = PciHost()
    twin.load(host.save())
    assert twin.read(DATA, 4) == 0x3333_3333
