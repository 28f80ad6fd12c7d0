"""The terminal emulation that shows the guest's console."""

from __future__ import annotations

import pytest

from vmm.tui.panes.console import ConsolePane
from vmm.tui.panes.typed import key_bytes


@pytest.mark.parametrize(
    ("key", "character", "data"),
    [("a", "a", b"a"), ("A", "A", b"A"), ("space", " ", b" "), ("enter", "\r", b"\r"),
     ("ctrl+c", "\x03", b"\x03"), ("ctrl+z", None, b"\x1a"), ("ctrl+backslash", None, b"\x1c"),
     ("up", None, b"\x1b[A"), ("f5", None, b"\x1b[15~"), ("backspace", "\x7f", b"\x7f"),
     ("shift+tab", None, b"\x1b[Z"), ("é", "é", "é".encode()), ("f30", None, b"")],
)  # fmt: skip
def test_keys(key, character, data):
    assert key_bytes(key, character) == data


def test_a_bare_newline_begins_a_line():
    pane = ConsolePane()
    pane.feed(b"one\ntwo\r\nthree")
    assert pane.lines[:3] == ["one", "two", "three"]


def test_sequences_and_characters_may_be_cut_anywhere():
    whole = "a\x1b[31mü\x1b[0m\x1b[2;5Hx".encode()
    for cut in range(1, len(whole)):
        pane = ConsolePane()
        pane.feed(whole[:cut])
        pane.feed(whole[cut:])
        assert pane.lines[0] == "aü"
        assert pane.lines[1] == "    x"


@pytest.mark.parametrize("hostile", [b"\x1b[999999999;99999999H", b"\x1b[2147483648@", b"\x1b[;r",
                                     b"\x1b]0;title", b"\xff\xfe\x80", b"\x1b[38;5;999m",
                                     b"\x1b[?3h", b"\x1b#8", b"\0" * 100])  # fmt: skip
def test_what_a_guest_writes_is_taken(hostile):
    pane = ConsolePane()
    pane.feed(hostile)
    pane.feed(b"\x1b\\\x1bc\nstill here")
    assert "still here" in "".join(pane.lines)


def test_of_very_much_output_the_end_is_shown():
    pane = ConsolePane()
    pane.feed(b"x" * 300_000 + b"\r\nthe end")
    assert "the end" in pane.lines


def test_the_pane_shows_the_lines_where_the_cursor_is(drive, source):
    source.output = b"".join(b"line %d\n" % number for number in range(60))

    async def script(app, press):
        shown = await press()
        console = [line[:12].rstrip() for line in shown if line.startswith("line")]
        assert console[-1] == "line 59"
        await app.pilot.resize_terminal(200, 60)
        shown = "\n".join(await press())
        assert "line 59" in shown
        await app.pilot.resize_terminal(80, 24)
        shown = "\n".join(await press())
        assert "line 59" in shown

    drive(source, script)


def test_colours_and_the_cursor_are_drawn(drive, source):
    source.output = b"\x1b[1;32mgreen\x1b[0m plain\r\n$ "

    async def script(app, press):
        await press("5")
        strip = app.guest_console.render_line(0)
        green = next(s for s in strip if s.text == "green")
        assert green.style.bold
        assert green.style.color.name == "#7ec16e"
        prompt = list(app.guest_console.render_line(1))
        assert [
            s.text for s in prompt if s.style.bgcolor and s.style.bgcolor.name == "#c9d1d9"
        ] == [" "]

    drive(source, script)


def test_pasted_text_goes_to_the_guest(drive, source):
    from textual.events import Paste

    async def script(app, press):
        await press("5")
        app.guest_console.post_message(Paste("one\ntwo"))
        await press()

    drive(source, script)
    assert source.typed == b"one\rtwo"
