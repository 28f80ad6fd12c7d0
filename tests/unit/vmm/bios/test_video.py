"""INT 10h: screen memory, cursor, and the text that reaches the console."""

from __future__ import annotations

import pytest

SCREEN = 0xB8000


def cell(pc, row, column, page=0):
    at = SCREEN + page * 0x1000 + (row * 80 + column) * 2
    return tuple(pc.memory.read(at, 2))


def say(pc, text: bytes) -> None:
    for code in text:
        pc.call(0x10, 0x0E00 | code, bx=0x0007)


def cursor(pc, page=0):
    return pc.memory.word(0x451 + 2 * page, 1), pc.memory.word(0x450 + 2 * page, 1)


def test_teletype_reaches_console_screen_and_cursor(pc):
    say(pc, b"Hi\r\nyou")
    assert pc.text == "Hi\r\nyou"
    assert cell(pc, 0, 1) == (ord("i"), 0x07)
    assert cell(pc, 1, 0) == (ord("y"), 0x07)
    assert cursor(pc) == (1, 3)
    assert pc.bios.screen[:2] == ["Hi", "you"]


def test_line_feed_keeps_the_column(pc):
    say(pc, b"ab\nc")
    assert pc.bios.screen[:2] == ["ab", "  c"]
    assert pc.text == "ab\nc"


def test_backspace_and_bell(pc):
    say(pc, b"ab\x08c\x07")
    assert pc.bios.screen[0] == "ac"
    assert pc.text == "ab\bc\a"
    say(pc, b"\r\x08")
    assert cursor(pc) == (0, 0)


def test_code_page_437_becomes_utf8(pc):
    say(pc, b"\x01\x81\xe1\xb0\x7f\x1b")
    assert pc.text == "☺üß░⌂←"
    assert pc.bios.screen[0] == "☺üß░⌂←"


def test_lines_wrap_at_80_columns(pc):
    say(pc, b"x" * 81)
    assert pc.bios.screen[:2] == ["x" * 80, "x"]
    assert pc.text == "x" * 80 + "\r\nx"


def test_teletype_scrolls_at_the_bottom(pc):
    say(pc, b"".join(b"line %d\r\n" % n for n in range(30)))
    assert pc.bios.screen[0] == "line 6"
    assert pc.bios.screen[23:] == ["line 29", ""]
    assert cursor(pc) == (24, 0)
    assert pc.text.splitlines() == [f"line {n}" for n in range(30)]


def test_set_mode_clears_the_screen_unless_told_not_to(pc):
    say(pc, b"stay")
    pc.call(0x10, 0x0083)
    assert pc.bios.screen[0] == "stay"
    assert cursor(pc) == (0, 0)
    pc.call(0x10, 0x0003)
    assert pc.bios.screen[0] == ""
    assert cell(pc, 24, 79) == (0x20, 0x07)


@pytest.mark.parametrize(("mode", "columns"), [(0, 40), (1, 40), (2, 80), (3, 80), (7, 80)])
def test_text_modes(pc, mode, columns):
    pc.call(0x10, mode)
    answer = pc.call(0x10, 0x0F00)
    assert (answer.al, answer.ah, answer.bh) == (mode, columns, 0)
    assert pc.memory.word(0x44A) == columns
    say(pc, b"x" * (columns + 1))
    assert pc.bios.screen[1] == "x"


def test_mode_7_uses_the_monochrome_window(pc):
    pc.call(0x10, 0x0007)
    say(pc, b"m")
    assert pc.memory.read(0xB0000, 1) == b"m"


def test_graphics_modes_are_refused_and_named(pc):
    pc.call(0x10, 0x0013)
    assert pc.call(0x10, 0x0F00).al == 3
    assert pc.bios.missing == {(0x10, 0x0013): 1}
    assert any("0x13" in note for note in pc.bios.notes)


def test_cursor_position_and_shape(pc):
    pc.call(0x10, 0x0100, cx=0x2000)
    pc.call(0x10, 0x0200, bx=0x0000, dx=0x0A14)
    answer = pc.call(0x10, 0x0300, bx=0x0000)
    assert (answer.dh, answer.dl, answer.cx) == (10, 20, 0x2000)
    pc.call(0x10, 0x0200, bx=0x0000, dx=0xFFFF)
    answer = pc.call(0x10, 0x0300, bx=0x0000)
    assert (answer.dh, answer.dl) == (24, 79)


