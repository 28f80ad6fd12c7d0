from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.layout import MemoryLayout
from vmm.loader import load
from vmm.loader.elf import parse
from vmm.loader.plan import BootOptions, BootPlan

Options = Callable[..., BootOptions]
Make = Callable[..., bytes]
Attempt = Callable[[bytes, BootOptions, str], str]
Sound = Callable[[BootPlan, MemoryLayout], None]
MIB = 1 << 20


@pytest.mark.parametrize(("bits", "mode"), [(32, "protected"), (64, "long")])
def test_segments_go_to_their_physical_addresses(
    options: Options, make_elf: Make, assert_sound: Sound, bits: int, mode: str
) -> None:
    image = make_elf(
        [(0x100000, 0x100000, b"code", 4), (0x102000, 0x102000, b"data", 0x1000)],
        bits=bits,
        entry=0x100002,
    )
    plan = load(image, options())
    assert plan.format == f"elf{bits}"
    assert [(w.gpa, bytes(w.data), w.zeros_after) for w in plan.writes] == [
        (0x100000, b"code", 0),
        (0x102000, b"data", 0xFFC),
    ]
    assert (plan.start.mode, plan.start.entry, plan.start.cpl) == (mode, 0x100002, 0)
    assert plan.start.registers == {"rsp": 4 * MIB - 32768, "rdi": 0}
    assert_sound(plan, options().layout)


def test_the_entry_point_is_translated(options: Options, make_elf: Make) -> None:
    high = 0xFFFFFFFF80000000
    segments = [(high + 0x200000, 0x200000, b"code", 8), (0x8000, 0x8000, b"low", 3)]
    assert load(make_elf(segments, entry=high + 0x200004), options()).start.entry == 0x200004
    # Some scripts name the physical entry point of a higher-half kernel.
    assert load(make_elf(segments, entry=0x200004), options()).start.entry == 0x200004


def test_virtual_addresses_where_all_physical_ones_are_zero(
    options: Options, make_elf: Make
) -> None:
    segments = [(0x100000, 0, b"a", 1), (0x101000, 0, b"b", 1)]
    plan = load(make_elf(segments), options())
    assert [w.gpa for w in plan.writes] == [0x100000, 0x101000]
    # One that is not zero makes a zero a real address.
    segments = [(0x100000, 0, b"a", 1), (0x101000, 0x101000, b"b", 1)]
    plan = load(make_elf(segments), options())
    assert [w.gpa for w in plan.writes] == [0, 0x101000]
    assert plan.start.entry == 0


def test_position_independent(options: Options, make_elf: Make) -> None:
    pie = make_elf([(0x40, 0x40, b"code", 4), (0x3000, 0x3000, b"d", 9)], kind=3, entry=0x41)
    plan = load(pie, options())
    assert [w.gpa for w in plan.writes] == [0x100040, 0x103000]
    assert plan.start.entry == 0x100041
    plan = load(pie, options(load_addr=0x30000, entry=0x30042))
    assert [w.gpa for w in plan.writes] == [0x30040, 0x33000]
    assert plan.start.entry == 0x30042
    with pytest.raises(BootError, match=r"0x30010 is not a multiple of .* 0x1000"):
        load(pie, options(load_addr=0x30010))
    aligned = make_elf([(0x0, 0x0, b"code", 4)], kind=3, entry=0, align=0x200000)
    assert load(aligned, options()).start.entry == 0x200000


def test_a_command_line_is_in_memory_at_rdi(
    options: Options, make_elf: Make, assert_sound: Sound
) -> None:
    plan = load(make_elf([(0x100000, 0x100000, b"c", 1)]), options(append="quiet x=1"))
    assert (plan.writes[-1].gpa, bytes(plan.writes[-1].data)) == (
        plan.start.registers["rdi"],
        b"quiet x=1\0",
    )
    assert_sound(plan, options().layout)


CODE = [(0x100000, 0x100000, b"code", 4)]
REFUSED = [
    ({"machine": 40}, "for another processor \\(machine 40\\)"),
    ({"kind": 1}, "a relocatable object file"),
    ({"kind": 4}, "a core dump"),
    ({"kind": 77}, "type 77"),
    ({"segment_type": 3}, "dynamically linked"),
    ({"segment_type": 2}, "without anything to load"),
    ({"entry": 0x100004}, "entry point 0x100004 is in none"),
    ({"bits": 32, "machine": 62}, "x32"),
]


@pytest.mark.parametrize(("how", "message"), REFUSED)
def test_refused(options: Options, make_elf: Make, how: dict[str, int], message: str) -> None:
    with pytest.raises(BootError, match=f"^k: .*{message}") as caught:
        load(make_elf(CODE, **how), options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(0x100000, 0x100000, b"code", 3)], "4 bytes in the file and 3 in memory"),
        ([(0x100000, 0x100000, b"c", 8 * MIB)], "segment 0 of 8388608 bytes at 0x100000"),
        ([(MIB, MIB, b"c", 9), (MIB + 8, MIB + 8, b"c", 9)], "segment 1 .* overlaps segment 0"),
        ([(0, 1 << 63, b"c", 1)], "segment 0 of 1 bytes at 0x8000000000000000"),
        ([(0, (1 << 64) - 1, b"c", (1 << 64) - 1)], "outside of memory"),
        ([(0x3F8000, 0x3F8000, b"c", 1)], "start tables"),
        ([], "without anything to load"),
    ],
)
def test_segments_that_cannot_be(
    options: Options, make_elf: Make, segments: list[tuple[int, int, bytes, int]], message: str
) -> None:
    with pytest.raises(BootError, match=message):
        load(make_elf(segments, entry=segments[0][0] if segments else 0), options())


