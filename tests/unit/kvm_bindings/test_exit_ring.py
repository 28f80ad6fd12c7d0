"""The ring of exit records, written by the recorder in Python around a made-up `enter`."""

from __future__ import annotations

import errno
import struct

import pytest

from kvm_bindings.exit_ring import ExitRing, ring_size
from kvm_bindings.recording import Recorder

CAPACITY = 256
EXIT_IO, EXIT_MMIO, EXIT_HLT = 2, 6, 5
DATA = 0x800

# The layout, declared again.
OFFSETS = {
    "time_ns": (0, "Q"), "guest_ns": (8, "Q"), "address": (16, "Q"), "value": (24, "Q"),
    "rip": (32, "Q"), "handler_ns": (40, "I"), "count": (44, "I"), "sequence": (48, "I"),
    "reason": (52, "I"), "vcpu": (56, "H"), "kind": (58, "B"), "size": (59, "B"),
    "flags": (60, "B"), "irqs": (61, "B"),
}  # fmt: skip


def field(ring: ExitRing, number: int, name: str) -> int:
    offset, form = OFFSETS[name]
    at = 4096 + (number % CAPACITY) * 64 + offset
    return int(struct.unpack_from("<" + form, ring.memory, at)[0])


def header(ring: ExitRing) -> tuple[int, ...]:
    return struct.unpack_from("<5Q", ring.memory, 0)


class Guest:
    """What KVM would put into the page, step by step."""

    def __init__(self) -> None:
        self.page = memoryview(bytearray(0x2000))
        self.ring = ExitRing(memoryview(bytearray(ring_size(CAPACITY))), CAPACITY)
        self.next = 0
        self.recorder = Recorder(lambda: self.next, 3, self.page, self.ring)

    def io(self, port: int, data: bytes, size: int = 1, *, write: bool = True) -> int:
        count = len(data) // size
        struct.pack_into("<BBHIQ", self.page, 32, int(write), size, port, count, DATA)
        self.page[DATA : DATA + len(data)] = data
        self.next = EXIT_IO
        return self.recorder.enter()

    def mmio(self, gpa: int, data: bytes, *, write: bool) -> int:
        struct.pack_into("<Q8sIB", self.page, 32, gpa, data, len(data), int(write))
        self.next = EXIT_MMIO
        return self.recorder.enter()


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_a_write_is_noted(guest: Guest) -> None:
    assert guest.io(0x3F8, b"H") == EXIT_IO
    assert header(guest.ring)[:4] == (1, 0, 0, 1)  # begun, not done
    assert field(guest.ring, 0, "flags") == 1 | 4
    guest.recorder.finish()
    assert header(guest.ring)[:4] == (1, 1, 0, 1)
    expected = {"address": 0x3F8, "value": 0x48, "size": 1, "count": 1, "reason": 2, "vcpu": 3}
    expected |= {"kind": 1, "flags": 1}
    assert {name: field(guest.ring, 0, name) for name in expected} == expected


def test_an_answer_is_noted_when_it_is_there(guest: Guest) -> None:
    guest.io(0x60, b"\xcc\xcc", 2, write=False)
    guest.page[DATA : DATA + 2] = b"\x34\x12"
    guest.mmio(0xD000_0000, b"\xcc" * 4, write=False)
    assert field(guest.ring, 0, "value") == 0x1234
    assert field(guest.ring, 0, "flags") == 0
    guest.page[40:44] = b"\x78\x56\x34\x12"
    guest.recorder.finish()
    assert field(guest.ring, 1, "value") == 0x12345678
    assert field(guest.ring, 1, "address") == 0xD000_0000
    assert field(guest.ring, 1, "size") == 4


@pytest.mark.parametrize("length", [8, 9, 56, 57, 4096])
def test_a_long_string_keeps_all_its_bytes(guest: Guest, length: int) -> None:
    data = bytes(n * 7 & 0xFF for n in range(length))
    guest.io(0xE9, data)
    guest.next = EXIT_HLT
    guest.recorder.enter()
    guest.recorder.finish()
    more = (max(length - 8, 0) + 47) // 48
    assert header(guest.ring)[:4] == (2 + more, 2 + more, 0, 2)
    pairs = list(guest.ring.newest_first())
    assert [fields[8] for fields, _ in pairs] == [EXIT_HLT, EXIT_IO]
    assert pairs[1][1] == data
    assert [field(guest.ring, n, "sequence") for n in range(2 + more)] == list(range(2 + more))


