from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.layout import MemoryLayout
from vmm.loader import load
from vmm.loader.plan import BootOptions, BootPlan, Module

Options = Callable[..., BootOptions]
Bytes = Callable[..., bytes]
Read = Callable[[BootPlan, int, int], bytes]
Attempt = Callable[[bytes, BootOptions, str], str]
Sound = Callable[[BootPlan, MemoryLayout], None]
MIB = 1 << 20
REQUIRED, OPTIONAL = 0, 1


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def information(plan: BootPlan, memory_of: Read) -> list[tuple[int, bytes]]:
    """Walk the boot information as a kernel does; return types and contents."""
    base = plan.start.registers["rbx"]
    assert base % 8 == 0
    total, reserved = struct.unpack("<II", memory_of(plan, base, 8))
    assert reserved == 0
    data = memory_of(plan, base, total)
    found, at = [], 8
    while True:
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 0:
            assert (size, at + 8) == (8, total)
            return found
        found.append((kind, data[at + 8 : at + size]))
        at += (size + 7) // 8 * 8


@pytest.fixture
def kernel(make_elf: Bytes, multiboot2: Bytes) -> Callable[..., bytes]:
    def make(*tags: tuple[int, int, bytes], bits: int = 64, **more: int) -> bytes:
        code = multiboot2(*tags) + b"code"
        # The header must be aligned to 8 in the file: one segment's headers end at such a byte.
        pad = bytes(-(52 + 32 if bits == 32 else 64 + 56) % 8)
        return make_elf([(MIB, MIB, pad + code, 0x2800)], bits=bits, entry=MIB + 64, **more)

    return make


@pytest.mark.parametrize("bits", [32, 64])
def test_machine_state(
    options: Options, kernel: Callable[..., bytes], assert_sound: Sound, bits: int
) -> None:
    plan = load(kernel(bits=bits), options())
    assert plan.format == "multiboot2"
    assert (plan.start.mode, plan.start.entry) == ("protected", MIB + 64)
    assert plan.start.registers["rax"] == 0x36D76289
    assert_sound(plan, options().layout)


def test_information(
    options: Options, kernel: Callable[..., bytes], memory_of: Read, assert_sound: Sound
) -> None:
    modules = (Module("a", b"A" * 5000, "first"), Module("b.bin", b"B"))
    plan = load(kernel(), options(append="x=1", modules=modules))
    assert_sound(plan, options().layout)
    found = information(plan, memory_of)
    assert [kind for kind, _ in found] == [1, 2, 3, 3, 4, 6]
    contents = [content for _, content in found]
    assert contents[0] == b"x=1\0"
    assert contents[1] == b"glassvm\0"
    assert contents[2] == words(MIB + 0x3000, MIB + 0x3000 + 5000) + b"first\0"
    assert contents[3] == words(MIB + 0x5000, MIB + 0x5001) + b"b.bin\0"
    assert memory_of(plan, MIB + 0x5000, 1) == b"B"
    assert contents[4] == words(639, 3 * 1024)
    assert contents[5][:8] == words(24, 0)
    assert list(struct.iter_unpack("<QQII", contents[5][8:])) == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x400, 2, 0),
        (0xF0000, 0x10000, 2, 0),
        (MIB, 3 * MIB, 1, 0),
    ]


@pytest.mark.parametrize(
    "tag", [(5, REQUIRED, words(80, 25, 0)), (4, REQUIRED, words(3)), (4, OPTIONAL, words(2))]
)
def test_text_screen(
    options: Options,
    kernel: Callable[..., bytes],
    memory_of: Read,
    tag: tuple[int, int, bytes],
) -> None:
    found = dict(information(load(kernel(tag), options()), memory_of))
    assert struct.unpack("<QIIIBBH", found[8]) == (0xB8000, 160, 80, 25, 16, 2, 0)
    small = load(kernel(tag, bits=64), options(0xB8000 + 0x100000))
    assert 8 in dict(information(small, memory_of))


