from __future__ import annotations

import pytest

from devices.debugcon import PORT, PORT_FIRMWARE, DebugCon


@pytest.fixture
def console():
    sent: list[bytes] = []
    return DebugCon(out=sent.append), sent


def test_ports():
    assert (PORT, PORT_FIRMWARE) == (0xE9, 0x402)


def test_bytes_come_out_in_order(console):
    device, sent = console
    for byte in b"ok\n\xff":
        device.write(0, 1, byte)
    assert sent == [b"o", b"k", b"\n", b"\xff"]


def test_wide_writes_send_every_byte(console):
    device, sent = console
    device.write(0, 2, 0x6B6F)
    device.write(0, 4, 0x0A216968)
    assert b"".join(sent) == b"okhi!\n"


def test_it_tells_that_it_is_there(console):
    device, _ = console
    assert device.read(0, 1) == 0xE9
    device.write(0, 1, 0x41)
    assert device.read(0, 1) == 0xE9


def test_the_next_port_is_not_its_own(console):
    device, sent = console
    device.write(1, 1, 0x41)
    assert sent == []
    assert device.read(1, 1) == 0xFF
