"""The statistics reader on a file made by hand, laid out as the kernel's documentation says."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from kvm_bindings.stats import Stats, _unit

NAME_SIZE = 48
LINEAR, LOGARITHMIC = 3, 4


@pytest.fixture
def stats(tmp_path: Path) -> Stats:
    counters = [
        ("exits", 0, 1, 0, 0),
        ("halt_poll", LOGARITHMIC, 4, 8, 0),
        ("max_rmap", 2, 1, 40, 0),
        ("width", LINEAR, 2, 48, 10),
    ]
    descriptors = b"".join(
        struct.pack("=IhHII", kind | 0x20, -9, size, offset, bucket)
        + name.encode().ljust(NAME_SIZE, b"\0")
        for name, kind, size, offset, bucket in counters
    )
    identity = b"kvm-1/vcpu-0".ljust(NAME_SIZE, b"\0")
    at = 24 + NAME_SIZE
    header = struct.pack("=6I", 0, NAME_SIZE, 4, 24, at, at + len(descriptors))
    data = struct.pack("=8Q", 2**63, 1, 2, 3, 4, 77, 5, 6)
    path = tmp_path / "stats"
    path.write_bytes(header + identity + descriptors + data)
    return Stats(os.open(path, os.O_RDONLY))


def test_names_and_values(stats: Stats) -> None:
    with stats:
        assert stats.id == "kvm-1/vcpu-0"
        assert stats.read() == {
            "exits": 2**63,
            "halt_poll": (1, 2, 3, 4),
            "max_rmap": 77,
            "width": (5, 6),
        }


def test_kinds(stats: Stats) -> None:
    with stats:
        assert [(c.name, c.kind, c.bucket_size) for c in stats.counters] == [
            ("exits", "cumulative", 0),
            ("halt_poll", "logarithmic histogram", 0),
            ("max_rmap", "peak", 0),
            ("width", "linear histogram", 10),
        ]


def test_units(stats: Stats) -> None:
    with stats:
        assert {c.unit for c in stats.counters} == {"ns"}


SECONDS, BYTES, CYCLES, BOOLEAN, POW2 = 0x20, 0x10, 0x30, 0x40, 0x100


@pytest.mark.parametrize(
    ("flags", "exponent", "unit"),
    [
        (0, 0, ""),
        (BYTES, 0, "B"),
        (BYTES | POW2, 0, "B"),
        (BYTES | POW2, 10, "KiB"),
        (BYTES | POW2, 20, "MiB"),
        (SECONDS, 0, "s"),
        (SECONDS, -3, "ms"),
        (SECONDS, -6, "us"),
        (SECONDS, -9, "ns"),
        (CYCLES, 0, "cycles"),
        (BOOLEAN, 0, "boolean"),
        (BYTES | POW2, 12, "2^12 B"),
        (0, 3, "10^3"),
    ],
)
def test_units_by_flags(flags: int, exponent: int, unit: str) -> None:
    assert _unit(flags, exponent) == unit


def test_it_closes_its_descriptor(stats: Stats) -> None:
    fd = stats.fd
    stats.close()
    stats.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
