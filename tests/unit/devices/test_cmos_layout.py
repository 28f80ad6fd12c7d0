"""The cells by which firmware finds its memory: indexes and units as SeaBIOS has them."""

from __future__ import annotations

import pytest

from devices.cmos_layout import firmware_cells

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def cells(below=64 * MIB, above=0, cpus=1, order="c"):
    return firmware_cells(memory_below_4g=below, memory_above_4g=above, cpus=cpus, boot_order=order)


def word(found, low):
    return found[low] | found[low + 1] << 8


@pytest.mark.parametrize(
    ("below", "base", "above_1m", "above_16m"),
    [
        (4 * KIB, 4, 0, 0),
        (512 * KIB, 512, 0, 0),
        (1 * MIB, 640, 0, 0),
        (2 * MIB, 640, 1024, 0),
        (16 * MIB, 640, 15 * 1024, 0),
        (64 * MIB, 640, 63 * 1024, 48 * 16),
        (65 * MIB, 640, 0xFFFF, 49 * 16),
        (3 * GIB, 640, 0xFFFF, (3072 - 16) * 16),
    ],
)
def test_memory_below_4g(below, base, above_1m, above_16m):
    found = cells(below)
    assert word(found, 0x15) == base
    assert word(found, 0x17) == word(found, 0x30) == above_1m
    assert word(found, 0x34) == above_16m


def test_memory_above_4g():
    found = cells(above=5 * GIB + 64 * KIB)
    assert found[0x5B] | found[0x5C] << 8 | found[0x5D] << 16 == 5 * 16384 + 1
    found = cells(above=1 << 50)
    assert [found[index] for index in (0x5B, 0x5C, 0x5D)] == [0xFF] * 3


@pytest.mark.parametrize(("cpus", "cell"), [(0, 0), (1, 0), (4, 3), (256, 255), (1000, 255)])
def test_processors(cpus, cell):
    assert cells(cpus=cpus)[0x5F] == cell


@pytest.mark.parametrize(
    ("order", "both", "third"),
    [("", 0x00, 0x00), ("c", 0x02, 0x00), ("cad", 0x12, 0x30), ("nda", 0x34, 0x10)],
)
def test_boot_order(order, both, third):
    found = cells(order=order)
    assert (found[0x3D], found[0x38]) == (both, third)


@pytest.mark.parametrize("order", ["x", "cc d", "acdn"])
def test_a_wrong_boot_order(order):
    with pytest.raises(ValueError, match="boot order"):
        cells(order=order)


def test_checksum():
    found = cells(below=3 * GIB)
    total = sum(found.get(index, 0) for index in range(0x10, 0x2E))
    assert found[0x2E] << 8 | found[0x2F] == total
    assert total > 255
