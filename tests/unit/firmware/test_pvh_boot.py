"""The PVH start info, taken apart by the specification's offsets."""

from __future__ import annotations

import struct

from firmware.pvh_boot import start_info, start_info_size


def test_start_info_with_everything() -> None:
    ranges = [(0, 0x9FC00, 1), (0xF0000, 0x10000, 2), (1 << 32, 1 << 30, 1)]
    made = start_info(
        0x10000,
        command_line=0x20000,
        modules=[(0x3000000, 12345)],
        memory_map=ranges,
        rsdp=0xE0000,
    )
    assert made[:4] == bytes.fromhex("78c56e33")
    assert struct.unpack_from("<III", made, 4) == (1, 0, 1)
    modules, line, rsdp, memory_map = struct.unpack_from("<QQQQ", made, 16)
    assert struct.unpack_from("<II", made, 48) == (3, 0)
    assert (line, rsdp) == (0x20000, 0xE0000)
    assert struct.unpack_from("<QQQQ", made, modules - 0x10000) == (0x3000000, 12345, 0, 0)
    at = memory_map - 0x10000
    for number, found in enumerate(ranges):
        assert struct.unpack_from("<QQII", made, at + 24 * number) == (*found, 0)
    assert len(made) == start_info_size(1, 3) == at + 3 * 24


def test_start_info_without_modules() -> None:
    made = start_info(0x10000, command_line=1, modules=[], memory_map=[(0, 4096, 1)])
    assert struct.unpack_from("<IQ", made, 12) == (0, 0)
    assert struct.unpack_from("<Q", made, 40) == (0x10000 + 56,)
    assert len(made) == start_info_size(0, 1)