GRANTED = [
    (1, REQUIRED, words(1, 2, 3, 4, 5, 6, 8, 9)),
    (1, OPTIONAL, words(14, 99)),
    (5, OPTIONAL, words(1024, 768, 32)),
    (6, REQUIRED, b""),
    (7, REQUIRED, b""),
    (8, REQUIRED, words(MIB)),
    (9, REQUIRED, words(MIB)),
    (4, OPTIONAL, words(1)),
    (99, OPTIONAL, b"whatever"),
]
REFUSED = [
    ((1, REQUIRED, words(1, 15)), "ACPI 2.0 RSDP information \\(tag 15\\)"),
    ((1, REQUIRED, words(7)), "VBE information"),
    ((1, REQUIRED, words(12)), "EFI 64-bit system table information"),
    ((1, REQUIRED, words(77)), "unknown information \\(tag 77\\)"),
    ((4, REQUIRED, words(1)), "requires a console other than the text screen"),
    ((5, REQUIRED, words(1024, 768, 32)), "graphics framebuffer \\(1024x768x32\\)"),
    ((99, REQUIRED, b""), "unknown feature \\(tag 99\\)"),
    ((3, REQUIRED, b""), "tag 3 has 0 bytes of content, expected 4"),
    ((2, OPTIONAL, words(1, 2, 3)), "tag 2 has 12 bytes of content, expected 16"),
    ((2, REQUIRED, words(MIB, MIB, 0, 0)), "address tag without an entry address"),
    ((10, REQUIRED, words(0, 0xFFFFFFFF, 3, 0)), "relocation alignment 0x3"),
    ((10, REQUIRED, words(0, 0x1000, 0, 0)), "no room for the kernel of 10240 bytes"),
]


@pytest.mark.parametrize("tag", GRANTED)
def test_granted(
    options: Options, kernel: Callable[..., bytes], tag: tuple[int, int, bytes]
) -> None:
    assert load(kernel(tag), options()).start.entry == MIB + 64


@pytest.mark.parametrize(("tag", "message"), REFUSED)
def test_refused(
    options: Options, kernel: Callable[..., bytes], tag: tuple[int, int, bytes], message: str
) -> None:
    with pytest.raises(BootError, match=f"^k: .*{message}") as caught:
        load(kernel(tag), options())
    assert "\n" not in str(caught.value)


def test_entry_address_tag(options: Options, kernel: Callable[..., bytes]) -> None:
    assert load(kernel((3, 0, words(MIB + 9))), options()).start.entry == MIB + 9
    with pytest.raises(BootError, match="entry point 0x5 is in none"):
        load(kernel((3, 0, words(5))), options())


@pytest.mark.parametrize("load_addr", [0x20000, 0xFFFFFFFF])
def test_address_tag(
    options: Options, multiboot2: Bytes, assert_sound: Sound, load_addr: int
) -> None:
    tags = ((2, 0, words(0x20008, load_addr, 0, 0x21000)), (3, 0, words(0x20010)))
    image = b"8 bytes." + multiboot2(*tags) + b"code"
    plan = load(image, options())
    assert plan.format == "multiboot2"
    kernel = plan.writes[0]
    assert (kernel.gpa, bytes(kernel.data), kernel.size) == (0x20000, image, 0x1000)
    assert plan.start.entry == 0x20010
    assert_sound(plan, options().layout)


