"""Terminal input to keys, keys to scan codes. Codes are written out from the PS/2 reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.bios.keys import Key, KeyDecoder, key_from_scancode, scancodes_for


def words(data: bytes) -> list[int]:
    decoder = KeyDecoder()
    keys = [key.word for byte in data for key in decoder.feed(byte)]
    return keys + [key.word for key in decoder.flush()]


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        (b"a", 0x1E61),
        (b"A", 0x1E41),
        (b"z", 0x2C7A),
        (b"1", 0x0231),
        (b"!", 0x0221),
        (b"-", 0x0C2D),
        (b"?", 0x353F),
        (b"\\", 0x2B5C),
        (b"~", 0x297E),
        (b" ", 0x3920),
        (b"\r", 0x1C0D),
        (b"\n", 0x1C0D),
        (b"\t", 0x0F09),
        (b"\x7f", 0x0E08),
        (b"\x08", 0x0E08),
        (b"\x1b", 0x011B),
        (b"\x01", 0x1E01),
        (b"\x03", 0x2E03),
        (b"\x1a", 0x2C1A),
        (b"\x1b[A", 0x48E0),
        (b"\x1b[B", 0x50E0),
        (b"\x1b[C", 0x4DE0),
        (b"\x1b[D", 0x4BE0),
        (b"\x1bOA", 0x48E0),
        (b"\x1b[H", 0x47E0),
        (b"\x1b[4~", 0x4FE0),
        (b"\x1b[2~", 0x52E0),
        (b"\x1b[3~", 0x53E0),
        (b"\x1b[5~", 0x49E0),
        (b"\x1b[6~", 0x51E0),
        (b"\x1bOP", 0x3B00),
        (b"\x1b[15~", 0x3F00),
        (b"\x1b[17~", 0x4000),
        (b"\x1b[21~", 0x4400),
        (b"\x1b[23~", 0x8500),
        (b"\x1b[24~", 0x8600),
        (b"\x1b[1;5C", 0x74E0),
        (b"\x1b[1;2P", 0x5400),
        (b"\x1b[1;5P", 0x5E00),
        (b"\x1b[1;3P", 0x6800),
        (b"\x1b[Z", 0x0F00),
        (b"\x1bx", 0x2D00),
        ("ä".encode(), 0x0084),
        ("│".encode(), 0x00B3),
    ],
)
def test_one_key(typed, word):
    assert words(typed) == [word]


def test_a_line_of_text():
    assert words(b"ls\r") == [0x266C, 0x1F73, 0x1C0D]


def test_an_escape_waits_for_what_follows():
    decoder = KeyDecoder()
    assert decoder.feed(0x1B) == []
    assert decoder.pending
    assert [key.word for key in decoder.flush()] == [0x011B]
    assert not decoder.pending


def test_two_escapes_are_an_escape_and_a_start():
    assert words(b"\x1b\x1b[A") == [0x011B, 0x48E0]


def test_unknown_sequences_are_swallowed():
    assert words(b"\x1b[99~\x1b[?25hq") == [0x1071]


@given(st.binary(max_size=64))
def test_any_input_gives_words(data):
    assert all(0 <= word <= 0xFFFF for word in words(data))


@pytest.mark.parametrize(
    ("typed", "codes"),
    [
        (b"a", "1e 9e"),
        (b"A", "2a 1e 9e aa"),
        (b"\x03", "1d 2e ae 9d"),
        (b"\r", "1c 9c"),
        (b"\x1b[A", "e0 48 e0 c8"),
        (b"\x1b[1;5C", "1d e0 4d e0 cd 9d"),
        (b"\x1bOP", "3b bb"),
        (b"\x1b[24~", "58 d8"),
        (b"\x1bx", "38 2d ad b8"),
        (b"\x1b[1;5P", "1d 3b bb 9d"),
    ],
)
def test_scancodes(typed, codes):
    decoder = KeyDecoder()
    keys = [key for byte in typed for key in decoder.feed(byte)]
    assert b"".join(map(scancodes_for, keys)) == bytes.fromhex(codes)


def test_a_key_beyond_the_keyboard_has_no_scancodes():
    assert scancodes_for(Key(0x84, 0)) == b""


def press(scan, **held):
    modifiers = dict.fromkeys(("shift", "ctrl", "alt", "caps"), False) | held
    key = key_from_scancode(scan, **modifiers)
    return key and key.word


def test_keys_from_scancodes():
    assert press(0x1E) == 0x1E61
    assert press(0x1E, shift=True) == 0x1E41
    assert press(0x1E, caps=True) == 0x1E41
    assert press(0x1E, caps=True, shift=True) == 0x1E61
    assert press(0x02, caps=True) == 0x0231
    assert press(0x2E, ctrl=True) == 0x2E03
    assert press(0x1E, alt=True) == 0x1E00
    assert press(0x02, alt=True) == 0x7800
    assert press(0x3B) == 0x3B00
    assert press(0x48) == 0x4800
    assert press(0x57) == 0x8500
    assert press(0x7F) is None
