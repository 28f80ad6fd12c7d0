from __future__ import annotations

import threading

import pytest

from vmm.host.console import Console

MIB = 1 << 20
PATIENCE = 10.0


def test_output_is_kept_and_passed_on():
    passed = []
    console = Console(passed.append)
    console.write(b"Hel")
    console.write(b"lo\n")
    assert console.output == b"Hello\n"
    assert console.text == "Hello\n"
    assert passed == [b"Hel", b"lo\n"]


def test_without_a_sink_it_is_kept():
    console = Console()
    console.write(b"x")
    assert console.output == b"x"


def test_what_is_not_text_is_replaced():
    console = Console()
    console.write("é\n".encode() + b"\xff")
    assert console.text == "é\n\N{REPLACEMENT CHARACTER}"


def test_a_character_may_come_in_two_writes():
    console = Console()
    for byte in "é€".encode():
        console.write(bytes([byte]))
    assert console.text == "é€"


@pytest.mark.parametrize("piece", [1, 1000, MIB - 1, MIB + 1, 3 * MIB])
def test_the_last_mib_is_remembered(piece):
    console = Console()
    data = bytes(n * 7 & 0xFF for n in range(piece)) if piece < 10**4 else b"0123456789" * MIB
    data = data[:piece]
    written = bytearray()
    rounds = max(2, 200_000 // piece) if piece == 1 else max(2, 3 * MIB // piece)
    for number in range(rounds):
        block = bytes([number & 0xFF]) + data[1:]
        console.write(block)
        written += block
    kept = console.output
    assert written.endswith(kept)
    assert len(kept) >= min(len(written), MIB)
    # It is bounded, whatever the size of the pieces.
    assert len(kept) <= MIB + max(piece, MIB // 16)


class Taker:
    """A device with room for so many bytes."""

    def __init__(self, room):
        self.room = room
        self.got = bytearray()

    def take(self, data):
        count = min(self.room, len(data))
        self.got += data[:count]
        self.room -= count
        return count


def test_input_is_taken_as_fast_as_there_is_room():
    console, uart = Console(), Taker(4)
    console.add_taker(uart.take)
    console.send(b"0123456789")
    assert (uart.got, console.waiting, console.taken) == (b"0123", 6, 4)
    console.offer()
    assert console.waiting == 6
    uart.room = 2
    console.offer()
    assert (uart.got, console.waiting) == (b"012345", 4)
    uart.room = 100
    console.offer()
    assert (uart.got, console.waiting, console.taken) == (b"0123456789", 0, 10)


def test_text_is_sent_as_utf_8():
    console, uart = Console(), Taker(10)
    console.add_taker(uart.take)
    console.send("é")
    assert uart.got == b"\xc3\xa9"


def test_input_waits_for_the_first_taker():
    console, uart = Console(), Taker(10)
    console.send(b"early")
    assert console.waiting == 5
    console.add_taker(uart.take)
    console.offer()
    assert uart.got == b"early"


def test_a_second_taker_gets_what_the_first_leaves():
    console, first, second = Console(), Taker(2), Taker(2)
    console.add_taker(first.take)
    console.add_taker(second.take)
    console.send(b"abcde")
    assert (first.got, second.got, console.waiting) == (b"ab", b"cd", 1)


def test_a_taker_that_takes_nothing_does_not_hang():
    console = Console()
    console.add_taker(lambda data: 0)
    console.send(b"x")
    assert console.waiting == 1


def test_one_byte_at_a_time():
    console = Console()
    console.send(b"ab")
    assert [console.get(0), console.get(0), console.get(0)] == [0x61, 0x62, None]
    assert (console.taken, console.waiting) == (2, 0)


def test_waiting_for_a_byte_ends_without_one():
    assert Console().get(0.01) is None


def test_waiting_for_a_byte_lets_the_lock_go():
    lock = threading.RLock()
    console = Console(lock=lock)
    got = []

    def device():
        with lock:
            got.append(console.get(PATIENCE))

    waiting = threading.Thread(target=device)
    waiting.start()
    console.send(b"k")
    waiting.join(PATIENCE)
    assert got == [ord("k")]


def test_a_pause_ends_when_input_comes():
    console = Console()
    resting = threading.Thread(target=console.pause, args=(PATIENCE * 100,), daemon=True)
    resting.start()
    while resting.is_alive():
        console.send(b"x")
        resting.join(0.001)
    console.pause(0.001)


def test_a_device_is_offered_input_under_the_lock():
    lock = threading.RLock()
    console = Console(lock=lock)
    free = []

    def take(data):
        def attempt():
            free.append(lock.acquire(blocking=False))

        other = threading.Thread(target=attempt)
        other.start()
        other.join()
        return len(data)

    console.add_taker(take)
    console.send(b"x")
    assert free == [False]


def test_output_can_be_read_while_it_is_written():
    console = Console()
    writing = threading.Event()

    def write():
        writing.set()
        for _ in range(20_000):
            console.write(b"0123456789" * 20)

    writer = threading.Thread(target=write)
    console.write(b"!" * 10)
    writer.start()
    writing.wait()
    shortest = min(len(console.output) for _ in range(200))
    writer.join()
    # It never looks empty, not even while it is trimmed.
    assert shortest >= 10
