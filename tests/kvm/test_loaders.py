"""Images of every format, booted as `vmm run` boots them, say what they were handed.

The images are built here byte by byte, so that no assembler is needed; those that a linker made
come last.
"""

from __future__ import annotations

import struct
import subprocess
from shutil import which

import pytest

import vmm

pytestmark = pytest.mark.kvm

LOAD = 0x10_0000

# Print the string at (E/R)SI on port 0xE9; the same bytes in 32- and 64-bit mode.
PUTS = "ac 84c0 7404 e6e9 ebf7"  # next: lodsb; test al, al; jz end; out 0xE9, al; jmp next

# EAX is the magic; print the string that the info at EBX has at 16 (the command line), then of
# its modules (24) the first one's string (8) and data (0).
MULTIBOOT1 = (
    "3d02b0ad2b 7522 bc00001800 89dd"
    "8b7510 e815000000 8b5518 8b7208 e80a000000 8b32 e803000000 f4 0f0b" + PUTS + "c3"
)
# EAX is the magic; look for the tag of type 1 (the command line) behind EBX and print it.
MULTIBOOT2 = (
    "3d8962d736 7522 8d7308 833e01 740d 8b4e04 83c107 83e1f8 01ce ebee 83c608" + PUTS + "f4 0f0b"
)
PRINT_RDI_64 = "4889fe 50" + PUTS + "f4"  # mov rsi, rdi; push rax; puts; hlt
PRINT_EDI_32 = "89fe 50" + PUTS + "f4"


def elf(bits, code, *, kind=2, vaddr=LOAD, paddr=None, entry=None):
    """An executable of one segment: its header, the code at offset 0x1000."""
    code = bytes.fromhex(code) if isinstance(code, str) else code
    entry = vaddr if entry is None else entry
    paddr = vaddr if paddr is None else paddr
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    size = len(code)
    if bits == 64:
        rest = struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        table = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, vaddr, paddr, size, size + 64, 0x1000)
    else:
        rest = struct.pack("<HHIIIIIHHHHHH", kind, 3, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        table = struct.pack("<8I", 1, 0x1000, vaddr, paddr, size, size + 64, 7, 0x1000)
    return (ident + rest + table).ljust(0x1000, b"\0") + code


@pytest.fixture
def said(boot, tmp_path):
    """Boot an image from a file; returns the machine, what it printed and its result."""

    def run(image, *, name="image", **options):
        path = tmp_path / name
        path.write_bytes(image)
        machine = boot(str(path), **{"memory": "4M", "irqchip": False} | options)
        result = machine.run(timeout=30)
        assert result.reason == "halt", result.report()
        return machine, machine.console.text

    return run


# -- flat -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "width"), [("flat16", 2), ("flat32", 4), ("flat64", 8)], ids=["16", "32", "64"]
)
def test_flat(said, format, width):
    # mov al, 'A'; out 0xE9, al; push rax; hlt
    machine, text = said(bytes.fromhex("b041 e6e9 50 f4"), format=format)
    assert text == "A"
    at = 0x7C00 if format == "flat16" else LOAD
    assert machine.regs.rip == at + 6
    assert machine.regs.rsp == machine.plan.start.registers.get("rsp", at) - width


def test_flat_at_an_address_of_the_users(said):
    code = bytes.fromhex("b044 e6e9 f4")
    machine, text = said(code, format="flat16", load_addr=0x2_0000)
    assert text == "D"
    assert machine.memory.read(0x2_0000, len(code)) == code


def test_flat_entered_behind_its_start(said):
    _, text = said(bytes.fromhex("0f0b b045 e6e9 f4"), format="flat64", entry=LOAD + 2)
    assert text == "E"


def test_flat_in_ring_3(boot, tmp_path):
    path = tmp_path / "code.bin"
    path.write_bytes(bytes.fromhex("b046 e6e9 b001 e6f4 ebfe"))
    machine = boot(str(path), format="flat64", cpl=3, memory="4M")
    assert machine.run(timeout=30).value == 1
    assert (machine.console.text, machine.sregs.cs.dpl) == ("F", 3)


# -- ELF --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "code"), [(64, PRINT_RDI_64), (32, PRINT_EDI_32)])
def test_elf(said, bits, code):
    machine, text = said(elf(bits, code), append="a command line")
    assert (machine.plan.format, text) == (f"elf{bits}", "a command line")
    assert bool(machine.sregs.efer & 1 << 10) == (bits == 64)


def test_elf_where_nothing_is_appended(said):
    machine, text = said(elf(64, "f4"))
    assert (machine.regs.rdi, text) == (0, "")


def test_a_position_independent_elf_goes_where_it_is_told(said):
    machine, text = said(
        elf(64, PRINT_RDI_64, kind=3, vaddr=0), append="anywhere", load_addr=0x2_0000
    )
    assert text == "anywhere"
    assert 0x2_0000 <= machine.regs.rip < 0x2_1000


def test_a_higher_half_elf_is_entered_at_its_physical_address(said):
    """It is linked for the top of the address space and brings its own page tables later."""
    image = elf(64, PRINT_RDI_64, vaddr=0xFFFF_FFFF_8010_0000, paddr=LOAD)
    machine, text = said(image, append="upstairs")
    assert text == "upstairs"
    assert LOAD <= machine.regs.rip < LOAD + 0x1000


def test_the_bss_of_an_elf_is_zero(said):
    code = bytes.fromhex("8a042500011000 e6e9 f4").ljust(0x100, b"\x90")  # mov al, [0x100100]
    machine, _ = said(elf(64, code))
    assert machine.regs.rax & 0xFF == 0
    assert machine.memory.read(LOAD + 0x100, 64) == bytes(64)


