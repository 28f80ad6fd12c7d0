"""The live text screen: when it takes the terminal, what it draws, how it gives it back."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from devices.vga_text import VgaText
from vmm.host.textscreen import LiveScreen

PAGE = 0xB8000
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Memory:
    def __init__(self):
        self.data = bytearray(0x100000)
        self.reads = 0

    def contains(self, gpa, size):
        return gpa + size <= len(self.data)

    def read(self, gpa, size):
        self.reads += 1
        return bytes(self.data[gpa : gpa + size])

    def text(self, row, column, text, attribute=0x07):
        for index, code in enumerate(text.encode("cp437")):
            at = PAGE + 2 * (80 * row + column + index)
            self.data[at : at + 2] = bytes([code, attribute])


class Host:
    """A machine as far as the screen sees it, and a terminal that can be read like one."""

    def __init__(self, *, bios=False, always=False, memory=None):
        self.memory = memory or Memory()
        self.devices = {"vga": VgaText(clock=lambda: 0)}
        self.vga = self.devices["vga"]
        self.lock = threading.RLock()
        self.console = SimpleNamespace(output=b"")
        self.bios = None
        if bios:
            self.bios = SimpleNamespace(drawn_directly=False, video=SimpleNamespace(sent=0))
        self.due = []
        self.events = SimpleNamespace(call_later=lambda seconds, call: self.due.append(call))
        self.terminal = bytearray()
        self.lines, self.columns = 30, 100
        self.screen = LiveScreen(
            self, self.terminal.extend, always=always, size=lambda: (self.columns, self.lines)
        )

    def print(self, data, *, by_bios=False):
        self.console.output += data
        if by_bios:
            self.bios.video.sent += len(data)
        self.screen.write(data)

    def tick(self):
        """Let the timer expire; return what went to the terminal."""
        before = len(self.terminal)
        due, self.due = self.due, []
        for call in due:
            call()
        return bytes(self.terminal[before:])


@pytest.fixture
def host():
    host = Host()
    host.screen.start()
    return host


def test_nothing_happens_until_the_guest_draws(host):
    assert host.tick() == b""
    host.memory.text(3, 0, "   ", 0x1F)  # blanks are no drawing
    assert host.tick() == b""
    assert not host.screen.shown
    assert host.due


def test_the_page_is_shown_with_colors_and_cursor(host):
    host.vga.set_crtc(0x0F, 82)
    host.memory.text(1, 2, "Hi", 0x1F)
    host.memory.text(1, 4, "\u2588", 0xCE)
    out = host.tick()
    assert out.startswith(ENTER)
    row = out[out.index(b"\x1b[2;1H") : out.index(b"\x1b[3;1H")].decode()
    assert "\x1b[0;97;44mHi\x1b[0;93;5;41m█\x1b[" in row
    assert out.endswith(b"\x1b[2;3H\x1b[?25h")
    assert host.screen.shown


def test_only_changed_rows_are_drawn_again(host):
    host.memory.text(0, 0, "one")
    host.tick()
    assert host.tick() == b""
    host.memory.text(7, 0, "two")
    out = host.tick()
    assert out.startswith(b"\x1b[8;1H")
    assert b"two" in out
    assert b"one" not in out
    host.vga.set_crtc(0x0F, 5)
    assert host.tick() == b"\x1b[1;6H\x1b[?25h"
    host.vga.set_crtc(0x0A, 0x20)
    assert host.tick() == b"\x1b[?25l"


def test_a_page_that_stays_costs_one_comparison(host):
    host.memory.text(0, 0, "x")
    host.tick()
    host.memory.reads = 0
    host.tick()
    assert host.memory.reads <= 2


def test_backgrounds_are_bright_where_nothing_blinks(host):
    host.vga.values["ATTRIBUTE_MODE_CONTROL"] = 0x04
    host.memory.text(0, 0, "A", 0x9F)
    assert b"\x1b[0;97;104mA" in host.tick()


def test_the_start_address_scrolls_and_wraps(host):
    host.memory.text(0, 0, "top")
    host.memory.text(1, 0, "next")
    host.tick()
    host.vga.set_crtc(0x0D, 80)
    out = host.tick()
    assert b"next" in out[: out.index(b"\x1b[2;1H")]
    host.vga.set_crtc(0x0C, 0x3F)
    host.vga.set_crtc(0x0D, 0xB0)  # one row before the window's end
    out = host.tick()
    assert out.index(b"\x1b[2;1H") < out.index(b"top") < out.index(b"next")


def test_a_low_terminal_shows_the_rows_around_the_cursor(host):
    host.lines, host.columns = 10, 20
    host.memory.text(0, 0, "first row")
    out = host.tick()
    assert b"first row" in out
    assert b"\x1b[11;1H" not in out
    host.memory.text(24, 0, "x" * 30)
    host.vga.set_crtc(0x0E, (24 * 80) >> 8)
    host.vga.set_crtc(0x0F, 24 * 80 & 0xFF)
    out = host.tick()
    assert b"\x1b[10;1H\x1b[0;37;40m" + b"x" * 20 + b"\x1b" in out
    assert b"first row" not in out


def test_what_a_guest_sends_to_a_port_gives_the_terminal_back(host):
    host.memory.text(0, 0, "drawn")
    host.tick()
    host.print(b"log\n")
    assert b"log" not in host.terminal
    out = host.tick()
    assert out.endswith(LEAVE + b"log\n")
    assert not host.screen.shown
    assert not host.due
    host.print(b"more\n")
    assert host.terminal.endswith(b"log\nmore\n")


def test_it_is_away_while_it_is_held(host):
    host.memory.text(0, 0, "shown")
    host.tick()
    assert LEAVE in host.screen.hold()
    host.memory.text(1, 0, "meanwhile")
    assert host.tick() == b""
    assert host.screen.hold() == b""
    host.screen.release()
    out = host.tick()
    assert out.startswith(ENTER)
    assert b"shown" in out
    assert b"meanwhile" in out


def test_a_guest_that_uses_its_console_keeps_it(host):
    host.print(b"hello\n")
    host.memory.text(0, 0, "drawn")
    assert host.tick() == b""
    assert bytes(host.terminal) == b"hello\n"
    assert not host.due
    assert host.screen.stop() == b""


def test_text_of_the_bios_is_on_the_page_as_well():
    host = Host(bios=True)
    host.screen.start()
    host.print(b"loading...", by_bios=True)
    assert bytes(host.terminal) == b"loading..."
    host.bios.drawn_directly = True
    host.memory.text(0, 0, "loading...")
    assert b"loading..." in host.tick()
    host.print(b"done", by_bios=True)
    assert b"done" not in host.terminal
    assert host.screen.shown
    assert host.screen.stop().endswith(LEAVE)


def test_always_holds_the_stream_back_until_the_end():
    host = Host(always=True)
    host.screen.start()
    host.print(b"early\n")
    host.memory.text(0, 0, "drawn")
    assert ENTER in host.tick()
    host.print(b"late\n")
    assert host.tick() == b""
    assert host.screen.shown
    assert host.screen.stop().endswith(LEAVE + b"late\n")
    assert host.screen.stop() == b""
    assert host.tick() == b""


def test_a_machine_without_a_text_page_is_left_alone():
    memory = Memory()
    del memory.data[0x10000:]
    host = Host(memory=memory)
    host.screen.start()
    assert not host.due
    host.print(b"x")
    assert bytes(host.terminal) == b"x"
