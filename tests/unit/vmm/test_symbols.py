"""Names for addresses, from ELF files made here and from lists."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vmm.symbols import SymbolError, Symbols

TEXT, DATA = 0x10_0000, 0x10_2000


def make_elf(
    symbols: list[tuple[str, int, int, int, int]],
    *,
    bits: int = 64,
    paddr: int | None = None,
) -> bytes:
    """A little ELF file; a symbol is name, value, size, info and section (1 text, 2 data)."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in symbols)
    at, table = 1, b"\0" * (24 if bits == 64 else 16)
    for name, value, size, info, section in symbols:
        if bits == 64:
            table += struct.pack("<IBBHQQ", at, info, 0, section, value, size)
        else:
            table += struct.pack("<IIIBBH", at, value, size, info, 0, section)
        at += len(name) + 1
    header_size, section_size, segment_size = (64, 64, 56) if bits == 64 else (52, 40, 32)
    shstr = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
    body = header_size + segment_size
    offsets = (body, body + len(table), body + len(table) + len(names))
    shoff = offsets[2] + len(shstr)

    def section(
        name: int, kind: int, flags: int, addr: int, off: int, size: int, link: int
    ) -> bytes:
        form = "<IIQQQQIIQQ" if bits == 64 else "<IIIIIIIIII"
        entsize = (24 if bits == 64 else 16) if kind == 2 else 0
        return struct.pack(form, name, kind, flags, addr, off, size, link, 0, 1, entsize)

    sections = b"".join(
        (
            section(0, 0, 0, 0, 0, 0, 0),
            section(1, 8, 6, TEXT, 0, 0x1000, 0),
            section(7, 8, 3, DATA, 0, 0x1000, 0),
            section(13, 2, 0, 0, offsets[0], len(table), 4),
            section(21, 3, 0, 0, offsets[1], len(names), 0),
            section(29, 3, 0, 0, offsets[2], len(shstr), 0),
        )
    )
    load = TEXT if paddr is None else paddr
    if bits == 64:
        ident, rest = b"\x7fELF\2\1\1" + bytes(9), "<HHIQQQIHHHHHH"
        segment = struct.pack("<IIQQQQQQ", 1, 5, 0, TEXT, load, 0, 0x3000, 0x1000)
    else:
        ident, rest = b"\x7fELF\1\1\1" + bytes(9), "<HHIIIIIHHHHHH"
        segment = struct.pack("<IIIIIIII", 1, 0, TEXT, load, 0, 0x3000, 5, 0x1000)
    machine = 62 if bits == 64 else 3
    header = ident + struct.pack(
        rest, 2, machine, 1, TEXT, header_size, shoff, 0, header_size, segment_size, 1,
        section_size, 6, 5,
    )  # fmt: skip
    return header + segment + table + names + shstr + sections


GLOBAL_FUNC, LOCAL_FUNC, GLOBAL_LABEL, LOCAL_LABEL, GLOBAL_OBJECT = 0x12, 0x02, 0x10, 0x00, 0x11
KERNEL = [
    ("_start", TEXT, 0, GLOBAL_LABEL, 1),
    ("main", TEXT + 0x20, 0x30, GLOBAL_FUNC, 1),
    ("again", TEXT + 0x28, 0, LOCAL_LABEL, 1),
    ("helper", TEXT + 0x100, 0x10, LOCAL_FUNC, 1),
    ("table", DATA, 0x40, GLOBAL_OBJECT, 2),
    (".Lhidden", TEXT + 0x24, 0, LOCAL_LABEL, 1),
    ("missing", 0, 0, GLOBAL_FUNC, 0),
    ("constant", TEXT + 0x104, 0, GLOBAL_LABEL, 0xFFF1),
    ("file.c", TEXT + 0x108, 0, 0x04, 1),
]


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_file(bits):
    symbols = Symbols.load(make_elf(KERNEL, bits=bits))
    assert symbols.at(TEXT) == "_start"
    assert symbols.at(TEXT + 4) == "_start+0x4"
    assert symbols.at(TEXT + 0x24) == "main+0x4"
    assert symbols.at(TEXT + 0x2A) == "again+0x2"
    assert symbols.at(TEXT + 0x10F) == "helper+0xf"
    assert symbols.at(TEXT + 0x110) is None  # behind its end
    assert symbols.at(DATA + 0x3F) == "table+0x3f"
    assert symbols.at(TEXT - 1) is None
    assert symbols.find("main") == TEXT + 0x20
    for name in ("missing", "constant", "file.c", ".Lhidden", "nothing"):
        assert symbols.find(name) is None
    assert len(symbols) == 5


