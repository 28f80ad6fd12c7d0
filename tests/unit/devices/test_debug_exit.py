from __future__ import annotations

import pytest

from devices.debug_exit import PORTS, DebugExit


@pytest.fixture
def port():
    codes: list[int] = []
    return DebugExit(on_exit=codes.append), codes


def test_ports():
    assert list(PORTS) == [0xF4, 0xF5, 0xF6, 0xF7]


@pytest.mark.parametrize(("size", "value"), [(1, 0x10), (2, 0x1234), (4, 0xDEAD_BEEF)])
def test_the_value_is_handed_on_as_written(port, size, value):
    device, codes = port
    device.write(0, size, value)
    assert codes == [value]


def test_zero_is_a_verdict(port):
    device, codes = port
    device.write(0, 4, 0)
    assert codes == [0]


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_each_of_the_four_ports_counts(port, offset):
    device, codes = port
    device.write(offset, 1, 7)
    assert codes == [7]


def test_reads_are_zero_and_end_nothing(port):
    device, codes = port
    assert device.read(0, 1) == 0
    assert device.read(0, 4) == 0
    assert codes == []
