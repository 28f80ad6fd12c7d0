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
RAW = 1 << 16


class Info:
    """The information structure as a kernel reads it, by the specification's offsets."""

    def __init__(self, plan: BootPlan, memory_of: Read) -> None:
        self.plan, self.read_bytes = plan, memory_of
        self.base = plan.start.registers["rbx"]
        self.flags = self.word(0)

    def at(self, gpa: int, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.read_bytes(self.plan, gpa, struct.calcsize(form)))

    def word(self, offset: int) -> int:
        return self.at(self.base + offset, "<I")[0]

    def string(self, gpa: int) -> bytes:
        return self.read_bytes(self.plan, gpa, 256).split(b"\0")[0]


@pytest.fixture
def kernel(make_elf: Bytes, multiboot1: Bytes) -> bytes:
    return make_elf([(MIB, MIB, multiboot1(3) + b"code", 0x2800)], bits=32, entry=MIB + 12)


def test_machine_state(options: Options, kernel: bytes, assert_sound: Sound) -> None:
    plan = load(kernel, options())
    assert plan.format == "multiboot"
    assert (plan.start.mode, plan.start.entry) == ("protected", MIB + 12)
    assert plan.start.registers["rax"] == 0x2BADB002
    assert plan.start.registers["rbx"] % 4 == 0
    assert_sound(plan, options().layout)


def test_information(options: Options, kernel: bytes, memory_of: Read) -> None:
    info = Info(load(kernel, options(append="root=a b")), memory_of)
    # memory, command line, modules, map, loader name; no boot device, no sections
    assert info.flags == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert (info.word(4), info.word(8)) == (639, 3 * 1024)
    assert info.string(info.word(16)) == b"root=a b"
    assert info.word(20) == 0
    assert info.string(info.word(64)) == b"glassvm"


def test_memory_map(options: Options, kernel: bytes, memory_of: Read) -> None:
    info = Info(load(kernel, options()), memory_of)
    length, at = info.word(44), info.word(48)
    found = []
    end = at + length
    while at < end:
        size, start, extent, kind = info.at(at, "<IQQI")
        assert size == 20
        found.append((start, extent, kind))
        at += size + 4
    assert at == end
    assert found == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xF0000, 0x10000, 2),
        (MIB, 3 * MIB, 1),
    ]


def test_modules(options: Options, kernel: bytes, memory_of: Read, assert_sound: Sound) -> None:
    modules = (Module("a.bin", b"A" * 5000, "first module"), Module("b.bin", b"B"))
    plan = load(kernel, options(modules=modules))
    assert_sound(plan, options().layout)
    info = Info(plan, memory_of)
    assert info.word(20) == 2
    table = info.word(24)
    first, second = info.at(table, "<4I"), info.at(table + 16, "<4I")
    assert first[0] == MIB + 0x3000  # the page after the kernel's bss
    assert first[1] - first[0] == 5000
    assert second[0] == MIB + 0x5000
    assert memory_of(plan, first[0], 5001) == b"A" * 5000 + b"\0"
    assert memory_of(plan, second[0], 2) == b"B\0"
    assert info.string(first[2]) == b"first module"
    assert info.string(second[2]) == b"b.bin"


def test_a_module_that_does_not_fit(options: Options, kernel: bytes) -> None:
    with pytest.raises(BootError, match="no room for module big of 4194304 bytes"):
        load(kernel, options(modules=(Module("big", bytes(4 * MIB)),)))
    with pytest.raises(BootError, match="module none is empty"):
        load(kernel, options(modules=(Module("none", b""),)))


@pytest.mark.parametrize("before", [0, 64, 8192 - 32])
@pytest.mark.parametrize("bss", [0, 0x20800])
def test_address_fields(
    options: Options, multiboot1: Bytes, assert_sound: Sound, before: int, bss: int
) -> None:
    addresses = (0x20000 + before, 0x20000, 0, bss and 0x20000 + bss, 0x20000 + before + 0x20)
    image = b"p" * before + multiboot1(RAW, addresses) + b"code and data"
    plan = load(image, options(), "multiboot")
    kernel = plan.writes[0]
    assert (kernel.gpa, bytes(kernel.data)) == (0x20000, image)
    assert kernel.size == (bss or len(image))
    assert plan.start.entry == 0x20000 + before + 0x20
    assert_sound(plan, options().layout)


