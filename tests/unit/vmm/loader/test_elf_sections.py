from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from vmm.loader.elf import parse
from vmm.loader.elf_sections import SectionHeaders, place_sections
from vmm.loader.placement import Placement
from vmm.loader.plan import BootOptions

Options = Callable[..., BootOptions]
MIB = 1 << 20
KERNEL = """
    .globl _start, a_symbol_to_find
    .text
_start: hlt
a_symbol_to_find: hlt
"""


def place(image: bytes, options: BootOptions) -> tuple[SectionHeaders | None, Placement]:
    placement = Placement(options, start_tables=True)
    view = memoryview(image)
    return place_sections(parse(view, "k"), view, placement, prefer=2 * MIB), placement


@pytest.mark.parametrize("bits", [32, 64])
def test_symbols_are_found_through_the_headers(
    options: Options, build: Callable[..., bytes], bits: int
) -> None:
    elffile = pytest.importorskip("elftools.elf.elffile")
    image = build(KERNEL, "-Ttext=0x100000", bits=bits)
    headers, placement = place(image, options())
    assert headers is not None
    assert headers.entry_size == {32: 40, 64: 64}[bits]
    assert len(headers.table) == headers.count * headers.entry_size

    # Put the file together again from what is in memory, and let pyelftools read it.
    writes = {w.gpa: bytes(w.data) for w in placement.writes}
    original = elffile.ELFFile(io.BytesIO(image))
    moved = 0
    for index, section in enumerate(original.iter_sections()):
        at = index * headers.entry_size + {32: 12, 64: 16}[bits]
        address = int.from_bytes(headers.table[at : at + bits // 8], "little")
        if section.name in (".symtab", ".strtab", ".shstrtab"):
            assert writes[address] == section.data()
            assert address >= 2 * MIB
            moved += 1
        else:
            assert address == section["sh_addr"]
    assert moved == 3
    assert b"a_symbol_to_find" in b"".join(writes.values())
    assert original.get_section(headers.names_index).name == ".shstrtab"


def test_left_out_where_malformed_or_too_large(
    options: Options, build: Callable[..., bytes], make_elf: Callable[..., bytes]
) -> None:
    image = build(KERNEL, "-Ttext=0x100000")
    assert place(make_elf([(MIB, MIB, b"x", 1)]), options())[0] is None
    offset, count = slice(0x28, 0x30), 0x3C
    broken = bytearray(image)
    broken[offset] = (1 << 63).to_bytes(8, "little")
    assert place(bytes(broken), options())[0] is None
    broken = bytearray(image)
    broken[count : count + 2] = b"\xff\xff"
    assert place(bytes(broken), options())[0] is None
    found, placement = place(image, options(32768 + 4096))
    assert found is None
    assert not placement.writes