@pytest.mark.parametrize(
    ("relocation", "base"),
    [
        ((0, 0xFFFFFFFF, 0x1000, 0), MIB),  # no preference: where it was linked for
        ((2 * MIB, 0xFFFFFFFF, 0x1000, 0), 2 * MIB),
        ((MIB + 1, 0xFFFFFFFF, 0x10000, 1), MIB + 0x10000),
        ((0, 0xFFFFFFFF, 0x1000, 1), 0x1000),
        ((0, 0xFFFFFFFF, 0x1000, 2), 4 * MIB - 32768 - 0x3000),
        ((0, 2 * MIB, 0x1000, 2), 2 * MIB - 0x3000),
        ((0, MIB + 0x2800 - 1, 0, 0), 0x1000),  # its linked end is one byte too high
    ],
)
def test_relocation(
    options: Options,
    kernel: Callable[..., bytes],
    memory_of: Read,
    assert_sound: Sound,
    relocation: tuple[int, ...],
    base: int,
) -> None:
    plan = load(kernel((10, 0, words(*relocation))), options(modules=(Module("m", b"m"),)))
    assert_sound(plan, options().layout)
    assert plan.writes[0].gpa == base
    assert plan.start.entry == base + 64
    assert dict(information(plan, memory_of))[21] == words(base)


def test_headers_that_are_none(options: Options, multiboot2: Bytes) -> None:
    header = multiboot2()
    for image in (b"1234" + header, bytes(32768 - 8) + header, header[:12], header[:12] + b"abcd"):
        with pytest.raises(BootError, match="no header with a right checksum"):
            load(image, options(), "multiboot2")


def test_malformed_headers(options: Options, multiboot2: Bytes) -> None:
    def refuse(image: bytes, message: str) -> None:
        with pytest.raises(BootError, match=message):
            load(image, options(), "multiboot2")

    refuse(multiboot2(architecture=4), "a multiboot 2 kernel for MIPS, not for x86")
    refuse(multiboot2(architecture=9), "for architecture 9")
    refuse(multiboot2(end=False), "no end tag")
    refuse(multiboot2()[:-1], "do not end within")
    refuse(multiboot2(), "without an address tag in a file that is not an ELF")
    header = bytearray(multiboot2((99, 1, b"12345678")))
    for size in (0, 7, 0x1000, 0xFFFFFFFF):
        header[20:24] = words(size)
        refuse(bytes(header), f"tag 99 of {size} bytes at byte 16")


def test_assembled_kernel_with_symbols(
    options: Options, build: Bytes, memory_of: Read, assert_sound: Sound
) -> None:
    source = """
        .globl _start
        .text
        .balign 8
    header: .long 0xE85250D6, 0, header_end - header
        .long -(0xE85250D6 + (header_end - header))
        .short 1, 0
        .long 16, 6, 9
        .short 0, 0
        .long 8
    header_end:
    _start: hlt
    """
    plan = load(build(source, "-Ttext=0x100000", bits=64), options())
    assert plan.format == "multiboot2"
    assert_sound(plan, options().layout)
    content = dict(information(plan, memory_of))[9]
    count, size, names = struct.unpack_from("<III", content)
    assert size == 64
    assert len(content) == 12 + count * size
    name_table = struct.unpack_from("<IIQQQQIIQQ", content, 12 + names * size)
    strings = memory_of(plan, name_table[3], name_table[5])
    assert b".symtab\0" in strings


def test_one_at_a_time_every_tag_may_be_damaged(
    options: Options, attempt: Attempt, kernel: Callable[..., bytes]
) -> None:
    image = kernel((10, 0, words(0, 0xFFFFFFFF, 4096, 1)), (1, 0, words(1, 6)))
    for at in range(64, 160):
        damaged = bytearray(image)
        damaged[at] ^= 0xFF
        attempt(bytes(damaged), options(), "multiboot2")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_tags(
    options: Options, multiboot2: Bytes, attempt: Attempt, data: st.DataObject
) -> None:
    edges = st.sampled_from([0, 1, 2, 8, 0x1000, 0x20000, 0x20020, MIB, 4 * MIB, 0xFFFFFFFF])
    content = st.lists(edges, max_size=6).map(lambda values: words(*values))
    tags = data.draw(
        st.lists(st.tuples(st.integers(0, 11), st.integers(0, 1), content), max_size=6)
    )
    placed = [(2, 0, words(0x20000, 0x20000, 0, 0x30000)), (3, 0, words(0x20000))]
    image = multiboot2(*placed, *tags) + bytes(64)
    attempt(image, options(), "multiboot2")
