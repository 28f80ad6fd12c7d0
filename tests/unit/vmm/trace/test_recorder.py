"""What gets into the journal, for each way over the boundary of a device."""

from __future__ import annotations

from typing import Any

import pytest

from devices.acpi_pm import AcpiPm
from devices.fw_cfg import FwCfg
from devices.post import PostPort
from devices.uart16550 import Uart16550
from devices.wiring import GuestAddressError
from vmm.trace import recorder
from vmm.trace.journal import (
    ACCESS,
    CALL,
    END,
    FOREIGN,
    MAKE,
    MAP,
    NESTED,
    OUT,
    RAISED,
    REGISTERS,
    START,
    WHEN,
    WRITE,
    Entry,
    Memory,
    Wire,
    decode,
)


def kinds(entries: list[Entry]) -> list[int]:
    return [entry.kind for entry in entries]


def values(entry: Entry, at: int = 0) -> list[Any]:
    found = []
    while at < len(entry.payload):
        value, at = decode(entry.payload, at)
        found.append(value)
    return found


def access(entry: Entry) -> tuple[int, int, int, bool]:
    """Offset, size, value, whether it was written."""
    size = WHEN.unpack_from(entry.payload)[3]
    offset, value = REGISTERS.unpack_from(entry.payload, WHEN.size)
    return offset, size, value, bool(entry.flags & WRITE)


def test_a_device_that_is_made_has_its_arguments_kept(tape) -> None:
    sent: list[bytes] = []
    uart = tape.journal.make(Uart16550, "com2", out=sent.append)
    assert type(uart) is Uart16550
    start, made = tape.entries()
    assert (start.kind, start.who) == (START, 1)
    assert (made.kind, made.flags, made.who) == (MAKE, 0, 0)
    path, name, arguments = values(made, WHEN.size)
    assert (path, name) == ("devices.uart16550:Uart16550", "com2")
    # What nobody gave is connected as well: a clock would be a clock.
    wires = {"irq": Wire(0), "out": Wire(1), "on_room": Wire(2)}
    assert arguments == {"name": "com2", **wires}


def test_accesses_with_what_was_written_and_answered(tape) -> None:
    post = tape.journal.make(PostPort)
    tape.exit = (12, 3)
    post.write(0, 1, 0x42)
    assert post.read(0, 1) == 0x42
    write, read = tape.entries()[2:]
    assert access(write) == (0, 1, 0x42, True)
    assert access(read) == (0, 1, 0x42, False)
    assert [e.kind for e in (write, read)] == [ACCESS, ACCESS]
    assert WHEN.unpack_from(read.payload)[1:3] == (12, 3)


def test_outward_calls_stand_behind_the_access_that_made_them(tape) -> None:
    sent: list[bytes] = []
    uart = tape.journal.make(Uart16550, out=sent.append)
    uart.write(0, 1, 0x41)
    assert sent == [b"A"]
    write, out = tape.entries()[2:]
    assert access(write) == (0, 1, 0x41, True)
    assert (out.kind, out.flags, out.who, values(out)) == (OUT, 0, 1, [(b"A",), None])


def test_a_clock_is_kept_with_what_it_said_also_while_a_device_is_made(tape) -> None:
    times = iter((100, 200))
    pm = tape.journal.make(AcpiPm, clock=lambda: next(times))
    pm.read(8, 4)
    made, first, read, second = tape.entries()[1:]
    assert kinds([made, first, read, second]) == [MAKE, OUT, ACCESS, OUT]
    assert [values(first), values(second)] == [[(), 100], [(), 200]]


def test_a_call_of_the_host_with_its_result(tape) -> None:
    uart = tape.journal.make(Uart16550)
    assert uart.receive(b"ab") == 1
    uart.set_modem_lines(cts=False)
    received, lines = tape.entries()[2:]
    assert kinds([received, lines]) == [CALL, CALL]
    assert values(received, WHEN.size) == ["receive", (b"ab",), {}, 1]
    assert values(lines, WHEN.size) == ["set_modem_lines", (), {"cts": False}, None]


def test_a_device_that_is_called_while_it_calls(tape) -> None:
    """The UART says that it has room, and is given a byte at once."""
    waiting = [b"b"]

    def room() -> None:
        while waiting and uart.receive(waiting[0]):
            waiting.pop()

    uart = tape.journal.make(Uart16550, on_room=room)
    uart.receive(b"a")
    assert uart.read(0, 1) == 0x61
    _, read, out, call, end = tape.entries()[2:]
    assert kinds([read, out, call, end]) == [ACCESS, OUT, CALL, END]
    assert out.flags == NESTED
    assert values(call, WHEN.size) == ["receive", (b"b",), {}, 1]


