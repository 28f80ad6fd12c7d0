"""INT 11h, 12h and 15h."""

from __future__ import annotations

import struct

import pytest

MIB = 1 << 20
SMAP = 0x534D4150


def memory_map(pc, di=0x5000):
    entries, index = [], 0
    for _ in range(32):
        answer = pc.call(0x15, 0xE820, bx=index, cx=20, dx=SMAP, di=di)
        assert not answer.carry
        assert (answer.eax, answer.ecx) == (SMAP, 20)
        entries.append(struct.unpack("<QQI", pc.memory.read(di, 20)))
        index = answer.ebx
        if index == 0:
            return entries
    pytest.fail("the map has no end")


def test_the_memory_map(pc):
    entries = memory_map(pc)
    assert (0, 0x9FC00, 1) in entries
    assert (0xF0000, 0x10000, 2) in entries
    assert (MIB, 63 * MIB, 1) in entries


def test_the_map_goes_on_above_4_gib(make_pc):
    entries = memory_map(make_pc(memory_size=5 << 30))
    assert entries[-1] == (1 << 32, 2 << 30, 1)


@pytest.mark.parametrize(
    "change",
    [{"dx": 0x50414D53}, {"cx": 19}, {"bx": 99}, {"es": 0xFFFF, "di": 0xFFFF}, {"bx": 0xFFFFFFFF}],
)
def test_wrong_questions_for_the_map(make_pc, change):
    pc = make_pc()
    pc.memory.data = pc.memory.data[:MIB]
    answer = pc.call(0x15, 0xE820, **({"bx": 0, "cx": 20, "dx": SMAP, "di": 0x5000} | change))
    assert (answer.carry, answer.ah) == (True, 0x86)


@pytest.mark.parametrize(
    ("size", "below_kib", "blocks", "kib88"),
    [
        (1 * MIB, 0, 0, 0),
        (4 * MIB, 3072, 0, 3072),
        (64 * MIB, 15360, 48 * 16, 64512),
        (1024 * MIB, 15360, 1008 * 16, 64512),
        (5120 * MIB, 15360, 3056 * 16, 64512),
    ],
)
def test_memory_sizes(make_pc, size, below_kib, blocks, kib88):
    pc = make_pc(memory_size=size)
    answer = pc.call(0x15, 0xE801)
    assert (answer.ax, answer.bx, answer.cx, answer.dx) == (below_kib, blocks, below_kib, blocks)
    assert not answer.carry
    assert pc.call(0x15, 0x8800).ax == kib88
    assert pc.call(0x12).ax == 639


def test_equipment(pc):
    word = pc.call(0x11).ax
    assert word & 0x0001  # a floppy
    assert word & 0x0030 == 0x20  # 80x25 colour
    assert word & 0x00C0 == 0  # one of them
    assert word >> 9 & 7 == 1  # one serial port


def test_a20(pc):
    assert pc.call(0x15, 0x2402).al == 1
    assert not pc.call(0x15, 0x2400).carry
    answer = pc.call(0x15, 0x2402)
    assert (answer.ah, answer.al) == (0, 0)
    pc.call(0x15, 0x2401)
    assert pc.host.a20.enabled
    assert pc.call(0x15, 0x2403).bx == 3


def test_wait_is_cut_into_short_pauses(pc):
    answer = pc.call(0x15, 0x8600, cx=0x0000, dx=50_000)  # 50 ms
    assert answer.waits
    pc.now_ns += 49_000_000
    assert pc.call(0x15, 0x8600, dx=50_000, repeat=True).waits
    pc.now_ns += 1_000_000
    answer = pc.call(0x15, 0x8600, dx=50_000, repeat=True)
    assert (answer.waits, answer.carry) == (False, False)
    assert pc.pauses == [0.02, 0.001]


def test_block_move(pc):
    pc.memory.write(0x10_0000, b"moved by words, twelve")
    table = bytes(16)
    table += struct.pack("<HHBBBB", 0xFFFF, 0, 0x10, 0x93, 0, 0)
    table += struct.pack("<HHBBBB", 0xFFFF, 0x0100, 0x18, 0x93, 0, 0)
    pc.memory.write(0x5000, table + bytes(16))
    answer = pc.call(0x15, 0x8700, cx=11, si=0x5000)
    assert (answer.ah, answer.carry) == (0, False)
    assert pc.memory.read(0x18_0100, 24) == b"moved by words, twelve\0\0"


def test_block_move_outside_of_memory_fails(pc):
    pc.memory.write(0x5000, bytes(16) + b"\xff" * 16 + bytes(16))
    answer = pc.call(0x15, 0x8700, cx=1, si=0x5000)
    assert (answer.ah, answer.carry) == (2, True)
    assert pc.call(0x15, 0x8700, cx=0x8001, si=0x5000).carry


def test_configuration_table(pc):
    answer = pc.call(0x15, 0xC000)
    table = (answer.sregs.es.selector << 4) + answer.bx
    assert pc.memory.read(table, 3) == b"\x08\x00\xfc"
    assert (answer.ah, answer.carry) == (0, False)


def test_extended_data_area(pc):
    answer = pc.call(0x15, 0xC100)
    assert answer.sregs.es.base == 0x9FC00
    assert pc.memory.word(0x40E) == 0x9FC0
    assert pc.memory.word(0x9FC00, 1) == 1


def test_power_off(pc):
    answer = pc.call(0x15, 0x5300, bx=0)
    assert (answer.ax, answer.bx, answer.carry) == (0x0102, 0x504D, False)
    assert pc.call(0x15, 0x5303).carry
    pc.call(0x15, 0x5307, bx=1, cx=2)
    assert pc.requests == []
    pc.call(0x15, 0x5307, bx=1, cx=3)
    assert pc.requests == ["poweroff"]


def test_the_keyboard_hook_lets_keys_pass(pc):
    answer = pc.call(0x15, 0x4F1E)
    assert (answer.carry, answer.al) == (True, 0x1E)
    assert pc.bios.missing == {}


def test_what_is_missing(pc):
    answer = pc.call(0x15, 0xC205)
    assert (answer.ah, answer.carry) == (0x86, True)
    assert pc.bios.missing == {(0x15, 0xC205): 1}
    assert pc.bios.notes == ["INT 15h AX=C205h: no such service"]