def test_a_return_address_may_be_the_first_byte_of_the_next_function():
    symbols = Symbols.load(make_elf(KERNEL))
    assert symbols.behind(TEXT + 0x20) == "_start+0x20"  # where main begins
    assert symbols.behind(TEXT + 0x25) == "main+0x5"
    assert symbols.behind(TEXT + 0x110) == "helper+0x10"
    assert symbols.behind(TEXT + 0x111) is None
    assert symbols.behind(0) is None


def test_a_function_is_told_before_a_label_at_the_same_place():
    both = [("label", TEXT, 0, GLOBAL_LABEL, 1), ("function", TEXT, 8, LOCAL_FUNC, 1)]
    for order in (both, both[::-1]):
        symbols = Symbols.load(make_elf(order))
        assert symbols.at(TEXT) == "function"
        assert symbols.find("label") == TEXT


def test_an_image_that_was_moved():
    symbols = Symbols.load(make_elf(KERNEL), bias=0x1000)
    assert symbols.at(TEXT + 0x1020) == "main"
    assert symbols.find("main") == TEXT + 0x1020


def test_a_kernel_linked_high_and_loaded_low():
    symbols = Symbols.load(make_elf(KERNEL, paddr=0x40_0000))
    assert symbols.at(TEXT + 0x21) == "main+0x1"
    assert symbols.at(0x40_0021) == "main+0x1"
    assert symbols.behind(0x40_0021) == "main+0x1"


def test_lists_of_nm_and_system_map(tmp_path):
    path = tmp_path / "System.map"
    path.write_text(
        "0000000000000000 A absolute\n"
        "ffffffff81000000 T _text\n"
        "ffffffff81000040 t helper\n"
        "                 U undefined\n"
        "ffffffff82000000 D data\n"
    )
    symbols = Symbols.load(path)
    assert symbols.at(0xFFFF_FFFF_8100_0044) == "helper+0x4"
    assert symbols.at(0xFFFF_FFFF_8100_0010) == "_text+0x10"
    assert symbols.at(0x10) is None
    assert symbols.at(0xFFFF_FFFF_9200_0000) is None  # too far behind the last one
    assert symbols.find("data") == 0xFFFF_FFFF_8200_0000
    assert symbols.find("undefined") is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither an ELF file nor lines"),
        (b"hello\n", "neither an ELF file nor lines"),
        (b"\x7fELF", "malformed ELF"),
        (make_elf([]), "no symbols are in it; was it stripped?"),
        (make_elf(KERNEL)[:5] + b"\2" + make_elf(KERNEL)[6:], "big-endian"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(data, words):
    with pytest.raises(SymbolError, match=r"^image: ") as caught:
        Symbols.load(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_shown_on_terminals():
    evil = "a\x1b[2Jb\x7f\N{RIGHT-TO-LEFT OVERRIDE}c"
    assert Symbols.load(make_elf([(evil, TEXT, 0, GLOBAL_LABEL, 1)])).at(TEXT) == "a?[2Jb??c"
    assert Symbols.load(f"{TEXT:x} T {evil}\n".encode()).at(TEXT) == "a?[2Jb??c"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SymbolError, match="nowhere: No such file"):
        Symbols.load(tmp_path / "nowhere")
    with pytest.raises(SymbolError, match="directory"):
        Symbols.load(tmp_path)


GOOD = make_elf(KERNEL)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_file_makes_it_fail_in_another_way(data):
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.sampled_from([0, 0xFF, 1, 0x80, 2]))
    cut = data.draw(st.integers(0, len(broken)))
    for source in (bytes(broken), bytes(broken[:cut])):
        with contextlib.suppress(SymbolError):
            symbols = Symbols.load(source)
            for address in (0, TEXT + 0x21, (1 << 64) - 1):
                assert symbols.at(address) is None or symbols.at(address)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(0, (1 << 64) - 1))
def test_no_list_makes_it_fail_in_another_way(noise, address):
    assume(not noise.startswith(b"\x7fELF"))  # that is no list
    symbols = Symbols.load(noise + b"\n1000 T start\n" + noise)
    assert symbols.find("start") == 0x1000
    symbols.at(address)


def test_huge_counts_of_sections_are_bounded():
    """Headers that all lie at one place, and 64,000 of them."""
    broken = bytearray(GOOD)
    struct.pack_into("<HH", broken, 0x3A, 0, 0xFF00)  # e_shentsize, e_shnum
    with pytest.raises(SymbolError):
        Symbols.load(bytes(broken))
