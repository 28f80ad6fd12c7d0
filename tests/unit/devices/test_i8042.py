"""The keyboard controller as Linux, SeaBIOS, GRUB and small kernels use it."""

from __future__ import annotations

import dataclasses

import pytest

from devices import StateError
from devices.i8042 import BASE, I8042, PORTS, TRANSLATION

# Declared here once more, from the references.
DATA, COMMAND = 0, 4
OBF, IBF, SYS, CMD, UNLOCKED, AUX = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
KBD_INT, AUX_INT, SYSTEM, KBD_OFF, AUX_OFF, XLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40
ACK, RESEND, BAT = 0xFA, 0xFE, 0xAA
A_DOWN, A_UP = 0x1E, 0x9E  # Set 1; in set 2 the key is 1C.


class Controller:
    """A controller with everything that it does to the outside written down."""

    def __init__(self) -> None:
        self.irq1 = self.irq12 = False
        self.edges = [0, 0]
        self.resets = 0
        self.a20: list[bool] = []
        self.device = I8042(
            irq_keyboard=self._irq1,
            irq_mouse=self._irq12,
            on_reset=self._reset,
            on_a20=self.a20.append,
        )

    def _irq1(self, level: bool) -> None:
        self.edges[0] += level and not self.irq1
        self.irq1 = level

    def _irq12(self, level: bool) -> None:
        self.edges[1] += level and not self.irq12
        self.irq12 = level

    def _reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        return self.device.read(COMMAND, 1)

    def command(self, value: int, *data: int) -> None:
        self.device.write(COMMAND, 1, value)
        for byte in data:
            self.device.write(DATA, 1, byte)

    def data(self, value: int) -> None:
        self.device.write(DATA, 1, value)

    def drain(self) -> bytes:
        got = bytearray()
        while self.status() & OBF:
            got.append(self.device.read(DATA, 1))
        return bytes(got)

    def ask(self, *data: int) -> bytes:
        """Send bytes to the keyboard and return its whole answer."""
        for byte in data:
            self.data(byte)
        return self.drain()

    def ask_mouse(self, *data: int) -> bytes:
        answer = bytearray()
        for byte in data:
            self.command(0xD4, byte)
            assert self.status() & AUX
            answer += self.drain()
        return bytes(answer)


@pytest.fixture
def kbc() -> Controller:
    return Controller()


@pytest.fixture
def raw(kbc: Controller) -> Controller:
    """Translation off, interrupts on."""
    kbc.command(0x60, KBD_INT | AUX_INT)
    return kbc


def test_ports():
    assert (BASE, PORTS) == (0x60, (0x60, 0x64))


def test_as_firmware_leaves_it(kbc):
    assert kbc.status() == UNLOCKED | SYS
    kbc.command(0x20)
    assert kbc.drain() == bytes((KBD_INT | SYSTEM | XLATE,))


def test_the_ports_between_are_not_its_own(kbc):
    kbc.device.write(1, 1, 0xFF)
    assert kbc.device.read(1, 1) == 0xFF
    assert kbc.device.read(0, 4) & 0xFFFFFF00 == 0xFFFFFF00


def test_self_test_and_port_tests(kbc):
    kbc.command(0x60, 0)
    assert not kbc.status() & SYS
    kbc.command(0xAA)
    assert kbc.status() & (OBF | SYS) == OBF | SYS
    assert kbc.drain() == b"\x55"
    for command in (0xAB, 0xA9):
        kbc.command(command)
        assert kbc.drain() == b"\x00"


def test_command_byte_is_read_back(kbc):
    for value in (0x00, 0x65, 0x47, 0xFF):
        kbc.command(0x60, value)
        kbc.command(0x20)
        assert kbc.drain() == bytes((value,))


def test_status_tells_commands_from_data(kbc):
    kbc.command(0x60)
    assert kbc.status() & CMD
    kbc.data(0x45)
    assert not kbc.status() & CMD
    assert not kbc.status() & IBF


def test_disable_and_enable(kbc):
    for command, bit, expected in ((0xAD, KBD_OFF, 1), (0xAE, KBD_OFF, 0)):
        kbc.command(command)
        kbc.command(0x20)
        assert bool(kbc.drain()[0] & bit) == bool(expected)
    for command, expected in ((0xA7, 1), (0xA8, 0)):
        kbc.command(command)
        kbc.command(0x20)
        assert bool(kbc.drain()[0] & AUX_OFF) == bool(expected)