def test_the_other_class_names_the_format(options: Options, make_elf: Make) -> None:
    with pytest.raises(BootError, match="a 32-bit ELF; use --format elf32"):
        load(make_elf(CODE, bits=32), options(), "elf64")
    with pytest.raises(BootError, match="not an ELF file: it starts with 4d 5a 00 00"):
        load(b"MZ\0\0", options(), "elf64")


def test_a_fixed_address_cannot_be_moved(options: Options, make_elf: Make) -> None:
    with pytest.raises(BootError, match="linked for a fixed address"):
        load(make_elf(CODE), options(load_addr=0x200000))
    with pytest.raises(BootError, match="entry point 0x200000 is in none"):
        load(make_elf(CODE), options(entry=0x200000))
    assert load(make_elf(CODE), options(entry=0x100003)).start.entry == 0x100003


def test_entry_above_4_gib(options: Options, make_elf: Make) -> None:
    image = make_elf([(1 << 32, 1 << 32, b"c", 1)], entry=1 << 32)
    with pytest.raises(BootError, match="out of reach"):
        load(image, options(5 << 30))


@pytest.mark.parametrize("bits", [32, 64])
def test_cut_short_anywhere(options: Options, make_elf: Make, bits: int) -> None:
    image = make_elf(CODE, bits=bits)
    for size in range(4, len(image)):
        with pytest.raises(BootError):
            load(image[:size], options(), f"elf{bits}")


@pytest.mark.parametrize("bits", [32, 64])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_headers(
    options: Options, make_elf: Make, attempt: Attempt, bits: int, data: st.DataObject
) -> None:
    segments = [(0x100000, 0x100000, b"code" * 8, 64), (0x103000, 0x103000, b"data", 4096)]
    image = bytearray(make_elf(segments, bits=bits))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(image) - 1))
        image[at] = data.draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]))
    attempt(bytes(image), options(), f"elf{bits}")


def reference(image: bytes) -> list[tuple[int, int, bytes, int]]:
    """The loadable segments as pyelftools reads them."""
    elffile = pytest.importorskip("elftools.elf.elffile")
    return [
        (s["p_vaddr"], s["p_paddr"], s.data(), s["p_memsz"])
        for s in elffile.ELFFile(io.BytesIO(image)).iter_segments("PT_LOAD")
        if s["p_memsz"]
    ]


KERNEL = """
    .globl _start
    .text
_start: hlt
    jmp _start
    .data
    .ascii "some data"
    .bss
    .skip 0x5000
"""


@pytest.mark.parametrize(
    ("bits", "link"),
    [
        (32, ("-Ttext=0x100000",)),
        (64, ("-Ttext=0x100000",)),
        (64, ("-pie", "--no-dynamic-linker")),
        (32, ("-pie", "--no-dynamic-linker")),
        (64, ("-Ttext=0xffffffff80100000", "-Tdata=0xffffffff80200000")),
    ],
)
def test_linked_kernels_read_as_pyelftools_reads_them(
    build: Callable[..., bytes], bits: int, link: tuple[str, ...]
) -> None:
    image = build(KERNEL, *link, bits=bits)
    elf = parse(memoryview(image), "k")
    assert [(s.vaddr, s.gpa, bytes(s.data), s.size) for s in elf.segments] == reference(image)
    assert elf.bits == bits
    assert elf.relocatable is ("-pie" in link)


def test_linked_kernels_boot(
    options: Options, build: Callable[..., bytes], assert_sound: Sound
) -> None:
    for bits in (32, 64):
        plan = load(build(KERNEL, "-Ttext=0x100000", "-Tdata=0x102000", bits=bits), options())
        assert plan.format == f"elf{bits}"
        assert plan.start.entry == 0x100000
        assert_sound(plan, options().layout)
        text = next(w for w in plan.writes if w.gpa == 0x100000)
        assert bytes(text.data[:3]) == b"\xf4\xeb\xfd"
        assert max(w.gpa + w.size for w in plan.writes) >= 0x102000 + 9 + 0x5000


def test_an_object_file_is_not_linked(options: Options, build: Callable[..., bytes]) -> None:
    with pytest.raises(BootError, match="a relocatable object file"):
        load(build(KERNEL, "-r"), options())


def test_many_program_headers(options: Options) -> None:
    count = 65534
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    entry = struct.pack("<IIQQQQQQ", 1, 7, 0, 0x100000, 0x100000, 64, 64, 1)
    with pytest.raises(BootError, match=r"segment 1 .* overlaps segment 0"):
        load(header + entry * count, options())
    with pytest.raises(BootError, match="more than 65534 program headers"):
        load(header[:56] + b"\xff\xff" + header[58:] + entry * 65535, options())
