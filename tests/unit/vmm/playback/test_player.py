"""Playing a journal: nothing differs where nothing changed, and the first difference is told."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from devices.acpi_pm import AcpiPm
from devices.cmos_rtc import CmosRtc
from devices.fw_cfg import FwCfg
from devices.i8042 import I8042
from devices.post import PostPort
from devices.uart16550 import Uart16550
from devices.wiring import GuestAddressError
from vmm.errors import ConfigError
from vmm.playback.player import Player
from vmm.trace.journal import END, FOREIGN, START, Entry, JournalError

SECOND = 1_000_000_000


@pytest.fixture
def serial(tape) -> Uart16550:
    """A recorded COM1 after a short conversation: 7 accesses, and a call with bytes."""

    def room() -> None:
        if waiting:
            uart.receive(waiting.pop())

    waiting = [b"d"]
    uart = tape.journal.make(Uart16550, irq=lambda level: None, on_room=room)
    tape.journal.map("com1", "port", 0x3F8, 0x400, 0x3F8)
    uart.write(4, 1, 0x08)  # the gate of the interrupt
    uart.write(1, 1, 0x01)
    uart.write(0, 1, 0x41)
    assert uart.receive(b"c") == 1
    tape.exit = (8, 1)
    assert [uart.read(0, 1), uart.read(0, 1)] == [0x63, 0x64]
    uart.write(3, 1, 0x80)
    assert uart.read(5, 1) == 0x60
    return uart


def test_a_recording_is_what_its_devices_do(tape, serial) -> None:
    result = tape.play()
    assert result.identical
    assert result.difference is None
    assert (result.accesses, result.calls) == (7, 3)  # made, received, and received inside
    assert result.outward == 7  # 4 edges of the line, a byte sent, twice room
    assert not result.skipped
    assert (
        str(result) == "7 accesses and 3 calls replayed, 7 calls of the devices compared: identical"
    )


class WrongStatus(Uart16550):
    """One bit of the line status is wrong."""

    def read(self, offset: int, size: int) -> int:
        return super().read(offset, size) | (1 if offset == 5 else 0)


class SilentLine(Uart16550):
    """It forgets to raise its interrupt for what arrives."""

    def receive(self, data: bytes) -> int:
        irq, self._irq = self._irq, lambda level: None
        try:
            return super().receive(data)
        finally:
            self._irq = irq


class Uppercase(Uart16550):
    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value | 0x20 if offset == 0 else value)


class Chatty(Uart16550):
    def write_LCR(self, value: int) -> None:
        super().write_LCR(value)
        self._out(b"?")


class Deaf(Uart16550):
    def receive(self, data: bytes) -> int:
        return 0


class Dies(Uart16550):
    def write_LCR(self, value: int) -> None:
        raise ZeroDivisionError("by accident")


class NeverMade(Uart16550):
    def __init__(self, name: str) -> None:
        super().__init__(name)


@pytest.mark.parametrize(
    ("changed", "access", "told"),
    [
        (
            WrongStatus,
            7,
            "read of com1 LSR (port 0x3fd): recorded 0x60 = THRE|TEMT, "  # noqa: ISC004
            "replayed 0x61 = DR|THRE|TEMT",
        ),
        (SilentLine, 3, "receive(b'c') of com1: recorded irq(True), replayed no such call"),
        (
            Uppercase,
            3,
            "write of 0x41 to com1 THR (port 0x3f8): recorded out(b'A'), replayed out(b'a')",
        ),
        (
            Chatty,
            6,
            "write of 0x80 to com1 LCR (port 0x3fb): recorded no such call, replayed out(b'?')",
        ),
        (Deaf, 3, "receive(b'c') of com1: recorded irq(True), replayed no such call"),
        (
            Dies,
            6,
            "write of 0x80 to com1 LCR (port 0x3fb): recorded None, "  # noqa: ISC004
            "replayed an error (ZeroDivisionError: by accident)",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_difference_is_told(tape, serial, changed, access, told) -> None:
    result = tape.play(com1=changed)
    assert not result.identical
    difference = result.difference
    assert (difference.device, difference.access) == ("com1", access)
    where = "exit 8 of vCPU 1" if access > 3 else "exit 7"
    at = f"access {access} ({where}, at {difference.seconds:.6f} s): "
    assert str(result) == str(difference) == at + told


def test_a_device_that_cannot_be_made_any_more(tape, serial) -> None:
    difference = tape.play(com1=NeverMade).difference
    assert difference.what == "making of com1"
    assert "unexpected keyword argument" in difference.replayed


def test_a_difference_inside_of_a_call_of_the_device(tape, serial) -> None:
    """It is told once, as what it is: the second byte's, which came while the first was read."""

    class DeafLater(Uart16550):
        def receive(self, data: bytes) -> int:
            return 0 if data == b"d" else super().receive(data)

    difference = tape.play(com1=DeafLater).difference
    assert (difference.access, difference.what) == (4, "receive(b'd') of com1")