def test_an_unknown_command_says_nothing(kbc):
    for command in (0x00, 0x21, 0x7F, 0xB0, 0xE0):
        kbc.command(command)
        assert not kbc.status() & OBF


def test_a_new_command_takes_the_place_of_one_that_waits(kbc):
    kbc.command(0x60)
    kbc.command(0xAA)
    assert kbc.drain() == b"\x55"
    assert kbc.ask(0xEE) == b"\xee", "the byte goes to the keyboard"


# Reset and A20.


def test_reset_pulse(kbc):
    kbc.command(0xFE)
    assert kbc.resets == 1
    kbc.command(0xFF)
    kbc.command(0xF1)
    assert kbc.resets == 1, "bit 0 is not pulsed"
    kbc.command(0xF0)
    assert kbc.resets == 2


def test_reset_by_the_output_port(kbc):
    kbc.command(0xD1, 0xDF)
    assert kbc.resets == 0
    kbc.command(0xD1, 0xDE)
    assert kbc.resets == 1


def test_a20_by_the_output_port(kbc):
    assert kbc.device.a20
    kbc.command(0xD0)
    value = kbc.drain()[0]
    assert value & 0x03 == 0x03
    kbc.command(0xD1, value & ~0x02)
    assert kbc.a20 == [False]
    kbc.command(0xD0)
    assert kbc.drain()[0] == value & ~0x02
    kbc.command(0xD1, value)
    kbc.command(0xD1, value)
    assert kbc.a20 == [False, True], "told once"
    assert kbc.resets == 0


def test_a20_by_commands_of_their_own(kbc):
    kbc.command(0xDD)
    kbc.command(0xDF)
    assert kbc.a20 == [False, True]


def test_the_output_port_shows_the_interrupt_request(kbc):
    kbc.device.queue_keys(bytes((A_DOWN,)))
    kbc.command(0xD0)
    assert kbc.device.read(DATA, 1) == A_DOWN
    assert kbc.drain()[0] & 0x30 == 0x10


def test_input_port(kbc):
    kbc.command(0xC0)
    assert kbc.drain()[0] & 0x80, "not inhibited"


# Keys.


def test_a_key_arrives_in_set_1(kbc):
    assert kbc.device.queue_keys(bytes((A_DOWN, A_UP))) == 2
    assert kbc.status() & (OBF | AUX) == OBF
    assert kbc.irq1
    assert kbc.drain() == bytes((A_DOWN, A_UP))
    assert not kbc.irq1


def test_each_byte_is_an_edge(kbc):
    kbc.device.queue_keys(bytes((A_DOWN, A_UP, A_DOWN)))
    got, edges = bytearray(), 0
    while kbc.edges[0] > edges:
        edges = kbc.edges[0]
        got.append(kbc.device.read(DATA, 1))
    assert got == bytes((A_DOWN, A_UP, A_DOWN))
    assert edges == 3


def test_without_translation_a_key_arrives_in_set_2(raw):
    raw.device.queue_keys(bytes((A_DOWN, A_UP)))
    assert raw.drain() == b"\x1c\xf0\x1c"


def test_an_extended_key(raw):
    up_arrow = b"\xe0\x48\xe0\xc8"
    raw.device.queue_keys(up_arrow)
    assert raw.drain() == b"\xe0\x75\xe0\xf0\x75"
    raw.command(0x60, KBD_INT | XLATE)
    raw.device.queue_keys(up_arrow)
    assert raw.drain() == up_arrow


@pytest.mark.parametrize("code", range(1, 0x59))
def test_every_key_survives_the_way_through_set_2(kbc, code):
    kbc.device.queue_keys(bytes((code, code | 0x80)))
    assert kbc.drain() == bytes((code, code | 0x80))


def test_translation_of_some_known_bytes():
    known = {0x76: 0x01, 0x5A: 0x1C, 0x29: 0x39, 0x12: 0x2A, 0x83: 0x41, 0x66: 0x0E, 0x78: 0x57}
    assert {set2: TRANSLATION[set2] for set2 in known} == known
    assert all(TRANSLATION[answer] == answer for answer in (0xFA, 0xAA, 0xEE, 0xFE, 0xE0, 0xE1))


