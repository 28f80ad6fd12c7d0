from __future__ import annotations

from collections.abc import Callable

import pytest

from vmm.errors import BootError
from vmm.loader import load
from vmm.loader.plan import BootOptions

Options = Callable[..., BootOptions]
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "mode", "address"),
    [("flat16", "real", 0x7C00), ("flat32", "protected", MIB), ("flat64", "long", MIB)],
)
def test_defaults(options: Options, name: str, mode: str, address: int) -> None:
    plan = load(b"\xf4", options(), name)
    assert (plan.format, plan.start.mode, plan.start.entry) == (name, mode, address)
    assert [(w.gpa, bytes(w.data)) for w in plan.writes] == [(address, b"\xf4")]
    assert plan.start.registers == {"rsp": address}
    assert plan.start.cpl == 0
    assert not plan.bios


def test_place_entry_and_ring(options: Options) -> None:
    chosen = options(load_addr=0x20008, entry=0x2000A, cpl=3)
    start = load(b"\x90\x90\xf4", chosen, "flat64").start
    assert (start.entry, start.cpl) == (0x2000A, 3)
    assert start.registers["rsp"] == 0x20000  # aligned to 16
    assert load(b"\x90\x90\xf4", chosen, "flat32").start.cpl == 3


def test_stack_where_there_is_no_room_below(options: Options) -> None:
    assert load(b"\xf4", options(load_addr=0), "flat16").start.registers["rsp"] == 0
    assert load(b"\xf4", options(load_addr=0x20000), "flat16").start.registers["rsp"] == 0
    low = load(b"\xf4", options(load_addr=0x10), "flat64").start.registers["rsp"]
    assert low == 4 * MIB - 32768


@pytest.mark.parametrize("name", ["flat16", "flat32", "flat64"])
@pytest.mark.parametrize("entry", [0x4FFF, 0x5002])
def test_entry_must_be_in_the_image(options: Options, name: str, entry: int) -> None:
    with pytest.raises(BootError, match=r"k: entry point 0x\w+ is not in the image"):
        load(b"\x90\xf4", options(load_addr=0x5000, entry=entry), name)


@pytest.mark.parametrize("name", ["flat16", "flat32", "flat64"])
def test_larger_than_memory(options: Options, name: str) -> None:
    with pytest.raises(BootError, match=r"image of 8388608 bytes at .*0x0\.\.0x400000") as caught:
        load(bytes(8 * MIB), options(), name)
    assert "\n" not in str(caught.value)


def test_start_tables_are_kept_free(options: Options) -> None:
    image = bytes(MIB)
    with pytest.raises(BootError, match="overlaps the machine's start tables"):
        load(image, options(2 * MIB), "flat64")
    assert load(image[: MIB - 32768], options(2 * MIB), "flat64").writes


def test_real_mode_uses_the_last_32_kib_too(options: Options) -> None:
    assert load(bytes(0x8400), options(0x10000), "flat16").writes


def test_entry_out_of_reach(options: Options) -> None:
    with pytest.raises(BootError, match="a flat16 image starts below 0x100000"):
        load(b"\xf4", options(load_addr=MIB), "flat16")
    with pytest.raises(BootError, match="a flat64 image starts below 0x100000000"):
        load(b"\xf4", options(5 << 30, load_addr=1 << 32), "flat64")
