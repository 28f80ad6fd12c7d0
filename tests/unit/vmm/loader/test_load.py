from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.errors import BootError, ConfigError
from vmm.layout import MemoryLayout
from vmm.loader import load
from vmm.loader.load import FORMATS
from vmm.loader.plan import BootOptions, Module

Options = Callable[..., BootOptions]
Attempt = Callable[[bytes, BootOptions, str], str]
SECTOR = bytes(510) + b"\x55\xaa"


def test_every_format_of_the_manual_is_there() -> None:
    assert list(FORMATS) == [
        *("bootsector", "flat16", "flat32", "flat64", "elf32", "elf64"),
        *("multiboot", "multiboot2", "linux", "linux32", "vmlinux", "pvh", "firmware"),
    ]
    assert all(format.name == name and format.summary for name, format in FORMATS.items())


def test_format_overrides_what_the_image_looks_like(options: Options) -> None:
    assert load(SECTOR, options()).format == "bootsector"
    assert load(SECTOR, options(), "flat32").format == "flat32"


@pytest.mark.parametrize("format", ["auto", *FORMATS])
def test_an_empty_image(options: Options, format: str) -> None:
    with pytest.raises(BootError, match="k: the image is empty"):
        load(b"", options(), format)


def test_an_unknown_format_lists_the_known(options: Options) -> None:
    with pytest.raises(ConfigError, match="--format floppy: not known; one of auto, bootsector, "):
        load(SECTOR, options(), "floppy")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cpl": 1}, "--cpl 1: a start is in ring 0 or 3"),
        ({"load_addr": -1}, "--load-addr -0x1: not a physical address"),
        ({"entry": 1 << 64}, "--entry 0x10000000000000000: not a physical"),
        ({"boot_drive": 256}, "boot drive 0x100"),
    ],
)
def test_impossible_options(options: Options, more: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(SECTOR, options(**more), "flat32")


GIVEN = {
    "append": ({"append": "x"}, "a command line \\(--append\\)"),
    "modules": ({"modules": (Module("m", b"m"),)}, "modules \\(--module\\)"),
    "initrd": ({"initrd": Module("i", b"i")}, "an initial file system \\(--initrd\\)"),
    "load_addr": ({"load_addr": 0x8000}, "a load address \\(--load-addr\\)"),
    "entry": ({"entry": 0x8000}, "an entry point \\(--entry\\)"),
    "cpl": ({"cpl": 3}, "a start in ring 3 \\(--cpl 3\\)"),
}
TAKEN = {
    "bootsector": set(),
    "flat16": {"load_addr", "entry"},
    "flat32": {"load_addr", "entry", "cpl"},
    "flat64": {"load_addr", "entry", "cpl"},
    "elf32": {"append", "load_addr", "entry"},
    "elf64": {"append", "load_addr", "entry"},
    "multiboot": {"append", "modules"},
    "multiboot2": {"append", "modules"},
    "linux": {"append", "initrd"},
    "linux32": {"append", "initrd"},
    "vmlinux": {"append", "initrd"},
    "pvh": {"append", "initrd"},
    "firmware": set(),
}


def test_the_table_below_is_complete() -> None:
    assert TAKEN.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", TAKEN)
@pytest.mark.parametrize("option", GIVEN)
def test_options_without_meaning_are_refused(
    options: Options, attempt: Attempt, format: str, option: str
) -> None:
    more, what = GIVEN[option]
    message = f"k: {what} means nothing to the format {format}$"
    if option not in TAKEN[format]:
        with pytest.raises(ConfigError, match=message):
            load(SECTOR, options(**more), format)
        return
    assert "means nothing" not in attempt(SECTOR, options(**more), format)


def test_any_kind_of_view_will_do(options: Options) -> None:
    code = b"\xf4\xeb\xfd\x90"
    every_other = memoryview(bytes(x for byte in code for x in (byte, 0)))[::2]
    for image in (code, memoryview(code), memoryview(bytearray(code)), every_other):
        plan = load(image, options(), "flat64")
        assert bytes(plan.writes[0].data) == code
    as_words = memoryview(code).cast("H")
    assert bytes(load(as_words, options(), "flat64").writes[0].data) == code


@pytest.mark.parametrize("format", ["auto", *FORMATS])
@given(
    image=st.binary(max_size=300).flatmap(
        lambda tail: st.sampled_from(
            [tail, b"\x7fELF" + tail, SECTOR + tail, tail.ljust(4096, b"\xeb")]
        )
    ),
    memory=st.sampled_from([1, 8, 9, 160, 256, 512]),
    load_addr=st.none() | st.integers(0, 1 << 21),
    entry_offset=st.none() | st.integers(0, 400),
    cpl=st.sampled_from([0, 0, 3]),
    append=st.sampled_from(["", "quiet", "a\0b", "\ud800"]),
)
@settings(max_examples=60, deadline=None)
def test_no_image_raises_anything_else(
    attempt: Attempt,
    format: str,
    image: bytes,
    memory: int,
    load_addr: int | None,
    entry_offset: int | None,
    cpl: int,
    append: str,
) -> None:
    layout = MemoryLayout.for_size(memory * 4096)
    entry = None if entry_offset is None else (load_addr or 0) + entry_offset
    chosen = BootOptions(layout, "k", append, (), load_addr, entry, cpl)
    attempt(image, chosen, format)