def test_a_keyboard_told_to_use_set_1(raw):
    assert raw.ask(0xF0, 0x01) == bytes((ACK, ACK))
    raw.device.queue_keys(bytes((A_DOWN, A_UP)))
    assert raw.drain() == bytes((A_DOWN, A_UP))
    assert raw.ask(0xF0, 0x00) == bytes((ACK, ACK, 0x01))


def test_the_interrupt_is_off_while_the_keyboard_is(kbc):
    kbc.command(0xAD)
    kbc.device.queue_keys(bytes((A_DOWN,)))
    assert not kbc.status() & OBF
    kbc.command(0x20)
    assert kbc.status() & OBF
    assert not kbc.irq1, "the driver polls for this answer"
    assert kbc.drain() == bytes((KBD_INT | SYSTEM | XLATE | KBD_OFF,))
    kbc.command(0xAE)
    assert kbc.irq1
    assert kbc.drain() == bytes((A_DOWN,))


def test_the_interrupt_can_be_switched_off(kbc):
    kbc.command(0x60, XLATE)
    kbc.device.queue_keys(bytes((A_DOWN,)))
    assert kbc.status() & OBF
    assert not kbc.irq1
    kbc.command(0x60, XLATE | KBD_INT)
    assert kbc.irq1


def test_type_text(kbc):
    assert kbc.device.type_text("aB\n") == 3
    assert kbc.drain() == bytes.fromhex("1e9e 2a30b0aa 1c9c")


def test_typing_leaves_out_what_has_no_key(kbc):
    assert kbc.device.type_text("aéb") == 2
    assert kbc.drain() == bytes.fromhex("1e9e 30b0")


def test_the_queue_is_bounded_and_what_is_lost_is_counted(kbc):
    taken = kbc.device.queue_keys(bytes((A_DOWN, A_UP)) * 5000)
    assert 1000 < taken < 10_000
    assert kbc.device.keyboard.dropped == 10_000 - taken
    assert kbc.drain() == (bytes((A_DOWN, A_UP)) * 5000)[:taken]


# The keyboard's commands.


def test_keyboard_reset(raw):
    raw.device.queue_keys(bytes((A_DOWN,)))
    raw.drain()
    raw.device.queue_keys(bytes((A_DOWN, A_UP, A_DOWN)))
    assert raw.ask(0xFF)[-2:] == bytes((ACK, BAT))


def test_keyboard_identity(raw):
    assert raw.ask(0xF2) == bytes((ACK, 0xAB, 0x83))


def test_keyboard_identity_translated(kbc):
    """Linux knows this answer as that of a translated MF2 keyboard."""
    assert kbc.ask(0xF2) == bytes((ACK, 0xAB, 0x41))


def test_seabios_sets_the_keyboard_up(raw):
    assert raw.ask(0xFF) == bytes((ACK, BAT))
    assert raw.ask(0xF5) == bytes((ACK,))
    assert raw.ask(0xF0, 0x02) == bytes((ACK, ACK))
    raw.command(0x60, XLATE | KBD_INT)
    assert raw.ask(0xF4) == bytes((ACK,))
    raw.device.queue_keys(bytes((A_DOWN,)))
    assert raw.drain() == bytes((A_DOWN,))


def test_lights(raw):
    assert raw.ask(0xED, 0x05) == bytes((ACK, ACK))
    assert raw.device.keyboard.leds == 0x05
    raw.ask(0xFF)
    assert raw.device.keyboard.leds == 0


def test_echo_typematic_and_unknown(raw):
    assert raw.ask(0xEE) == b"\xee"
    assert raw.ask(0xF3, 0x20) == bytes((ACK, ACK))
    assert raw.ask(0xE7) == bytes((RESEND,))
    assert raw.ask(0xF0, 0x03) == bytes((ACK, RESEND)), "there is no set 3"


def test_resend(raw):
    raw.ask(0xEE)
    assert raw.ask(0xFE) == b"\xee"


def test_a_command_in_place_of_a_parameter(raw):
    assert raw.ask(0xED) == bytes((ACK,))
    assert raw.ask(0xEE) == b"\xee"
    assert raw.device.keyboard.leds == 0


