"""The host bridge, with its registers declared a second time from the data sheet."""

from __future__ import annotations

import pytest

from devices import StateError
from devices.i440fx import HostBridge

READ_ONLY = {  # offset: (size, value)
    0x00: (2, 0x8086),
    0x02: (2, 0x1237),
    0x08: (1, 0x02),
    0x09: (1, 0x00),
    0x0A: (2, 0x0600),
    0x0E: (1, 0x00),
    0x2C: (2, 0x1AF4),
    0x2E: (2, 0x1100),
    0x34: (1, 0x00),
    0x3D: (1, 0x00),
}
WRITABLE = {  # offset: (size, after reset, bits that a write of ones sets)
    0x04: (2, 0x0006, 0x0106),
    0x0D: (1, 0x00, 0xF8),
    0x50: (2, 0x0000, 0xC3F4),
    0x57: (1, 0x01, 0x77),
    0x58: (1, 0x10, 0x7F),
    0x59: (1, 0x00, 0x70),
    0x5A: (1, 0x00, 0x77),
    0x5F: (1, 0x00, 0x77),
    0x60: (1, 0x02, 0xFF),
    0x67: (1, 0x02, 0xFF),
    0x68: (1, 0x00, 0xC0),
    0x70: (1, 0x00, 0xF8),
    0x71: (1, 0x10, 0x1F),
    0x90: (1, 0x00, 0x1B),
}


@pytest.mark.parametrize("offset", READ_ONLY)
def test_identity_cannot_be_written(offset):
    size, value = READ_ONLY[offset]
    bridge = HostBridge()
    assert bridge.read_config(offset, size) == value
    bridge.write_config(offset, size, (1 << 8 * size) - 1)
    bridge.write_config(offset, size, 0)
    assert bridge.read_config(offset, size) == value


@pytest.mark.parametrize("offset", WRITABLE)
def test_only_the_chips_bits_can_be_written(offset):
    size, reset, ones = WRITABLE[offset]
    bridge = HostBridge()
    assert bridge.read_config(offset, size) == reset
    bridge.write_config(offset, size, (1 << 8 * size) - 1)
    assert bridge.read_config(offset, size) == ones
    bridge.reset()
    assert bridge.read_config(offset, size) == reset


def test_status_bits_stay_where_nothing_sets_them():
    bridge = HostBridge()
    assert bridge.read_config(0x06, 2) == 0x0280
    bridge.write_config(0x06, 2, 0xFFFF)
    assert bridge.read_config(0x06, 2) == 0x0280


def test_there_are_no_base_address_registers():
    bridge = HostBridge()
    for offset in range(0x10, 0x28, 4):
        bridge.write_config(offset, 4, 0xFFFF_FFFF)
        assert bridge.read_config(offset, 4) == 0


def test_reserved_bytes_read_as_zero():
    assert HostBridge().read_config(0xF0, 4) == 0


def test_firmware_unlocks_and_locks_shadow_ram():
    # As SeaBIOS does it: two dwords that hold PAM0..PAM6, changed and written back.
    bridge = HostBridge()
    assert not bridge.read_config(0x59, 1) & 0x10, "RAM is not yet there: copy the BIOS"
    dram = bridge.read_config(0x58, 1)
    bridge.write_config(0x58, 4, 0x3333_3000 | dram)
    bridge.write_config(0x5C, 4, 0x3333_3333)
    assert bridge.read_config(0x58, 4) == 0x3333_3000 | dram
    assert bridge.read_config(0x5C, 4) == 0x3333_3333
    bridge.write_config(0x58, 4, 0x1111_1000 | dram)
    assert bridge.read_config(0x59, 1) == 0x10


def test_smram_locks_until_reset():
    bridge = HostBridge()
    assert bridge.read_config(0x72, 1) == 0x02
    bridge.write_config(0x72, 1, 0x4A)
    assert bridge.read_config(0x72, 1) == 0x4A
    bridge.write_config(0x72, 1, 0x5A)
    assert bridge.read_config(0x72, 1) == 0x1A, "locking closes the window"
    bridge.write_config(0x72, 1, 0x60)
    assert bridge.read_config(0x72, 1) == 0x3A, "only D_CLS moves"
    bridge.reset()
    assert bridge.read_config(0x72, 1) == 0x02


class TestRestore:
    def test_a_configuration_comes_back(self):
        bridge, other = HostBridge(), HostBridge()
        bridge.write_config(0x58, 4, 0xFFFF_FFFF)
        bridge.write_config(0x72, 1, 0x18)
        assert len(bridge.config) == 256
        other.restore(bridge.config)
        assert other.config == bridge.config

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda c: b"\x22" + c[1:],
            lambda c: c[:-1] + b"\x01",
            lambda c: c[:0x59] + b"\x80" + c[0x5A:],
            lambda c: c[:-1],
            lambda c: bytearray(c),
        ],
    )
    def test_an_impossible_one_is_refused(self, spoil):
        bridge = HostBridge()
        bridge.write_config(0x60, 1, 0x33)
        before = bridge.config
        with pytest.raises(StateError):
            bridge.restore(spoil(before))
        assert bridge.config == before
