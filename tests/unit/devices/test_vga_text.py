from __future__ import annotations

import dataclasses

import pytest

from devices import StateError
from devices.vga_text import BASE, PORTS, VgaText

CRTC_INDEX, CRTC_DATA, STATUS_1 = 0x3D4, 0x3D5, 0x3DA
ATTRIBUTE, ATTRIBUTE_READ = 0x3C0, 0x3C1
MISC_WRITE, MISC_READ = 0x3C2, 0x3CC
DAC_STATE, DAC_READ, DAC_WRITE, DAC_DATA = 0x3C7, 0x3C7, 0x3C8, 0x3C9
LINE_NS, FRAME_NS = 31_778, 449 * 31_778


class Vga:
    """The adapter by port numbers, with a clock to turn."""

    def __init__(self):
        self.now = 0
        self.device = VgaText(clock=lambda: self.now)

    def inb(self, port):
        return self.device.read(port - BASE, 1)

    def outb(self, port, value):
        self.device.write(port - BASE, 1, value)

    def outw(self, port, value):
        self.device.write(port - BASE, 2, value)

    def indexed(self, port, index):
        self.outb(port, index)
        return self.inb(port + 1)


@pytest.fixture
def vga():
    return Vga()


def test_it_starts_in_mode_3(vga):
    crtc = [vga.indexed(CRTC_INDEX, n) for n in range(25)]
    assert bytes(crtc).hex(" ") == (
        "5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff"
    )
    assert [vga.indexed(0x3C4, n) for n in range(5)] == [3, 0, 3, 0, 2]
    assert [vga.indexed(0x3CE, n) for n in range(9)] == [0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF]
    assert vga.inb(MISC_READ) == 0x67
    assert (vga.device.columns, vga.device.start, vga.device.cursor) == (80, 0, 0)
    assert vga.device.blinks


def test_the_ports_are_all_inside_and_leave_the_printer_alone():
    ports = {port for part in PORTS for port in part}
    assert {0x3B4, 0x3B5, 0x3BA, 0x3C0, 0x3CF, 0x3D4, 0x3D5, 0x3DA} <= ports
    assert not ports & set(range(0x3BC, 0x3C0))


def test_a_cursor_move_by_bytes_and_by_words(vga):
    vga.outb(CRTC_INDEX, 0x0E)
    vga.outb(CRTC_DATA, 0x01)
    vga.outb(CRTC_INDEX, 0x0F)
    vga.outb(CRTC_DATA, 0x41)
    assert vga.device.cursor == 0x141
    vga.outw(CRTC_INDEX, 0x070E)
    vga.outw(CRTC_INDEX, 0xCF0F)
    assert vga.device.cursor == 0x7CF
    assert vga.indexed(CRTC_INDEX, 0x0E) == 0x07
    assert vga.indexed(CRTC_INDEX, 0x0F) == 0xCF


def test_the_cursor_can_be_switched_off(vga):
    vga.outw(CRTC_INDEX, 0x200A)
    assert vga.device.cursor is None
    vga.outw(CRTC_INDEX, 0x0F0A)  # begins below its end
    assert vga.device.cursor is None
    vga.outw(CRTC_INDEX, 0x0D0A)
    assert vga.device.cursor == 0


def test_the_start_address(vga):
    vga.outw(CRTC_INDEX, 0x080C)
    vga.outw(CRTC_INDEX, 0x500D)
    assert vga.device.start == 0x850


def test_an_index_behind_the_last_register_answers_nothing(vga):
    before = vga.device.save()
    vga.outw(CRTC_INDEX, 0x5519)
    assert vga.inb(CRTC_DATA) == 0xFF
    assert vga.device.save() == dataclasses.replace(before, crtc_index=0x19)


def test_the_flip_flop_of_the_attribute_controller(vga):
    vga.inb(STATUS_1)
    vga.outb(ATTRIBUTE, 0x30)
    vga.outb(ATTRIBUTE, 0x04)  # mode control: bit 7 is a bright background
    assert vga.inb(ATTRIBUTE) == 0x30
    assert vga.inb(ATTRIBUTE_READ) == 0x04
    assert not vga.device.blinks
    vga.outb(ATTRIBUTE, 0x31)
    vga.inb(STATUS_1)  # back to an index
    vga.outb(ATTRIBUTE, 0x30)
    assert vga.inb(ATTRIBUTE_READ) == 0x04
    vga.outb(ATTRIBUTE, 0x0C)
    assert vga.device.blinks