def test_times_come_out_of_the_recording(tape) -> None:
    now = [1_700_000_000 * SECOND]
    rtc = tape.journal.make(CmosRtc, clock=lambda: now[0])
    seen = []
    for _ in range(4):
        rtc.write(0, 1, 0)
        seen.append(rtc.read(1, 1))
        now[0] += SECOND
    assert len(set(seen)) == 4
    rtc.write(0, 1, 0x0C)
    rtc.read(1, 1)
    rtc.write(0, 1, 0x0B)
    rtc.write(1, 1, 0x12)  # an interrupt each second
    assert rtc.next_event_ns() == now[0] + SECOND
    now[0] += SECOND
    rtc.tick()
    result = tape.play()
    assert result.identical, result
    assert result.accesses == 12
    assert result.calls == 3

    class LooksTwice(CmosRtc):
        def read(self, offset: int, size: int) -> int:
            if offset == 1:
                self._clock()
            return super().read(offset, size)

    difference = tape.play(rtc=LooksTwice).difference
    assert difference.access == 2
    assert difference.what == "read of rtc offset 0x1" or "SECONDS" in difference.what
    assert difference.recorded == "no such call"
    assert difference.replayed == "clock()"

    class Forgetful(CmosRtc):
        def tick(self, now_ns: int | None = None) -> None:
            self._catch_up(self._seen_ns)

    difference = tape.play(rtc=Forgetful).difference
    assert (difference.what, difference.recorded) == ("tick() of rtc", "clock()")
    assert difference.replayed == "no such call"


def test_a_clock_that_the_recorded_device_did_not_have(tape) -> None:
    post = tape.journal.make(PostPort)
    post.write(0, 1, 1)

    class Timed(PostPort):
        def __init__(self, name: str = "post", *, clock: Any = lambda: 0, **rest: Any) -> None:
            super().__init__(name, **rest)
            self._clock = clock

        def write_POST(self, value: int) -> None:
            self._clock()
            super().write_POST(value)

    difference = tape.play(
        post=lambda name="post", sink=None, clock=lambda: 0: Timed(name, sink=sink, clock=clock)
    ).difference
    assert difference.recorded == "no such call"
    assert difference.replayed == "a function that post was not given()"


