"""The ROM's bytes, read as a program and as a processor would read them."""

from __future__ import annotations

import struct

import capstone
import pytest

from firmware.bios_data import build_data_area, equipment_word
from firmware.bios_rom import DriveGeometry, build_rom, build_vectors, vector_at

ROM = build_rom([DriveGeometry(1000, 16, 63), DriveGeometry(2000, 255, 63)])
VECTORS = build_vectors()


def vector(number: int) -> tuple[int, int]:
    offset, segment = struct.unpack_from("<HH", VECTORS, 4 * number)
    return segment, offset


def disassemble(number: int) -> list[str]:
    offset = vector(number)[1]
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    lines = []
    for instruction in engine.disasm(ROM[offset : offset + 32], offset):
        lines.append(f"{instruction.mnemonic} {instruction.op_str}".strip())
        if instruction.mnemonic == "iret" and number not in (0x10, 0x13):
            break
        if instruction.mnemonic == "jmp":
            break
    return lines


def test_sizes_and_checksum():
    assert len(ROM) == 65536
    assert len(VECTORS) == 1024
    assert sum(ROM) % 256 == 0


def test_every_vector_leads_into_the_rom():
    assert {vector(n)[0] for n in range(256)} == {0xF000}
    data = {0x1D, 0x1E, 0x1F, 0x41, 0x43, 0x46}
    for number in set(range(256)) - data:
        assert vector_at(0xF0000 + vector(number)[1]) == number


def test_the_vector_follows_from_any_address_in_a_stub():
    assert vector_at(0xF8000) == 0
    assert vector_at(0xF8000 + 32 * 0x13 + 3) == 0x13
    assert vector_at(0xF8000 + 32 * 256 - 1) == 0xFF
    assert vector_at(0xF7FFF) is None
    assert vector_at(0xFA000) is None


def test_a_service_stub_traps_returns_or_traps_again():
    start = vector(0x13)[1]
    assert disassemble(0x13) == [
        "clc",
        "out 0xba, al",
        f"jb {start + 6:#x}",
        "iret",
        "sti",
        f"jmp {start + 1:#x}",
    ]


def test_the_timer_calls_the_hook_and_ends_the_interrupt():
    assert disassemble(0x08) == [
        "push ax",
        "clc",
        "out 0xba, al",
        "int 0x1c",
        "mov al, 0x20",
        "out 0x20, al",
        "pop ax",
        "iret",
    ]


def test_the_keyboard_interrupt_reads_the_controller():
    assert disassemble(0x09)[1:4] == ["in al, 0x60", "clc", "out 0xba, al"]


@pytest.mark.parametrize("number", range(0x0A, 0x10))
def test_shared_vectors_ask_the_interrupt_controller(number):
    lines = disassemble(number)
    assert lines[1:5] == ["mov al, 0xb", "out 0x20, al", "in al, 0x20", "clc"]
    jump = next(line for line in lines if line.startswith("jb"))
    target = int(jump.split()[1], 16)
    assert ROM[target : target + 2] == b"\x58\xcf"  # pop ax; iret


@pytest.mark.parametrize("number", range(0x70, 0x78))
def test_second_controllers_interrupts_are_ended_on_both(number):
    lines = disassemble(number)
    assert lines[-5:] == ["mov al, 0x20", "out 0xa0, al", "out 0x20, al", "pop ax", "iret"]


@pytest.mark.parametrize("number", [0x03, 0x05, 0x1B, 0x1C, 0x4A])
def test_hooks_return_at_once(number):
    assert disassemble(number) == ["iret"]


def test_reset_ends_in_the_reboot_stub():
    opcode, entry, segment = struct.unpack_from("<BHH", ROM, 0xFFF0)
    assert (opcode, segment) == (0xEA, 0xF000)
    opcode, target, segment = struct.unpack_from("<BHH", ROM, entry)
    assert (opcode, segment) == (0xEA, 0xF000)
    assert target == vector(0x19)[1]


def test_date_and_model():
    month, day, year = ROM[0xFFF5:0xFFFD].decode("ascii").split("/")
    assert 1 <= int(month) <= 12
    assert 1 <= int(day) <= 31
    assert year.isdigit()
    assert ROM[0xFFFE] == 0xFC


def test_data_vectors():
    floppy = ROM[vector(0x1E)[1] :][:11]
    assert (floppy[3], floppy[4], floppy[8]) == (2, 18, 0xF6)
    for number, (cylinders, heads) in ((0x41, (1000, 16)), (0x46, (1024, 255))):
        table = ROM[vector(number)[1] :][:16]
        assert struct.unpack_from("<HB", table) == (cylinders, heads)
        assert table[8] & 0x08
        assert table[14] == 63
    assert vector(0x1F)[1] - vector(0x43)[1] == 128 * 8


def test_data_area():
    area = build_data_area(memory_kib=639, floppies=2, hard_disks=3, ticks=0x123456)
    assert len(area) == 256
    at = struct.unpack_from
    assert at("<H", area, 0x00) == (0x3F8,)
    assert at("<H", area, 0x0E) == (0x9FC0,)
    assert at("<H", area, 0x10)[0] & 0xC1 == 0x41
    assert at("<H", area, 0x13) == (639,)
    assert at("<HH", area, 0x1A) == (0x1E, 0x1E)
    assert (area[0x49], at("<H", area, 0x4A)[0], area[0x84]) == (3, 80, 24)
    assert at("<H", area, 0x63) == (0x3D4,)
    assert at("<I", area, 0x6C) == (0x123456,)
    assert area[0x75] == 3
    assert at("<HH", area, 0x80) == (0x1E, 0x3E)


def test_equipment_without_floppies():
    assert equipment_word(floppies=0, serial_ports=2) == 0x0422
