from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.loader.detect import detect
from vmm.loader.load import FORMATS

Bytes = Callable[..., bytes]
MIB = 1 << 20
SIGNED = bytes(510) + b"\x55\xaa"
FIELDS = (0x20000, 0x20000, 0, 0, 0x20000)


def test_elf(make_elf: Bytes, multiboot1: Bytes, multiboot2: Bytes) -> None:
    code = (MIB, MIB)
    one, two = multiboot1(), multiboot2()
    assert detect(make_elf([(*code, b"code", 4)], bits=32)) == "elf32"
    assert detect(make_elf([(*code, b"code", 4)], bits=64)) == "elf64"
    for bits, pad in ((32, b"1234"), (64, b"")):
        assert detect(make_elf([(*code, one, 64)], bits=bits)) == "multiboot"
        assert detect(make_elf([(*code, pad + two, 64)], bits=bits)) == "multiboot2"
        assert detect(make_elf([(*code, pad + two + one, 64)], bits=bits)) == "multiboot2"
        assert detect(make_elf([(*code, pad + one + b"1234" + two, 64)], bits=bits)) == "multiboot2"


def test_files_that_are_not_elf(multiboot1: Bytes, multiboot2: Bytes) -> None:
    assert detect(multiboot1(1 << 16, FIELDS)) == "multiboot"
    assert detect(multiboot2()) == "multiboot2"
    assert detect(SIGNED) == "bootsector"
    assert detect(memoryview(SIGNED + bytes(1000))) == "bootsector"
    assert detect(bytes(65520) + b"\xea".ljust(16, b"\0")) == "firmware"


def test_a_disk_with_grub_on_it_is_a_boot_sector(multiboot1: Bytes) -> None:
    assert detect(SIGNED + multiboot1(1 << 16, FIELDS)) == "bootsector"


def test_a_linux_kernel() -> None:
    assert detect(SIGNED + b"\xeb\x66HdrS") == "linux"
    assert detect(SIGNED + b"\xeb\x66HdrZ") == "bootsector"


def test_what_cannot_be_told_names_the_flat_formats() -> None:
    with pytest.raises(BootError) as caught:
        detect(b"\xf4\xeb\xfd", "hello.bin")
    assert str(caught.value) == (
        "hello.bin: format not recognised in 3 bytes (no ELF, multiboot, boot sector or firmware); "
        "name it with --format flat16, flat32 or flat64"
    )
    with pytest.raises(
        BootError, match=r"^boot\.img: not a boot sector: bytes 510\.\.511 are 00 00,"
    ):
        detect(bytes(1024), "boot.img")


@given(
    st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x01", SIGNED, b"\xd6\x50\x52\xe8", bytes(4096)]),
    st.binary(max_size=64),
)
def test_only_names_and_boot_errors(start: bytes, rest: bytes) -> None:
    with suppress(BootError):
        assert detect(start + rest) in FORMATS