class Ram:
    """16 bytes from 0x100 on that a request fits into."""

    def __init__(self) -> None:
        self.data = bytearray.fromhex("0000000a 00000004 0000000000000100")

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.data[gpa - 0x100 :][:size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self._check(gpa, len(data))
        self.data[gpa - 0x100 :][: len(data)] = data

    def _check(self, gpa: int, size: int) -> None:
        if not 0x100 <= gpa <= gpa + size <= 0x110:
            raise GuestAddressError("outside")


def test_memory_comes_out_of_the_recording(tape) -> None:
    fw_cfg = tape.journal.make(FwCfg, memory=Ram(), cpus=2)
    fw_cfg.add_file("etc/x", b"abc")
    fw_cfg.write(8, 4, 0x0001_0000)  # big-endian: 0x100
    fw_cfg.write(8, 4, 0x0002_0000)  # outside: the device has to meet the error
    result = tape.play()
    assert result.identical, result
    assert (result.accesses, result.calls, result.outward) == (2, 2, 5)

    class Shifted(FwCfg):
        def _transfer(self, control: int, length: int, address: int) -> bool:
            return super()._transfer(control, length, address + 1)

    difference = tape.play(fw_cfg=Shifted).difference
    assert difference.recorded == "memory.write(0x100, b'QEMU')"
    assert difference.replayed == "memory.write(0x101, b'QEMU')"


def test_an_error_is_the_same_only_if_it_is_the_same(tape) -> None:
    class Broken(PostPort):
        def read_POST(self) -> int:
            raise RuntimeError("a mistake")

    post = tape.journal.make(Broken)
    with pytest.raises(RuntimeError):
        post.read(0, 1)
    assert tape.play(post=Broken).identical
    difference = tape.play(post=PostPort).difference
    assert difference.recorded == "an error (RuntimeError: a mistake)"
    assert difference.replayed == "0x00"


def test_a_signal_that_raised(tape) -> None:
    def refuse() -> None:
        raise OSError("no")

    pm = tape.journal.make(AcpiPm, clock=lambda: 0, on_poweroff=refuse)
    with pytest.raises(OSError, match="no"):
        pm.write(4, 2, 0x2000)
    difference = tape.play().difference
    # What comes through the device is the recording's own error.
    assert difference.recorded == "an error (OSError: no)"
    assert difference.replayed == "an error (_RecordedError: OSError: no)"


def test_what_is_not_replayed_is_counted(tape) -> None:
    mine = PostPort("mine")
    seen = tape.journal.noted(mine)
    made = tape.journal.make(PostPort)
    seen.write(0, 1, 5)
    seen.read(0, 1)
    made.write(0, 1, 6)
    result = tape.play()
    assert result.identical
    assert result.skipped == {"mine": 2}
    assert result.accesses == 1
    # A class that is named is replayed, all the same.
    named = tape.play(mine=PostPort)
    assert (named.identical, named.accesses, named.skipped) == (True, 3, {})

    class Other(PostPort):
        def read_POST(self) -> int:
            return 9

    assert tape.play(mine=Other).difference.access == 2


def test_one_device_alone(tape, serial) -> None:
    post = tape.journal.make(PostPort)
    post.write(0, 1, 1)
    result = tape.play(only="post")
    assert (result.identical, result.accesses, result.calls) == (True, 1, 1)
    assert result.skipped == {"com1": 7}
    assert tape.play(only="post", com1=Dies).identical


def test_one_device_alone_is_called_inside_of_another(tape) -> None:
    inner = tape.journal.make(Uart16550, "com2")
    outer = tape.journal.make(Uart16550, on_room=lambda: inner.receive(b"x") and None)
    outer.receive(b"a")
    outer.read(0, 1)
    assert inner.read(0, 1) == 0x78
    result = tape.play(only="com2")
    assert (result.identical, result.accesses, result.calls) == (True, 1, 2)


def test_two_devices_of_one_name(tape) -> None:
    first, second = tape.journal.make(PostPort), tape.journal.make(PostPort)
    first.write(0, 1, 1)
    second.write(0, 1, 2)
    assert [first.read(0, 1), second.read(0, 1)] == [1, 2]
    result = tape.play()
    assert result.identical, result
    assert (result.accesses, result.calls) == (4, 2)


def test_devices_that_are_not_there(tape) -> None:
    tape.journal.make(PostPort)
    with pytest.raises(ConfigError, match="no device 'com1' in the recording; it has post"):
        tape.play(com1=Uart16550)
    with pytest.raises(ConfigError, match="no device 'rtc' in the recording; it has post"):
        tape.play(only="rtc")


def test_a_class_that_is_not_ours_is_not_imported(tape, monkeypatch) -> None:
    monkeypatch.setattr(PostPort, "__module__", "antigravity")
    post = tape.journal.make(PostPort)
    post.write(0, 1, 1)
    result = tape.play()
    assert (result.accesses, result.skipped) == (0, {"post": 1})


@pytest.mark.parametrize("path", ["os:system", "devices.post:open_bus", "devices.nothing:Post"])
def test_only_models_are_made(path: str) -> None:
    from vmm.playback.models import model_class

    assert model_class(path) is None
    assert model_class("devices.post:PostPort") is PostPort


def test_a_journal_that_makes_no_sense(tape, serial) -> None:
    whole = tape.entries()[1:]
    for broken in (
        whole[3:],  # no device
        [*whole[:1], *whole],  # made twice
        [whole[0]._replace(flags=FOREIGN, payload=whole[0].payload[:20]), *whole[1:]],
        [*whole[:-2], whole[-1]._replace(payload=whole[-1].payload[:9])],
    ):
        with pytest.raises(JournalError):
            Player(iter(broken)).play()


@pytest.fixture
def busy(tape) -> list[Entry]:
    """The journal of several devices, all of which call outward and are called."""
    uart = tape.journal.make(Uart16550, irq=lambda level: None, on_room=lambda: None)
    tape.journal.map("com1", "port", 0x3F8, 0x400, 0x3F8)
    times = itertools.count(1_700_000_000 * SECOND, SECOND // 3)
    rtc = tape.journal.make(CmosRtc, clock=lambda: next(times))
    pm = tape.journal.make(AcpiPm, clock=lambda: next(times))
    fw_cfg = tape.journal.make(FwCfg, memory=Ram())
    keyboard = tape.journal.make(I8042)
    fw_cfg.add_file("etc/x", b"abc")
    chance = random.Random(1)
    for _ in range(8):
        uart.receive(b"abc")
        keyboard.queue_keys(b"\x1e\x9e")
        rtc.tick()
        for device in (uart, rtc, pm, fw_cfg, keyboard):
            device.write(chance.randrange(12), 1, chance.randrange(256))
            device.read(chance.randrange(12), 1)
        fw_cfg.write(8, 4, 0x0001_0000)
    return tape.entries()[1:]


def spoil(journal: list[Entry], chance: random.Random) -> None:
    """Change something about an entry, or its place."""
    at = chance.randrange(len(journal))
    entry = journal[at]
    what = chance.randrange(7)
    if what == 0:
        del journal[at]
    elif what == 1:
        journal.insert(chance.randrange(len(journal)), entry)
    elif what == 2:
        journal[at] = entry._replace(flags=entry.flags ^ 1 << chance.randrange(4))
    elif what == 3:
        journal[at] = entry._replace(who=chance.randrange(8))
    elif what == 4:
        journal[at] = entry._replace(kind=chance.randint(START, END))
    elif what == 5:
        journal[at] = entry._replace(payload=entry.payload[: chance.randint(0, 30)])
    elif entry.payload:
        payload = bytearray(entry.payload)
        payload[chance.randrange(len(payload))] = chance.choice(
            [0, 1, 0x7F, 0xFF, *b"NTFiIbstdfmx"]
        )
        journal[at] = entry._replace(payload=memoryview(bytes(payload)))


def test_a_journal_that_was_spoilt(busy) -> None:
    """It may differ or be refused; nothing else is raised, and it comes to an end."""
    outcomes = Counter()
    for seed in range(200):
        chance = random.Random(seed)
        journal = list(busy)
        for _ in range(chance.randint(1, 3)):
            spoil(journal, chance)
        player = Player(iter(journal))
        try:
            player.play()
        except JournalError:
            outcomes["refused"] += 1
        else:
            result = player.result()
            assert "\n" not in str(result)
            outcomes["identical" if result.identical else "different"] += 1
    assert min(outcomes[kind] for kind in ("refused", "identical", "different")) > 5, outcomes