# -- multiboot --------------------------------------------------------------------------------


def test_multiboot_1(said, tmp_path):
    header = struct.pack("<III", 0x1BADB002, 3, -(0x1BADB002 + 3) & 0xFFFFFFFF)
    (tmp_path / "module").write_bytes(b"its data\0")
    machine, text = said(
        elf(32, header + bytes.fromhex(MULTIBOOT1), entry=LOAD + 12),
        append="the line ",
        modules=[f"{tmp_path / 'module'} its string "],
    )
    assert machine.plan.format == "multiboot"
    assert text == "the line its stringits data"


@pytest.mark.parametrize("bits", [32, 64])
def test_multiboot_2(said, bits):
    header = struct.pack("<IIII", 0xE85250D6, 0, 24, -(0xE85250D6 + 24) & 0xFFFFFFFF)
    header += struct.pack("<HHI", 0, 0, 8)
    image = elf(bits, header + bytes.fromhex(MULTIBOOT2), entry=LOAD + 24)
    machine, text = said(image, append="the second line")
    assert machine.plan.format == "multiboot2"
    assert "the second line" in text
    # Whatever the file's class, it starts in protected mode.
    assert machine.sregs.efer == 0


# -- firmware and boot sectors ----------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 256])
def test_firmware_starts_at_the_reset_vector(said, size):
    rom = bytearray(b"\xff" * (size << 10))
    rom[-16:-11] = bytes.fromhex("ea5be000f0")  # jmp 0xF000:0xE05B
    rom[-0x10000 + 0xE05B : -0x10000 + 0xE060] = bytes.fromhex("b045 e6e9 f4")
    machine, text = said(bytes(rom), name="bios.bin", format="firmware")
    assert text == "E"
    assert machine.memory.read((1 << 32) - 16, 5) == rom[-16:-11]


def test_firmware_is_seen_twice(said):
    """Below 4 GiB, and its last 64 KiB below 1 MiB, where the jump leads."""
    rom = bytearray(b"\xff" * 0x10000)
    rom[-16:-11] = bytes.fromhex("ea00e000f0")
    # mov al, cs:[0xE010]; out 0xE9, al; hlt
    rom[0xE000:0xE007] = bytes.fromhex("2ea010e0 e6e9 f4")
    rom[0xE010] = ord("Q")
    assert said(bytes(rom), format="firmware")[1] == "Q"


def test_a_boot_sector(said):
    code = bytes.fromhex("88d0 e6e9 b8420e cd10 f4")  # DL to 0xE9; teletype 'B'; hlt
    machine, _ = said(code.ljust(510, b"\0") + b"\x55\xaa")
    assert machine.plan.format == "bootsector"
    assert machine.console.output == b"\x80B"


# -- what cannot be booted --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (b"", {}, "empty"),
        (b"\0" * 100, {}, "format"),
        (b"\x7fELF", {}, "image"),
        (b"\0" * (5 << 20), {"format": "flat64"}, "memory"),
        (b"\xf4", {"format": "flat16", "append": "x"}, "append"),
        (b"\xf4", {"format": "nonsense"}, "nonsense"),
        (b"\xf4", {"format": "flat64", "load_addr": 1 << 40}, "memory"),
        (b"\xf4", {"format": "flat64", "memory": "16K"}, "memory"),
    ],
    ids=[
        *("empty", "of no format", "cut short", "too large"),
        *("append to flat", "a format that is none", "out of reach", "memory too small"),
    ],
)
def test_it_says_so_in_one_line(tmp_path, image, options, words):
    path = tmp_path / "image"
    path.write_bytes(image)
    with pytest.raises(vmm.VmmError, match=words) as caught:
        vmm.boot(str(path), **{"memory": "4M"} | options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(vmm.BootError, match="nowhere"):
        vmm.boot(str(tmp_path / "nowhere"))


def test_a_payload_that_is_nearly_there():
    with pytest.raises(vmm.BootError, match="payload:hello64"):
        vmm.boot("payload:hello46")


# -- what a linker makes ----------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path):
    """Assemble and link a program."""
    if which("as") is None or which("ld") is None:
        pytest.skip("needs as and ld (package binutils)")

    def make(source, bits, *arguments):
        (tmp_path / "a.S").write_text(".globl _start\n" + source)
        emulation = {32: "elf_i386", 64: "elf_x86_64"}[bits]
        for command in (
            ["as", f"--{bits}", "-o", "a.o", "a.S"],
            ["ld", "-m", emulation, *arguments, "-o", "a", "a.o"],
        ):
            subprocess.run(command, cwd=tmp_path, check=True)
        return (tmp_path / "a").read_bytes()

    return make


@pytest.mark.parametrize(
    "arguments", [["-Ttext=0x100000"], ["-N", "-Ttext=0x100000"], ["-pie", "--no-dynamic-linker"]]
)
def test_a_linked_elf(said, linked, arguments):
    source = """
    .text
    _start: mov %rdi, %rsi
    1: lodsb; test %al, %al; jz 2f; outb %al, $0xe9; jmp 1b
    2: mov zeros(%rip), %rax; hlt
    .bss
    zeros: .skip 4096
    """
    machine, text = said(linked(source, 64, *arguments), append="linked")
    assert (text, machine.regs.rax) == ("linked", 0)


def test_bytes_are_booted_as_a_file_is(boot):
    teletype = bytes.fromhex("b8410e cd10 f4")  # mov ax, 0x0E41; int 0x10; hlt
    machine = boot(teletype.ljust(510, b"\0") + b"\x55\xaa")
    assert machine.run(timeout=60).reason == "halt"
    assert machine.console.text == "A"