def test_pages_are_separate(pc):
    say(pc, b"zero")
    pc.call(0x10, 0x0501)
    say(pc, b"one")
    assert cell(pc, 0, 0, page=1)[0] == ord("o")
    assert pc.bios.screen[0] == "one"
    assert pc.memory.word(0x44E) == 0x1000
    pc.call(0x10, 0x0500)
    assert pc.bios.screen[0] == "zero"


def test_what_goes_to_a_hidden_page_is_not_shown(pc):
    pc.call(0x10, 0x0941, bx=0x0107, cx=3)
    assert pc.text == ""
    assert cell(pc, 0, 2, page=1) == (0x41, 0x07)


def test_write_cells_with_and_without_attribute(pc):
    pc.call(0x10, 0x0941, bx=0x001E, cx=3)
    assert [cell(pc, 0, n) for n in range(4)] == [(0x41, 0x1E)] * 3 + [(0x20, 0x07)]
    pc.call(0x10, 0x0A42, bx=0x0000, cx=1)
    assert cell(pc, 0, 0) == (0x42, 0x1E)
    assert cursor(pc) == (0, 0)
    answer = pc.call(0x10, 0x0800, bx=0)
    assert (answer.al, answer.ah) == (0x42, 0x1E)


def test_write_cells_ends_with_the_screen(pc):
    pc.call(0x10, 0x0200, dx=0x184E)
    pc.call(0x10, 0x0958, bx=0x0007, cx=0xFFFF)
    assert pc.bios.screen[24] == " " * 78 + "XX"
    assert pc.memory.read(SCREEN + 4000, 96) == bytes(96)


def test_a_program_that_writes_and_moves_the_cursor_reads_well_in_a_pipe(pc):
    # Write at the cursor, then step it by hand: what GRUB's console does.
    for row, word in enumerate(("GRUB", "loading")):
        for column, letter in enumerate(word):
            pc.call(0x10, 0x0200, dx=row << 8 | column)
            pc.call(0x10, 0x0900 | ord(letter), bx=0x0007, cx=1)
    assert pc.text == "GRUB\r\nloading"


def test_cursor_moves_become_blanks_in_a_pipe(pc):
    pc.call(0x10, 0x0200, dx=0x0205)
    say(pc, b"here")
    assert pc.text == "\r\n\r\n     here"


def test_cursor_moves_become_sequences_on_a_terminal(terminal_pc):
    pc = terminal_pc
    say(pc, b"ab")
    pc.call(0x10, 0x0200, dx=0x0205)
    say(pc, b"c")
    pc.call(0x10, 0x0200, dx=0x0000)
    say(pc, b"d")
    assert pc.text == "ab\n\n\x1b[6Gc\x1b[2A\x1b[1Gd"


def test_colours_on_a_terminal(terminal_pc):
    terminal_pc.call(0x10, 0x0941, bx=0x001C, cx=1)  # light red on blue
    assert terminal_pc.text == "\x1b[91;44mA\x1b[0m"


def test_clearing_sends_a_clear_only_after_output(terminal_pc):
    terminal_pc.call(0x10, 0x0003)
    assert terminal_pc.text == ""
    say(terminal_pc, b"x")
    terminal_pc.call(0x10, 0x0600, bx=0x0700, cx=0, dx=0x184F)
    assert terminal_pc.text == "x\x1b[H\x1b[2J"


def test_scroll_windows(pc):
    for row in range(25):
        pc.call(0x10, 0x0200, dx=row << 8)
        say(pc, b"row %02d" % row)
    pc.call(0x10, 0x0601, bx=0x1700, cx=0x0504, dx=0x0705)  # rows 5-7, columns 4-5, up by one
    assert pc.bios.screen[5:8] == ["row 06", "row 07", "row"]
    assert cell(pc, 7, 4) == (0x20, 0x17)
    pc.call(0x10, 0x0702, bx=0x0700, cx=0x0A00, dx=0x0C4F)  # rows 10-12 down by two
    assert pc.bios.screen[10:13] == ["", "", "row 10"]
    pc.call(0x10, 0x0600, bx=0x0700, cx=0x0000, dx=0x184F)
    assert pc.bios.screen == [""] * 25