def test_both_retrace_bits_come_and_go(vga):
    seen = []
    for vga.now in range(0, FRAME_NS, 1000):
        seen.append(vga.inb(STATUS_1))
    assert set(seen) == {0x00, 0x01, 0x09}
    # 49 of 449 lines are vertical blanking; a fifth of the others is horizontal blanking.
    assert seen.count(0x09) == pytest.approx(49 * LINE_NS / 1000, abs=1)
    assert seen.count(0x01) == pytest.approx(400 * LINE_NS / 5000, rel=0.01)
    assert seen[-1] == 0x09


def test_a_retrace_wait_of_a_slow_guest_ends(vga):
    """A port read every 300 us: the wait for a retrace to begin meets each frame's."""
    waits = 0
    for _ in range(20):
        reads = 0
        while vga.inb(STATUS_1) & 8:
            vga.now += 300_000
        while not vga.inb(STATUS_1) & 8:
            vga.now += 300_000
            reads += 1
            assert reads < 50
        waits += 1
    assert waits == 20
    assert vga.now // FRAME_NS == pytest.approx(20, abs=1)


def test_the_palette(vga):
    vga.outb(DAC_READ, 7)
    assert vga.inb(DAC_STATE) == 3
    assert [vga.inb(DAC_DATA) for _ in range(6)] == [0x2A, 0x2A, 0x2A, 0, 0, 0x15]
    assert vga.inb(DAC_WRITE) == 9
    vga.outb(DAC_WRITE, 255)
    assert vga.inb(DAC_STATE) == 0
    for value in (0xFF, 2, 3, 4):
        vga.outb(DAC_DATA, value)
    vga.outb(DAC_READ, 255)
    assert [vga.inb(DAC_DATA) for _ in range(4)] == [0x3F, 2, 3, 4]


def test_the_palette_has_the_16_colors_of_text(vga):
    vga.inb(STATUS_1)
    colors = []
    for number in range(16):
        vga.inb(STATUS_1)
        vga.outb(ATTRIBUTE, number)
        vga.outb(DAC_READ, vga.inb(ATTRIBUTE_READ))
        colors.append(tuple(vga.inb(DAC_DATA) for _ in range(3)))
    assert colors[4] == (0x2A, 0, 0)
    assert colors[6] == (0x2A, 0x15, 0)  # brown
    assert colors[8] == (0x15, 0x15, 0x15)
    assert colors[15] == (0x3F, 0x3F, 0x3F)
    assert len(set(colors)) == 16


def test_miscellaneous_output_opens_the_monochrome_ports(vga):
    assert vga.indexed(0x3B4, 0x01) == 0xFF
    vga.outb(MISC_WRITE, 0x66)
    assert vga.inb(MISC_READ) == 0x66
    vga.outw(0x3B4, 0x340F)
    assert vga.device.cursor == 0x34
    assert vga.inb(CRTC_DATA) == 0x34
    vga.now = 420 * LINE_NS
    assert vga.inb(0x3BA) == 0x09
    vga.outb(0x3BA, 0x02)
    assert vga.inb(0x3CA) == 0x02


def test_a_bios_sets_the_crt_controller_without_its_index(vga):
    vga.outb(CRTC_INDEX, 0x0A)
    vga.device.set_crtc(0x0E, 0x02)
    vga.device.set_crtc(0x0F, 0x133)
    assert vga.device.cursor == 0x233
    assert vga.inb(CRTC_INDEX) == 0x0A


def test_states_that_cannot_be_are_refused(vga):
    state = vga.device.save()
    for wrong in ({"dac_color": 3}, {"crtc": b"short"}, {"sequencer_index": 8}):
        with pytest.raises(StateError):
            vga.device.load(dataclasses.replace(state, **wrong))