def test_a_disabled_keyboard_sends_nothing(raw):
    assert raw.ask(0xF5) == bytes((ACK,))
    assert raw.device.queue_keys(bytes((A_DOWN,))) == 0
    assert raw.ask(0xF4) == bytes((ACK,))
    assert raw.device.queue_keys(bytes((A_DOWN,))) == 1


def test_a_byte_for_the_keyboard_switches_its_port_on(kbc):
    kbc.command(0xAD)
    assert kbc.ask(0xEE) == b"\xee"


def test_bytes_put_into_the_output_buffer(raw):
    raw.command(0xD2, 0x5A)
    assert raw.status() & (OBF | AUX) == OBF
    assert raw.irq1
    assert raw.drain() == b"\x5a"
    raw.command(0xD3, 0xA5)
    assert raw.status() & (OBF | AUX) == OBF | AUX
    assert raw.irq12
    assert raw.drain() == b"\xa5"
    assert (raw.irq1, raw.irq12) == (False, False)


# The mouse.


def test_mouse_reset_and_type(raw):
    assert raw.ask_mouse(0xFF) == bytes((ACK, BAT, 0x00))
    assert raw.ask_mouse(0xF2) == bytes((ACK, 0x00))
    assert raw.edges[1] == 5


def test_mouse_status(raw):
    assert raw.ask_mouse(0xE9) == bytes((ACK, 0x00, 0x02, 100))
    assert raw.ask_mouse(0xE8, 0x03, 0xF3, 200) == bytes((ACK,) * 4)
    assert raw.ask_mouse(0xE7, 0xF4) == bytes((ACK,) * 2)
    assert raw.ask_mouse(0xE9) == bytes((ACK, 0x30, 0x03, 200))
    assert raw.ask_mouse(0xF0) == bytes((ACK,))
    assert raw.ask_mouse(0xE9)[1] == 0x70
    assert raw.ask_mouse(0xF6) == bytes((ACK,))
    assert raw.ask_mouse(0xE9) == bytes((ACK, 0x00, 0x02, 100))


def test_mouse_is_no_wheel_mouse(raw):
    for rate in (200, 100, 80):
        raw.ask_mouse(0xF3, rate)
    assert raw.ask_mouse(0xF2) == bytes((ACK, 0x00))


def test_mouse_lies_still(raw):
    assert raw.ask_mouse(0xEB) == bytes((ACK, 0x08, 0x00, 0x00))
    assert raw.ask_mouse(0xE1) == bytes((RESEND,))


def test_mouse_interrupt_needs_its_bit(kbc):
    kbc.command(0xD4, 0xF2)
    assert kbc.status() & (OBF | AUX) == OBF | AUX
    assert not kbc.irq12
    assert not kbc.irq1


# Reset and snapshots.


def test_reset(kbc):
    kbc.device.queue_keys(bytes((A_DOWN, A_UP)))
    kbc.command(0xDD)
    kbc.command(0x60, 0)
    kbc.device.reset()
    assert kbc.a20 == [False, True]
    assert not kbc.irq1
    assert kbc.status() == UNLOCKED | SYS
    kbc.device.queue_keys(bytes((A_DOWN,)))
    assert kbc.drain() == bytes((A_DOWN,))


def test_a_loaded_controller_goes_on_in_the_middle(raw):
    raw.device.queue_keys(bytes((A_DOWN, A_UP)))
    raw.data(0xED)
    raw.command(0xD1)
    other = Controller()
    other.device.load(raw.device.save())
    assert other.irq1
    other.data(0xDD)
    assert other.a20 == [False]
    other.data(0x02)
    assert other.device.keyboard.leds == 2
    assert other.drain() == b"\x1c" + bytes((ACK,)) + b"\xf0\x1c"


@pytest.mark.parametrize(
    "wrong",
    [
        {"awaiting": 0x61},
        {"kbd_awaiting": 0xF4},
        {"mouse_awaiting": 0xF4},
        {"kbd_code_set": 3},
        {"reply": b"ab"},
        {"kbd_queue": bytes(5000)},
        {"full": 1},
        {"command_byte": 256},
    ],
)
def test_impossible_states_are_refused(kbc, wrong):
    kbc.command(0x60, 0x00)
    state = kbc.device.save()
    with pytest.raises(StateError):
        kbc.device.load(dataclasses.replace(state, **wrong))
    assert kbc.device.save() == state
