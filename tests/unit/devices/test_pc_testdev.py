from __future__ import annotations

import pytest

from devices.pc_testdev import PcTestIrqLines, PcTestMemory, PcTestPorts


class TestLoopback:
    @pytest.mark.parametrize("base", [0, 8])
    @pytest.mark.parametrize(("size", "value"), [(1, 0xA5), (2, 0xBEEF), (4, 0x8765_4321)])
    def test_every_width(self, base, size, value):
        ports = PcTestPorts()
        ports.write(base, size, value)
        assert ports.read(base, size) == value

    @pytest.mark.parametrize("base", [0, 8])
    def test_bytes_have_their_places(self, base):
        ports = PcTestPorts()
        ports.write(base, 4, 0x4433_2211)
        assert [ports.read(base + n, 1) for n in range(4)] == [0x11, 0x22, 0x33, 0x44]
        ports.write(base + 2, 1, 0xAA)
        ports.write(base + 2, 2, 0xCCBB)
        assert ports.read(base, 4) == 0xCCBB_2211

    def test_both_places_are_one_register(self):
        ports = PcTestPorts()
        ports.write(0, 4, 0x1234_5678)
        assert ports.read(8, 4) == 0x1234_5678
        ports.write(9, 1, 0xFF)
        assert ports.read(0, 4) == 0x1234_FF78


class TestFlush:
    def test_the_page_is_named_by_any_address_in_it(self):
        pages = []
        ports = PcTestPorts(flush=pages.append)
        ports.write(4, 4, 0xFFFF_FFFF)
        ports.write(4, 4, 0x0000_1FFF)
        assert pages == [0xFFFF_F000, 0x1000]

    @pytest.mark.parametrize(("offset", "size"), [(4, 1), (4, 2), (6, 2), (5, 1)])
    def test_only_dwords_count(self, offset, size):
        pages = []
        PcTestPorts(flush=pages.append).write(offset, size, 0)
        assert pages == []

    def test_it_cannot_be_read(self):
        assert PcTestPorts().read(4, 4) == 0xFFFF_FFFF


class TestIrqLines:
    def drive(self, *writes):
        calls = []
        device = PcTestIrqLines(irq=lambda n, level: calls.append((n, level)))
        for offset, size, value in writes:
            device.write(offset, size, value)
        return device, calls

    def test_levels(self):
        _, calls = self.drive((0, 1, 1), (23, 1, 0x80), (0, 1, 0))
        assert calls == [(0, True), (23, True), (0, False)]

    def test_other_widths_and_ports_drive_nothing(self):
        _, calls = self.drive((0, 2, 0x0101), (0, 4, 1), (24, 1, 1))
        assert calls == []

    def test_power_on_releases_what_is_asserted(self):
        device, calls = self.drive((5, 1, 1), (9, 1, 1), (5, 1, 0))
        calls.clear()
        device.reset()
        assert calls == [(9, False)]
        device.reset()
        assert calls == [(9, False)]


class TestMemoryRange:
    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_it_keeps_what_is_written(self, size):
        memory = PcTestMemory()
        value = 0x8877_6655_4433_2211 & ((1 << 8 * size) - 1)
        memory.write(0x123, size, value)
        assert memory.read(0x123, size) == value
        assert memory.read(0x122, 1) == 0
        assert memory.read(0x123 + size, 1) == 0

    def test_the_end(self):
        memory = PcTestMemory()
        memory.write(0xFFFE, 4, 0x4433_2211)
        assert memory.read(0xFFFE, 4) == 0xFFFF_2211
        assert memory.read(0xFFFF, 1) == 0x22
        assert memory.read(0, 4) == 0
        assert memory.read(0x10000, 2) == 0xFFFF
