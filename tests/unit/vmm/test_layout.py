from __future__ import annotations

import pytest

from vmm.errors import ConfigError
from vmm.layout import MemoryLayout, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("2M", 2 << 20),
        ("2MiB", 2 << 20),
        ("4 GiB", 4 << 30),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "2X", "0x1000", "2MM", "two"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


def test_the_default_unit_is_for_bare_numbers() -> None:
    assert parse_size("64", default_unit="m") == 64 << 20
    assert parse_size("64k", default_unit="m") == 64 << 10


def test_small_memory_is_one_range() -> None:
    layout = MemoryLayout.for_size(2 << 20)
    assert [(r.start, r.end) for r in layout.ranges] == [(0, 2 << 20)]
    assert layout.low_end == 2 << 20


def test_memory_goes_around_the_hole() -> None:
    layout = MemoryLayout.for_size(5 << 30)
    assert [(r.start, r.end) for r in layout.ranges] == [
        (0, 0xC0000000),
        (1 << 32, (1 << 32) + (2 << 30)),
    ]
    assert sum(r.size for r in layout.ranges) == layout.size
    assert layout.contains(0xBFFFF000, 0x1000)
    assert not layout.contains(0xBFFFF000, 0x1001)
    assert layout.contains(1 << 32, 2 << 30)