def test_other_exits_keep_the_first_two_words(guest: Guest) -> None:
    struct.pack_into("<QQ", guest.page, 32, 0x1111, 0x2222)
    guest.next = 17
    assert guest.recorder.enter() == 17
    guest.recorder.finish()
    assert (field(guest.ring, 0, "value"), field(guest.ring, 0, "address")) == (0x1111, 0x2222)


@pytest.mark.parametrize("reason", [5, 7, 8, 10, 11, 16])
def test_exits_without_details_do_not_show_those_of_another(guest: Guest, reason: int) -> None:
    struct.pack_into("<QQ", guest.page, 32, 0x1111, 0x2222)
    guest.next = reason
    guest.recorder.enter()
    guest.recorder.finish()
    assert (field(guest.ring, 0, "value"), field(guest.ring, 0, "address")) == (0, 0)


def test_an_interruption_is_no_exit_but_its_time_counts(guest: Guest) -> None:
    guest.next = -errno.EINTR
    assert guest.recorder.enter() == -errno.EINTR
    assert header(guest.ring)[:4] == (0, 0, 0, 0)
    spent = guest.recorder._spent_ns
    assert spent > 0
    guest.io(0x80, b"\x01")
    assert field(guest.ring, 0, "guest_ns") > spent


def test_interrupt_lines_are_told_by_the_next_exit(guest: Guest) -> None:
    guest.ring.note_irq()
    guest.ring.note_irq()
    guest.io(0x80, b"\x01")
    guest.io(0x80, b"\x02")
    assert [field(guest.ring, n, "irqs") for n in (0, 1)] == [2, 0]


def test_rip_where_it_is_asked_for(guest: Guest) -> None:
    guest.io(0x80, b"\x01")
    struct.pack_into("<Q", guest.page, 0x400, 0xFFFF_8000_0000_1234)
    guest.recorder.deliver_rip(0x400)
    guest.io(0x80, b"\x02")
    guest.recorder.finish()
    assert [field(guest.ring, n, "rip") for n in (0, 1)] == [0, 0xFFFF_8000_0000_1234]
    assert [field(guest.ring, n, "flags") for n in (0, 1)] == [1, 1 | 2]


def test_the_limit_stops_before_the_guest_is_entered(guest: Guest) -> None:
    guest.recorder.set_limit(1)
    assert guest.io(0x80, b"\x01") == EXIT_IO
    assert guest.io(0x80, b"\x02") == -errno.ENOBUFS
    assert header(guest.ring)[:2] == (1, 1)  # but the record before is complete


def test_the_ring_wraps_around(guest: Guest) -> None:
    for n in range(CAPACITY + 3):
        guest.io(n, b"\x01")
    guest.recorder.finish()
    assert [f[2] for f, _ in guest.ring.newest_first()] == list(range(CAPACITY + 2, 2, -1))
    parts = guest.ring.parts(CAPACITY - 2, CAPACITY + 3)
    assert [len(part) // 64 for part in parts] == [2, 3]
    assert guest.ring.parts(5, 5) == []


def test_an_event_is_complete_at_once(guest: Guest) -> None:
    guest.ring.add(123, 0, 4, 1, 0, 0, 0, 0, 0, 16, 0, 0, 0)
    assert header(guest.ring)[:2] == (1, 1)
    expected = {"time_ns": 123, "address": 4, "value": 1, "kind": 16, "sequence": 0}
    assert {name: field(guest.ring, 0, name) for name in expected} == expected


@pytest.mark.parametrize("capacity", [0, 3, 128, 300])
def test_a_ring_of_an_odd_size_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ExitRing(memoryview(bytearray(ring_size(capacity))), capacity)


def test_memory_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes of memory"):
        ExitRing(memoryview(bytearray(100)), CAPACITY)
