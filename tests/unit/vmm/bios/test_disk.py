"""INT 13h. Status codes and structures are written out anew from the specification."""

from __future__ import annotations

import struct

BUFFER = 0x9000


def sector(number: int) -> bytes:
    return number.to_bytes(4, "little") * 128


def packet(pc, count, offset, segment, lba, size=16, flat=0):
    pc.memory.write(0x600, struct.pack("<BBHHHQQ", size, 0, count, offset, segment, lba, flat))


def test_chs_read_takes_cylinder_head_and_sector_from_the_geometry(pc):
    # 4096 sectors: 16 heads, 63 sectors. Cylinder 2, head 3, sector 5.
    answer = pc.call(0x13, 0x0202, bx=BUFFER, cx=0x0205, dx=0x0380)
    assert (answer.ah, answer.al, answer.carry) == (0, 2, False)
    first = (2 * 16 + 3) * 63 + 4
    assert pc.memory.read(BUFFER, 1024) == sector(first) + sector(first + 1)


def test_cylinder_bits_8_and_9_come_from_cl(make_pc):
    pc = make_pc()
    pc.disk.__init__(16 * 63 * 300)
    answer = pc.call(0x13, 0x0201, bx=BUFFER, cx=0x2C41, dx=0x0080)  # cylinder 0x12C = 300
    assert (answer.ah, answer.carry) == (0x04, True)  # there are 300: 0 to 299
    pc.call(0x13, 0x0201, bx=BUFFER, cx=0x2B41, dx=0x0080)
    assert pc.memory.read(BUFFER, 512) == sector(299 * 16 * 63)


def test_floppy_read_uses_the_floppy_geometry(pc):
    pc.call(0x13, 0x0201, bx=BUFFER, cx=0x0102, dx=0x0100)
    assert pc.memory.read(BUFFER, 512) == sector((1 * 2 + 1) * 18 + 1)


def test_read_goes_through_es(pc):
    pc.call(0x13, 0x0201, bx=0x10, cx=0x0001, dx=0x0080, es=0x0A00)
    assert pc.memory.read(0xA010, 512) == sector(0)


def test_write_reaches_the_disk(pc):
    pc.memory.write(BUFFER, b"\xa5" * 512)
    answer = pc.call(0x13, 0x0301, bx=BUFFER, cx=0x0002, dx=0x0080)
    assert (answer.ah, answer.carry) == (0, False)
    assert pc.disk.data[512:1024] == b"\xa5" * 512
    assert pc.disk.read(2, 1) == sector(2)


def test_write_to_a_read_only_disk_is_write_protected(pc):
    pc.disk.read_only = True
    answer = pc.call(0x13, 0x0301, bx=BUFFER, cx=0x0002, dx=0x0080)
    assert (answer.ah, answer.al, answer.carry) == (0x03, 0, True)
    assert pc.disk.read(1, 1) == sector(1)


def test_status_is_kept_in_the_data_area(pc):
    pc.call(0x13, 0x0201, bx=BUFFER, cx=0x0000, dx=0x0080)  # there is no sector 0
    assert pc.memory.word(0x474, 1) == 0x04
    assert pc.memory.word(0x441, 1) == 0x00
    answer = pc.call(0x13, 0x0100, dx=0x0080)
    assert (answer.ah, answer.carry) == (0x04, True)
    pc.call(0x13, 0x0000, dx=0x0080)
    assert pc.memory.word(0x474, 1) == 0x00
    pc.call(0x13, 0x0201, bx=BUFFER, cx=0x0013, dx=0x0000)  # sector 19 of 18
    assert pc.memory.word(0x441, 1) == 0x04


def test_reading_past_the_end_fails_and_is_noted(pc):
    pc.disk.sectors = 10
    answer = pc.call(0x13, 0x0205, bx=BUFFER, cx=0x0008, dx=0x0080)
    assert (answer.ah, answer.carry) == (0x04, True)
    assert "past the end" in pc.bios.notes[0]
    assert pc.memory.read(BUFFER, 8) == bytes(8)


def test_a_count_of_zero_or_above_128_is_invalid(pc):
    for count in (0, 129, 255):
        answer = pc.call(0x13, 0x0200 | count, bx=BUFFER, cx=0x0001, dx=0x0080)
        assert (answer.ah, answer.carry) == (0x01, True)


def test_a_buffer_outside_of_memory_fails(pc):
    pc.sregs.es.base = 0x7FFF_FF00
    answer = pc.call(0x13, 0x0201, bx=0, cx=0x0001, dx=0x0080)
    assert (answer.ah, answer.carry) == (0x09, True)


def test_a_failing_backend_is_a_controller_failure(pc):
    pc.disk.broken = True
    answer = pc.call(0x13, 0x0201, bx=BUFFER, cx=0x0001, dx=0x0080)
    assert (answer.ah, answer.carry) == (0x20, True)
    assert "Input/output error" in pc.bios.notes[0]


def test_verify_moves_nothing(pc):
    answer = pc.call(0x13, 0x0401, bx=BUFFER, cx=0x0005, dx=0x0080)
    assert (answer.ah, answer.carry) == (0, False)
    assert pc.memory.read(BUFFER, 512) == bytes(512)


def test_absent_drives(pc):
    for function in (0x00, 0x02, 0x08, 0x41, 0x42, 0x48):
        answer = pc.call(0x13, function << 8 | 1, bx=0x55AA, cx=1, dx=0x0081)
        assert (answer.ah, answer.carry) == (0x01, True), hex(function)
    assert pc.call(0x13, 0x1500, dx=0x0081).ah == 0
    assert not pc.call(0x13, 0x1500, dx=0x0081).carry


