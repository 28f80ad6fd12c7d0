"""Typing on the keyboard: the pace, and who is typed for."""

from __future__ import annotations

import pytest

from devices.i8042 import I8042
from vmm.host.console import Console
from vmm.host.typist import KeyboardListener

DATA, STATUS = 0, 4
FULL = 0x01
POLLS = 16


class Later:
    """A clock that is turned by hand."""

    def __init__(self):
        self.now = 0.0
        self.due = []

    def __call__(self, seconds, call):
        self.due.append((self.now + seconds, call))

    def turn(self, seconds):
        end = self.now + seconds
        while True:
            ready = sorted((entry for entry in self.due if entry[0] <= end), key=lambda e: e[0])
            if not ready:
                break
            self.due.remove(ready[0])
            self.now = ready[0][0]
            ready[0][1]()
        self.now = end


class Guest:
    def __init__(self):
        self.interrupts = 0
        self.wanted = True
        self.later = Later()
        self.console = Console()
        self.chip = I8042(irq_keyboard=self.interrupt)
        self.handling = False
        self.port = KeyboardListener(self.chip, self.console, self.later, self, lambda: self.wanted)

    def handler(self):
        return "int9"

    def in_service(self):
        return self.handling

    def interrupt(self, level):
        self.interrupts += level

    def read(self):
        return self.port.read(DATA, 1)

    @property
    def full(self):
        return bool(self.chip.read(STATUS, 1) & FULL)

    def read_all(self):
        """Read each byte as it comes, without looking for one that is not there."""
        got = bytearray()
        while True:
            if self.full:
                got.append(self.read())
            elif not self.port._typist.unread:
                return bytes(got)
            else:
                self.later.turn(0.001)


@pytest.fixture
def guest():
    return Guest()


def test_keys_come_byte_by_byte_each_with_an_interrupt(guest):
    guest.console.send("aB")
    assert guest.interrupts == 1
    assert guest.read_all() == bytes.fromhex("1e9e 2a30b0aa")
    assert guest.interrupts == 6
    assert guest.console.waiting == 0


def test_a_byte_may_be_read_twice(guest):
    guest.console.send("a")
    assert guest.read() == 0x1E
    assert guest.read() == 0x1E
    guest.later.turn(0.0005)
    assert not guest.full
    guest.later.turn(0.0005)
    assert guest.read() == 0x9E


def test_the_next_byte_waits_for_the_end_of_interrupt(guest):
    guest.console.send("a")
    guest.handling = True
    assert guest.read() == 0x1E
    guest.later.turn(10)
    assert not guest.full
    assert guest.read() == 0x1E
    guest.handling = False
    guest.later.turn(0.05)
    assert guest.read() == 0x9E


def test_the_next_byte_waits_until_the_guest_has_read(guest):
    guest.console.send("ab")
    guest.later.turn(5)
    assert guest.interrupts == 1
    assert guest.console.listening is False
    assert guest.read_all() == bytes.fromhex("1e9e 30b0")
    assert guest.console.listening


def test_escape_alone_is_typed_after_a_while(guest):
    guest.console.send("\x1b")
    guest.later.turn(0.049)
    assert not guest.full
    guest.later.turn(0.002)
    assert guest.read_all() == b"\x01\x81"


def test_an_arrow_is_one_key(guest):
    guest.console.send("\x1b[")
    guest.later.turn(0.01)
    guest.console.send("A")
    assert guest.read_all() == bytes.fromhex("e048 e0c8")


def test_a_long_text_waits_in_the_console_and_comes_whole(guest):
    guest.console.send("x" * 500)
    assert guest.console.waiting > 400
    assert guest.read_all() == b"\x2d\xad" * 500
    assert guest.console.waiting == 0


def test_a_guest_that_does_not_take_keys_is_asked_again(guest):
    guest.wanted = False
    guest.console.send("a")
    guest.later.turn(1)
    assert guest.interrupts == 0
    assert guest.console.waiting == 1
    guest.wanted = True
    guest.later.turn(0.2)
    assert guest.read_all() == b"\x1e\x9e"
    guest.later.turn(0.01)
    assert not guest.later.due, "it goes on looking although nothing waits"


@pytest.mark.parametrize("port", [DATA, STATUS])
def test_a_guest_that_polls_gets_a_key_at_a_time(guest, port):
    guest.wanted = False
    guest.console.send("\x1b[Ab")
    for _ in range(POLLS - 1):
        guest.port.read(port, 1)
    assert not guest.full
    guest.port.read(port, 1)
    assert guest.full or port == DATA
    assert guest.console.waiting == 1
    got = guest.read_all()
    assert (b"\xe0" + got if port == DATA else got) == bytes.fromhex("e048 e0c8")


def test_commands_are_no_polling(guest):
    guest.wanted = False
    guest.console.send("a")
    for _ in range(100):
        guest.port.read(STATUS, 1)
        guest.port.write(STATUS, 1, 0x20)  # read the command byte
        guest.port.read(STATUS, 1)
        guest.port.read(DATA, 1)
    assert guest.console.waiting == 1


def test_keys_for_a_keyboard_that_is_switched_off_are_lost(guest):
    guest.port.write(DATA, 1, 0xF5)
    assert guest.read() == 0xFA
    guest.later.turn(0.01)
    guest.console.send("abc")
    assert guest.port._typist.unread == 0
    guest.port.write(DATA, 1, 0xF4)
    assert guest.read() == 0xFA
    guest.later.turn(0.01)
    guest.console.send("d")
    assert guest.read_all() == b"\x20\xa0"


def test_reset_forgets(guest):
    guest.console.send("abc")
    guest.port.reset()
    guest.later.turn(1)
    assert not guest.full
    guest.console.send("d")
    assert guest.read_all() == b"\x20\xa0"
