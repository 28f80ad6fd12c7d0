"""The guest's console: output kept and passed on, input waiting for whoever takes it."""

from __future__ import annotations

import threading

import pytest

from vmm.host.console import Console


class Device:
    """Has room for some bytes, which a guest reads."""

    def __init__(self, room: int = 16) -> None:
        self.room = room
        self.held = bytearray()
        self.asks = False

    def take(self, data: bytes) -> int:
        count = min(len(data), self.room - len(self.held))
        self.held += data[:count]
        return count

    def connect(self, console: Console) -> None:
        console.add_taker(self.take, unread=lambda: len(self.held), asking=lambda: self.asks)


def test_output_is_kept_and_passed_on():
    seen = []
    console = Console(seen.append)
    console.write(b"one ")
    console.write(b"two\xff")
    assert seen == [b"one ", b"two\xff"]
    assert console.output == b"one two\xff"
    assert console.text == "one two\N{REPLACEMENT CHARACTER}"


def test_any_number_of_sinks_come_and_go():
    first, second, third = [], [], []
    console = Console(first.append)
    for sink in (second.append, third.append):
        console.tee(sink)
    console.write(b"a")
    console.untee(second.append)
    console.untee(second.append)
    console.write(b"b")
    assert (first, second, third) == ([b"a", b"b"], [b"a"], [b"a", b"b"])


@pytest.mark.parametrize("piece", [1, 3000])
def test_the_last_mebibyte_of_output_is_kept(piece):
    console = Console()
    total = (1 << 20) + (200_000 if piece == 1 else 1_500_000)
    for start in range(0, total, piece):
        console.write(bytes([start // piece & 0xFF]) * piece)
    kept = console.output
    assert len(kept) == 1 << 20
    assert kept.endswith(bytes([(total - 1) // piece & 0xFF]))


def test_input_waits_until_a_device_has_room():
    console, device = Console(), Device(room=4)
    console.send("abc")
    assert console.waiting == 3
    device.connect(console)
    console.send(b"def")
    assert (bytes(device.held), console.waiting, console.taken) == (b"abcd", 2, 4)
    device.held.clear()
    console.offer()
    assert (bytes(device.held), console.waiting, console.taken) == (b"ef", 0, 6)


def test_the_first_device_goes_first():
    console, first, second = Console(), Device(room=2), Device(room=2)
    first.connect(console)
    second.connect(console)
    console.send("abcde")
    assert (bytes(first.held), bytes(second.held), console.waiting) == (b"ab", b"cd", 1)


def test_get_takes_one_byte_and_does_not_wait_for_what_is_there():
    console = Console()
    console.send("é")
    assert [console.get(60), console.get(60)] == [0xC3, 0xA9]
    assert console.get(0) is None


def test_get_gives_up_the_lock_while_it_waits():
    console = Console()
    found = []
    with console.lock:
        sender = threading.Timer(0.05, console.send, ("k",))
        sender.start()
        found.append(console.get(60))
    sender.join()
    assert found == [ord("k")]


def test_room_is_bounded_and_whoever_holds_back_hears_of_it_once():
    console = Console()
    calls = []
    assert console.when_room(lambda: calls.append("early"))
    console.send(bytes(70_000))
    assert not console.has_room
    assert not console.when_room(lambda: calls.append("room"))
    while not console.has_room:
        assert calls == []
        console.get(0)
    assert calls == ["room"]
    console.get(0)
    assert calls == ["room"]


def test_a_guest_listens_that_has_read_all_that_was_sent():
    console, device = Console(), Device(room=1)
    device.connect(console)
    assert not console.listening  # nothing was ever taken
    console.send("a")
    assert not console.listening  # taken by the device, not read by the guest
    device.held.clear()
    assert console.listening
    console.send("bc")
    device.held.clear()
    assert not console.listening  # one more waits


def test_a_guest_listens_that_has_asked():
    console, device = Console(), Device()
    device.connect(console)
    device.asks = True
    assert console.listening
    device.asks = False
    assert not console.listening
    console.get(0)
    assert console.listening