def test_what_a_device_calls_of_itself_is_its_own_business(tape) -> None:
    pm = tape.journal.make(AcpiPm, clock=lambda: 0)
    pm.read(0, 2)  # which ticks
    assert CALL not in kinds(tape.entries())
    pm.tick()
    assert kinds(tape.entries())[-3:] == [CALL, OUT, OUT]


def test_memory_is_kept_with_what_was_read_and_written(tape) -> None:
    class Ram:
        def __init__(self) -> None:
            self.data = bytearray(0x100)

        def read(self, gpa: int, size: int) -> bytes:
            if gpa + size > len(self.data):
                raise GuestAddressError("outside")
            return bytes(self.data[gpa : gpa + size])

        def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
            self.data[gpa : gpa + len(data)] = data

    ram = Ram()
    ram.data[:16] = bytes.fromhex("0000000a 00000004 0000000000000040")  # select item 0, read 4
    fw_cfg = tape.journal.make(FwCfg, memory=ram)
    fw_cfg.write(8, 4, 0)
    fw_cfg.write(8, 4, 0xFF00_0000)  # big-endian: 0xff
    assert ram.data[0x40:0x44] == b"QEMU"
    made, *rest = tape.entries()[1:]
    assert values(made, WHEN.size)[2]["memory"] == Memory(0)
    _, request, item, status, _, refused, *_ = rest
    assert (request.who, values(request)) == (0, [(0, 16), bytes(ram.data[:0]) + request_bytes()])
    assert (item.who, values(item)) == (1, [(0x40, b"QEMU"), None])
    assert values(status) == [(0, bytes(4)), None]
    assert (refused.flags, values(refused)[1]) == (RAISED, "GuestAddressError: outside")


def request_bytes() -> bytes:
    return bytes.fromhex("0000000a 00000004 0000000000000040")


class Broken(PostPort):
    def read_POST(self) -> int:
        raise RuntimeError("a mistake")


def test_an_error_is_kept_and_goes_on_its_way(tape) -> None:
    post = tape.journal.make(Broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        post.read(0, 1)
    post.write(0, 1, 1)  # and the journal goes on
    failed, write = tape.entries()[2:]
    assert failed.flags == RAISED
    assert values(failed, WHEN.size + REGISTERS.size) == ["RuntimeError: a mistake"]
    assert access(write) == (0, 1, 1, True)


def test_a_device_that_cannot_be_made_leaves_nothing_behind(tape) -> None:
    with pytest.raises(ValueError, match="UUID"):
        tape.journal.make(FwCfg, uuid=b"short")
    tape.journal.make(PostPort)
    (made,) = tape.entries()[1:]
    assert made.who == 0


def test_ranges_and_devices_that_the_machine_did_not_make(tape) -> None:
    mine = PostPort("mine")
    tape.journal.map("post", "port", 0x80, 0x81, 0x80)  # before it is made
    made = tape.journal.make(PostPort)
    assert tape.journal.noted(made) is made
    seen, again = tape.journal.noted(mine), tape.journal.noted(mine)
    tape.journal.map("mine", "MMIO", 0x1000, 0x2000, 0x1000)
    seen.write(0, 1, 5)
    assert again.read(0, 1) == 5
    seen.reset()
    assert mine.values["POST"] == 0
    first, device, second, foreign, write, read = tape.entries()[1:]
    assert kinds([first, device, second, foreign]) == [MAP, MAKE, MAP, MAKE]
    assert [e.who for e in (first, device, second, foreign, write, read)] == [0, 0, 1, 1, 1, 1]
    assert values(first) == ["port", 0x80, 0x81, 0x80]
    assert values(second) == ["MMIO", 0x1000, 0x2000, 0x1000]
    assert foreign.flags == FOREIGN
    assert access(read) == (0, 1, 5, False)


def test_functions_on_ports(tape) -> None:
    class Port:
        name = "function at 0x10"

    asked: list[tuple[int, int]] = []
    read = tape.journal.foreign_in(Port(), lambda size: 3)
    write = tape.journal.foreign_out(Port(), lambda value, size: asked.append((value, size)))
    assert read(2) == 3
    write(9, 4)
    assert asked == [(9, 4)]
    assert [access(e) for e in tape.entries()[2:]] == [(0, 2, 3, False), (0, 4, 9, True)]


def test_entries_are_written_in_pieces_that_hold_whole_calls(tape, monkeypatch) -> None:
    monkeypatch.setattr(recorder, "MOST_ENTRIES", 8)
    monkeypatch.setattr(recorder, "_LONGEST_NS", 1 << 60)
    tape.journal.flush()
    uart = tape.journal.make(Uart16550)
    for _ in range(10):
        uart.write(0, 1, 0x41)  # two entries each
    assert [first for first, _ in tape.chunks] == [1, 1, 5]
    tape.journal.flush()
    assert [first for first, _ in tape.chunks] == [1, 1, 5, 9]
    tape.journal.flush()
    assert len(tape.chunks) == 4
    assert len(tape.entries()) == 2 + 20
