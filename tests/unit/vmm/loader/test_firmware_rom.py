from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmm.errors import BootError
from vmm.loader import load
from vmm.loader.firmware_rom import looks_like_rom
from vmm.loader.plan import BootOptions

Options = Callable[..., BootOptions]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
JUMP = bytes.fromhex("ea 5b e0 00 f0").ljust(16, b"\0")


def rom(size: int, tail: bytes = JUMP) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in range(size // 4 - 4)) + tail


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 16 * MIB])
def test_ends_at_4_gib_with_a_copy_below_1_mib(
    options: Options, assert_sound: Callable[..., None], size: int
) -> None:
    image = rom(size)
    plan = load(image, options())
    assert plan.format == "firmware"
    assert [(r.gpa, bytes(r.data)) for r in plan.roms] == [(4 * GIB - size, image)]
    copy = min(size, 128 * KIB)
    assert [(w.gpa, bytes(w.data)) for w in plan.writes] == [(MIB - copy, image[-copy:])]
    assert plan.start.mode == "reset"
    assert_sound(plan, options().layout)


def test_without_memory_below_1_mib_the_copy_is_rom_as_well(options: Options) -> None:
    plan = load(rom(64 * KIB), options(64 * KIB))
    assert not plan.writes
    assert [(r.gpa, len(r.data)) for r in plan.roms] == [
        (4 * GIB - 64 * KIB, 64 * KIB),
        (MIB - 64 * KIB, 64 * KIB),
    ]
    with pytest.raises(BootError, match="firmware below 1 MiB"):
        load(rom(128 * KIB), options(0xF0000))


@pytest.mark.parametrize("size", [1, 4095, 4097, 16 * MIB + 4096])
def test_sizes_that_no_rom_has(options: Options, size: int) -> None:
    with pytest.raises(BootError, match=f"not a firmware image: {size} bytes"):
        load(bytes(size), options(), "firmware")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("ea", True),
        ("e9", True),
        ("eb", True),
        ("9090eb", True),
        ("fae9", True),
        ("00ea", False),
        ("90" * 16, False),
        ("f4", False),
    ],
)
def test_recognised_by_the_jump(tail: str, expected: bool) -> None:
    image = bytes(4 * KIB - 16) + bytes.fromhex(tail).ljust(16, b"\0")
    assert looks_like_rom(memoryview(image)) is expected


@pytest.mark.parametrize("name", ["bios.bin", "bios-256k.bin"])
def test_seabios(options: Options, name: str) -> None:
    path = Path("/usr/share/seabios") / name
    if not path.exists():
        pytest.skip("needs SeaBIOS (package seabios)")
    image = path.read_bytes()
    plan = load(image, options())
    assert plan.format == "firmware"
    assert plan.roms[0].gpa + len(image) == 4 * GIB