def test_address_fields_beat_elf(options: Options, make_elf: Bytes, multiboot1: Bytes) -> None:
    header = multiboot1(RAW, (0x30000, 0x30000, 0x30024, 0, 0x30020))
    image = make_elf([(MIB, MIB, header + b"code" * 9, 0x100)], bits=32)
    plan = load(image, options())
    assert (plan.writes[0].gpa, plan.writes[0].size) == (0x30000, 0x24)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ((0x20000, 0x20004, 0, 0, 0x20000), "does not fit header address"),
        ((0x20000, 0x1FFFF, 0, 0, 0x20000), "does not fit header address"),
        ((0x20000, 0x20000, 0x20000, 0, 0x20000), "not in ascending order"),
        ((0x20000, 0x20000, 0x20010, 0x20008, 0x20000), "not in ascending order"),
        ((0x20000, 0x20000, 0x30000, 0, 0x20000), "loads up to byte 65536 of 32"),
        ((0x20000, 0x20000, 0, 0, 0x20020), "entry point 0x20020 is in none"),
        ((0x20000, 0x20000, 0, 0xFFFFFFFF, 0x20000), "outside of memory"),
    ],
)
def test_addresses_that_cannot_be(
    options: Options, multiboot1: Bytes, addresses: tuple[int, ...], message: str
) -> None:
    header = multiboot1(RAW, addresses)
    with pytest.raises(BootError, match=message):
        load(header, options(), "multiboot")


def test_required_features(options: Options, make_elf: Bytes, multiboot1: Bytes) -> None:
    def boot(flags: int, video: tuple[int, ...] = (), memory: int = 4 * MIB) -> BootPlan:
        image = make_elf([(0x8000, 0x8000, multiboot1(flags, None, video), 64)], entry=0x8000)
        return load(image, options(memory))

    with pytest.raises(BootError, match="requires unknown features 0x8008"):
        boot(0x8008)
    assert boot(0xFFFE0000).writes  # optional ones are passed over
    with pytest.raises(BootError, match="requires a graphics mode \\(1024x768x32\\)"):
        boot(4, (0, 1024, 768, 32))
    with pytest.raises(BootError, match="requires a text screen, and memory ends below"):
        boot(4, (1, 80, 25, 0), 0xA0000)


@pytest.mark.parametrize("video", [(1, 80, 25, 0), (0, 0, 0, 0)])
def test_text_screen(
    options: Options, make_elf: Bytes, multiboot1: Bytes, memory_of: Read, video: tuple[int, ...]
) -> None:
    image = make_elf([(MIB, MIB, multiboot1(4, None, video), 64)], bits=32)
    info = Info(load(image, options()), memory_of)
    assert info.flags & 0x1000
    assert info.at(info.base + 88, "<QIIIBB") == (0xB8000, 160, 80, 25, 16, 2)


def test_no_header(options: Options, multiboot1: Bytes) -> None:
    header = multiboot1(RAW, (0x20000, 0x20000, 0, 0, 0x20000))
    late = bytes(8192 - 8) + header
    unaligned = b"x" + header
    wrong = header[:8] + bytes(4) + header[12:]
    for image in (late, unaligned, wrong, bytes(100)):
        with pytest.raises(BootError, match="no header with a right checksum"):
            load(image, options(), "multiboot")
    with pytest.raises(BootError, match="cut short after 12 bytes"):
        load(header[:12], options(), "multiboot")
    with pytest.raises(BootError, match="without address fields in a file that is not an ELF"):
        load(multiboot1(0), options(), "multiboot")


def test_the_second_of_two_magics_may_be_the_header(options: Options, multiboot1: Bytes) -> None:
    false = struct.pack("<IIII", 0x1BADB002, 0, 0, 0)
    image = false + multiboot1(RAW, (0x20010, 0x20000, 0, 0, 0x20000))
    assert load(image, options(), "multiboot").writes[0].gpa == 0x20000


def test_assembled_kernel_with_symbols(
    options: Options, build: Bytes, memory_of: Read, assert_sound: Sound
) -> None:
    source = """
        .globl _start
        .text
        .balign 4
        .long 0x1BADB002, 3, -(0x1BADB002 + 3)
    _start: mov $stack_top, %esp
        hlt
        .bss
        .skip 0x4000
    stack_top:
    """
    plan = load(build(source, "-Ttext=0x100000", bits=32), options())
    assert plan.format == "multiboot"
    assert plan.start.entry == 0x10000C
    assert_sound(plan, options().layout)
    info = Info(plan, memory_of)
    assert info.flags & 0x20
    count, size, table, names = (info.word(28 + 4 * n) for n in range(4))
    assert size == 40
    name_table = info.at(table + names * size, "<10I")
    found = set()
    for index in range(count):
        fields = info.at(table + index * size, "<10I")
        found.add(info.string(name_table[3] + fields[0]))
    assert {b".text", b".bss", b".symtab", b".strtab", b".shstrtab"} <= found


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_kernels(
    options: Options,
    make_elf: Bytes,
    multiboot1: Bytes,
    attempt: Attempt,
    data: st.DataObject,
) -> None:
    flags = data.draw(st.integers(0, 7)) | RAW
    edges = st.sampled_from([0, 1, 0x20000, 0x20020, 0x3F0000, MIB, 4 * MIB, 0xFFFFFFFF])
    addresses = data.draw(st.tuples(*[edges] * 5))
    header = multiboot1(flags, addresses, data.draw(st.tuples(*[edges] * 4)))
    image = bytes(data.draw(st.integers(0, 8)) * 4) + header + bytes(64)
    chosen = options(modules=(Module("m", b"m" * data.draw(st.integers(1, 5000))),))
    attempt(image, chosen, "multiboot")
