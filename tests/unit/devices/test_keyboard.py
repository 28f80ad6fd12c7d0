"""The US layout, and how keys are kept until the controller takes them."""

from __future__ import annotations

import string

import pytest

from devices.keyboard import SET1_TO_SET2, Ps2Keyboard, keystrokes


@pytest.mark.parametrize(
    ("character", "codes"),
    [
        ("a", "1e 9e"),
        ("Z", "2a 2c ac aa"),
        ("1", "02 82"),
        ("!", "2a 02 82 aa"),
        ("0", "0b 8b"),
        (")", "2a 0b 8b aa"),
        ("=", "0d 8d"),
        ("[", "1a 9a"),
        ("}", "2a 1b 9b aa"),
        (";", "27 a7"),
        ('"', "2a 28 a8 aa"),
        ("`", "29 a9"),
        ("~", "2a 29 a9 aa"),
        ("\\", "2b ab"),
        ("|", "2a 2b ab aa"),
        ("/", "35 b5"),
        ("?", "2a 35 b5 aa"),
        (" ", "39 b9"),
        ("\n", "1c 9c"),
        ("\r", "1c 9c"),
        ("\t", "0f 8f"),
        ("\b", "0e 8e"),
        ("\x7f", "0e 8e"),
        ("\x1b", "01 81"),
        ("\x03", "1d 2e ae 9d"),
        ("\x01", "1d 1e 9e 9d"),
        ("é", ""),
    ],
)
def test_keystrokes(character, codes):
    assert keystrokes(character) == bytes.fromhex(codes)


def test_every_printable_character_has_its_own_keystroke():
    characters = string.ascii_letters + string.digits + string.punctuation + " "
    strokes = {keystrokes(character) for character in characters}
    assert len(strokes) == len(characters)
    assert b"" not in strokes


def test_the_sets_correspond_one_to_one():
    assert len(set(SET1_TO_SET2)) == len(SET1_TO_SET2) == 128


def sent(keyboard):
    return bytes(iter(keyboard.take, None))


def test_an_answer_goes_before_keys():
    keyboard = Ps2Keyboard()
    keyboard.press(b"\x1e")
    keyboard.command(0xEE)
    assert sent(keyboard) == b"\xee\x1c"


def test_a_new_command_drops_the_rest_of_an_answer():
    keyboard = Ps2Keyboard()
    keyboard.command(0xF2)
    keyboard.command(0xEE)
    assert sent(keyboard) == b"\xee"


def test_pause_is_one_key():
    keyboard = Ps2Keyboard()
    assert keyboard.press(bytes.fromhex("e11d45 e19dc5")) == 6
    assert sent(keyboard) == bytes.fromhex("e11477 e1f014f077")


def test_a_key_is_never_torn_apart():
    keyboard = Ps2Keyboard()
    while keyboard.press(b"\xe0\x48") == 2:
        pass
    assert keyboard.press(b"\xe0\xc8") == 0
    assert keyboard.dropped == 4
    assert sent(keyboard).replace(b"\xe0\x75", b"") == b""


def test_power_on_forgets_everything():
    keyboard = Ps2Keyboard()
    keyboard.command(0xF0)
    keyboard.command(0x01)
    keyboard.command(0xED)
    keyboard.press(b"\x1e")
    keyboard.power_on()
    assert sent(keyboard) == b""
    keyboard.press(b"\x1e")
    assert sent(keyboard) == b"\x1c"