def test_scroll_takes_any_window(pc):
    for cx, dx in ((0xFFFF, 0xFFFF), (0x1810, 0x0000), (0, 0xFFFF)):
        for count in (0, 1, 0xFF):
            pc.call(0x10, 0x0600 | count, bx=0x0700, cx=cx, dx=dx)
            pc.call(0x10, 0x0700 | count, bx=0x0700, cx=cx, dx=dx)


def test_write_string(pc):
    pc.memory.write(0x5000, b"Hello\r\nworld")
    pc.call(0x10, 0x1301, bx=0x001F, cx=12, dx=0x0302, bp=0x5000)
    assert pc.bios.screen[3:5] == ["  Hello", "world"]
    assert cell(pc, 3, 2) == (ord("H"), 0x1F)
    assert cursor(pc) == (4, 5)


def test_write_string_may_keep_the_cursor_and_bring_attributes(pc):
    pc.memory.write(0x5000, b"a\x12b\x34")
    pc.call(0x10, 0x1302, bx=0, cx=2, dx=0x0000, bp=0x5000)
    assert (cell(pc, 0, 0), cell(pc, 0, 1)) == ((ord("a"), 0x12), (ord("b"), 0x34))
    assert cursor(pc) == (0, 0)


def test_adapter_questions(pc):
    answer = pc.call(0x10, 0x1200, bx=0x0010)
    assert (answer.bh, answer.bl) == (0, 3)
    answer = pc.call(0x10, 0x1A00)
    assert (answer.al, answer.bl) == (0x1A, 0x08)
    answer = pc.call(0x10, 0x1130, bx=0x0600)
    assert (answer.cx, answer.dl, answer.sregs.es.selector) == (16, 24, 0xF000)
    answer = pc.call(0x10, 0x4F00)
    assert answer.ax == 0x0100
    assert pc.bios.missing == {(0x10, 0x4F00): 1}


def test_drawing_behind_the_bios_is_seen(pc):
    say(pc, b"hello")
    assert not pc.bios.drawn_directly
    pc.memory.write(SCREEN + 160, b"O\x07K\x07")
    assert pc.bios.drawn_directly
    assert pc.bios.screen[:2] == ["hello", "OK"]


def test_drawing_is_remembered_when_it_scrolls_away(pc):
    pc.memory.write(SCREEN, b"O\x07K\x07")
    pc.call(0x10, 0x0600, bx=0x0700, cx=0, dx=0x184F)
    assert pc.bios.drawn_directly


def test_clearing_directly_is_no_drawing(pc):
    pc.memory.write(SCREEN, b"\x20\x1f" * 2000)
    assert not pc.bios.drawn_directly


def test_a_corrupt_data_area_does_no_harm(pc):
    pc.memory.write(0x449, b"\xff" * 0x20)
    say(pc, b"still here")
    assert pc.text.endswith("s\r\ntill here")  # from the last cell, where such a cursor ends up
    assert len(pc.bios.screen) == 25


def test_the_crt_controller_follows_cursor_page_and_mode(pc):
    crtc = {}
    pc.host.crtc = crtc.__setitem__
    pc.call(0x10, 0x0003)
    assert (crtc[0x01], crtc[0x0E], crtc[0x0F]) == (79, 0, 0)
    pc.call(0x10, 0x0200, dx=0x0A05)
    assert crtc[0x0E] << 8 | crtc[0x0F] == 10 * 80 + 5
    pc.call(0x10, 0x0E00 | ord("x"))
    assert crtc[0x0E] << 8 | crtc[0x0F] == 10 * 80 + 6
    pc.call(0x10, 0x0200, bx=0x0100, dx=0x0101)  # on a page that is not shown
    assert crtc[0x0E] << 8 | crtc[0x0F] == 10 * 80 + 6
    pc.call(0x10, 0x0501)
    assert crtc[0x0C] << 8 | crtc[0x0D] == 0x800
    assert crtc[0x0E] << 8 | crtc[0x0F] == 0x800 + 81
    pc.call(0x10, 0x0100, cx=0x2000)
    assert (crtc[0x0A], crtc[0x0B]) == (0x20, 0x00)