def test_parameters_of_a_hard_disk(pc):
    answer = pc.call(0x13, 0x0800, dx=0x0080)
    cylinders = 4096 // (16 * 63)
    assert answer.ch == cylinders - 1
    assert answer.cl == 63
    assert (answer.dh, answer.dl) == (15, 1)
    assert (answer.ah, answer.carry) == (0, False)


def test_parameters_of_a_floppy(pc):
    answer = pc.call(0x13, 0x0800, dx=0x0000)
    assert (answer.ch, answer.cl, answer.dh, answer.dl, answer.bl) == (79, 18, 1, 1, 0x04)
    table = (answer.sregs.es.selector << 4) + answer.di
    assert pc.memory.read(table + 3, 2) == b"\x02\x12"  # 512 bytes a sector, 18 a track


def test_drive_types(pc):
    answer = pc.call(0x13, 0x1500, dx=0x0080)
    assert (answer.ah, answer.cx, answer.dx) == (0x03, 0, 4096)
    assert pc.call(0x13, 0x1500, dx=0x0000).ah == 0x01
    assert pc.memory.word(0x474, 1) == 0


def test_extensions_are_there_for_hard_disks_only(pc):
    answer = pc.call(0x13, 0x4100, bx=0x55AA, dx=0x0080)
    assert (answer.bx, answer.ah, answer.cx & 1, answer.carry) == (0xAA55, 0x21, 1, False)
    assert pc.call(0x13, 0x4100, bx=0x55AA, dx=0x0000).carry
    assert pc.call(0x13, 0x4100, bx=0x1234, dx=0x0080).carry


def test_extended_read(pc):
    packet(pc, 3, 0x0010, 0x0900, 4000)
    answer = pc.call(0x13, 0x4200, si=0x600, dx=0x0080)
    assert (answer.ah, answer.carry) == (0, False)
    assert pc.memory.read(0x9010, 1536) == sector(4000) + sector(4001) + sector(4002)
    assert pc.memory.word(0x602) == 3


def test_extended_read_to_a_flat_address(pc):
    packet(pc, 1, 0xFFFF, 0xFFFF, 7, size=24, flat=0x12_0000)
    assert pc.call(0x13, 0x4200, si=0x600, dx=0x0080).ah == 0
    assert pc.memory.read(0x12_0000, 512) == sector(7)


def test_extended_write_and_verify(pc):
    pc.memory.write(BUFFER, b"\x5a" * 512)
    packet(pc, 1, BUFFER, 0, 9)
    assert not pc.call(0x13, 0x4300, si=0x600, dx=0x0080).carry
    assert pc.disk.read(9, 1) == b"\x5a" * 512
    assert not pc.call(0x13, 0x4400, si=0x600, dx=0x0080).carry


def test_a_failed_extended_read_says_that_nothing_was_moved(pc):
    packet(pc, 2, BUFFER, 0, 4095)
    answer = pc.call(0x13, 0x4200, si=0x600, dx=0x0080)
    assert (answer.ah, answer.carry) == (0x04, True)
    assert pc.memory.word(0x602) == 0
    packet(pc, 1, BUFFER, 0, 1 << 63)
    assert pc.call(0x13, 0x4200, si=0x600, dx=0x0080).ah == 0x04


def test_malformed_packets_are_invalid(pc):
    packet(pc, 1, BUFFER, 0, 0, size=15)
    assert pc.call(0x13, 0x4200, si=0x600, dx=0x0080).ah == 0x01
    packet(pc, 2049, BUFFER, 0, 0)
    assert pc.call(0x13, 0x4200, si=0x600, dx=0x0080).ah == 0x01
    packet(pc, 1, 0xFFFF, 0xFFFF, 0, size=24, flat=(1 << 64) - 1)
    assert pc.call(0x13, 0x4200, si=0x600, dx=0x0080).ah == 0x09


def test_extended_parameters(pc):
    pc.memory.write(0x600, struct.pack("<H", 0x1A) + b"\xee" * 40)
    assert pc.call(0x13, 0x4800, si=0x600, dx=0x0080).ah == 0
    fields = struct.unpack("<HHIIIQH", pc.memory.read(0x600, 26))
    assert fields == (26, 3, 4, 16, 63, 4096, 512)
    assert pc.memory.read(0x61A, 4) == b"\xee" * 4
    pc.memory.write(0x600, struct.pack("<H", 0x42))
    pc.call(0x13, 0x4800, si=0x600, dx=0x0080)
    assert pc.memory.word(0x600) == 30
    assert pc.memory.read(0x61A, 5) == b"\xff" * 4 + b"\xee"
    pc.memory.write(0x600, struct.pack("<H", 0x19))
    assert pc.call(0x13, 0x4800, si=0x600, dx=0x0080).ah == 0x01


def test_what_is_missing_fails_and_is_counted(pc):
    answer = pc.call(0x13, 0x0512, dx=0x0080)  # format
    assert (answer.ah, answer.carry) == (0x01, True)
    assert pc.bios.missing == {(0x13, 0x0512): 1}
    # Loaders ask for CD emulation as a matter of course: a plain no.
    assert pc.call(0x13, 0x4B01, dx=0x0080).carry
    assert len(pc.bios.missing) == 1
