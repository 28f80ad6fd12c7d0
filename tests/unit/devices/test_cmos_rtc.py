"""The real-time clock as the drivers of Linux and SeaBIOS use it."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import pytest

from devices import StateError
from devices.cmos_rtc import PORTS, CmosRtc

# Declared here once more, from the data sheet.
SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
A, B, C, D, SHUTDOWN, CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x0F, 0x32
UIP = 0x80
SET, PIE, AIE, UIE, SQWE, BINARY, H24, DSE = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
VRT = 0x80
NS = 1_000_000_000
START = datetime(2026, 11, 22, 13, 4, 59)  # A Sunday.


def ns(when: datetime) -> int:
    return int((when - datetime(1970, 1, 1)) / timedelta(microseconds=1)) * 1000


class Clock:
    """A real-time clock on a host whose time stands still until it is moved."""

    def __init__(self, **options) -> None:
        self.now = ns(START) + NS // 4
        self.level = False
        self.edges = 0
        self.schedules = 0
        self.rtc = CmosRtc(
            clock=lambda: self.now, irq=self._irq, on_schedule=self._schedule, **options
        )

    def _irq(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level

    def _schedule(self) -> None:
        self.schedules += 1

    def get(self, cell: int) -> int:
        self.rtc.write(0, 1, cell)
        return self.rtc.read(1, 1)

    def put(self, cell: int, value: int) -> None:
        self.rtc.write(0, 1, cell)
        self.rtc.write(1, 1, value)

    def time(self) -> tuple[int, ...]:
        return tuple(self.get(cell) for cell in (CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC))

    def run_timer(self, until: int) -> None:
        """Do what a machine does: sleep until the next event, tick."""
        while (event := self.rtc.next_event_ns()) is not None and event <= until:
            self.now = max(self.now, event)
            self.rtc.tick()
        self.now = until


@pytest.fixture
def pc() -> Clock:
    return Clock()


def test_ports():
    assert list(PORTS) == [0x70, 0x71]


def test_time_in_bcd(pc):
    assert pc.time() == (0x20, 0x26, 0x11, 0x22, 0x13, 0x04, 0x59)
    assert pc.get(WEEKDAY) == 1
    pc.now += NS
    assert pc.time() == (0x20, 0x26, 0x11, 0x22, 0x13, 0x05, 0x00)


def test_time_in_binary(pc):
    pc.put(B, H24 | BINARY)
    assert pc.time() == (20, 26, 11, 22, 13, 4, 59)


@pytest.mark.parametrize(
    ("hour", "bcd", "binary"),
    [(0, 0x12, 12), (1, 0x01, 1), (11, 0x11, 11), (12, 0x92, 0x8C), (13, 0x81, 0x81)],
)
def test_time_in_12_hours(pc, hour, bcd, binary):
    pc.now = ns(START.replace(hour=hour))
    pc.put(B, 0)
    assert pc.get(HOUR) == bcd
    pc.put(B, BINARY)
    assert pc.get(HOUR) == binary


def test_after_power_on(pc):
    assert pc.get(A) == 0x26
    assert pc.get(B) == H24
    assert pc.get(C) == 0
    assert pc.get(D) == VRT


def test_the_index_port_reads_as_ones(pc):
    pc.rtc.write(0, 1, 0x0A)
    assert pc.rtc.read(0, 1) == 0xFF


def test_bit_7_of_the_index_masks_nmis(pc):
    pc.put(0x80 | 0x40, 0x5A)
    assert pc.rtc.nmi_masked
    assert pc.get(0x40) == 0x5A
    assert not pc.rtc.nmi_masked


def test_cells_are_memory(pc):
    for cell in (*range(0x0E, 0x32), *range(0x33, 0x80)):
        pc.put(cell, cell ^ 0xA5)
    for cell in (*range(0x0E, 0x32), *range(0x33, 0x80)):
        assert pc.get(cell) == cell ^ 0xA5


def test_index_and_data_in_one_word_write(pc):
    pc.rtc.write(0, 2, 0x5A << 8 | 0x40)
    assert pc.get(0x40) == 0x5A


def test_firmware_finds_the_machine():
    pc = Clock(memory_below_4g=64 << 20, memory_above_4g=1 << 30, cpus=2, boot_order="dc")
    assert pc.get(0x34) | pc.get(0x35) << 8 == 48 * 16
    assert pc.get(0x5B) | pc.get(0x5C) << 8 | pc.get(0x5D) << 16 == (1 << 30) >> 16
    assert pc.get(0x5F) == 1
    assert pc.get(0x3D) == 0x23


def test_the_table_names_the_cells(pc):
    table = CmosRtc.registers
    names = {
        SEC: "SECONDS",
        HOUR_ALARM: "HOURS_ALARM",
        WEEKDAY: "WEEKDAY",
        YEAR: "YEAR",
        A: "STATUS_A",
        D: "STATUS_D",
        SHUTDOWN: "SHUTDOWN",
        0x15: "BASE_MEMORY_LOW",
        0x18: "EXTENDED_MEMORY_HIGH",
        0x30: "MEMORY_ABOVE_1M_LOW",
        CENTURY: "CENTURY",
        0x35: "MEMORY_ABOVE_16M_HIGH",
        0x38: "BOOT_ORDER_3",
        0x3D: "BOOT_ORDER_12",
        0x5B: "MEMORY_ABOVE_4G_LOW",
        0x5F: "PROCESSORS",
        0x7E: "CMOS_7E",
    }
    for cell, name in names.items():
        register = table.at(1, write=False, values={"INDEX": 0x80 | cell})
        assert register is not None
        assert register.name == name
    assert table["STATUS_B"].decode(SET | PIE | H24) == "H24|PIE|SET"
    assert table["STATUS_C"].decode(IRQF | UF) == "UF|IRQF"


# Setting the time.


def set_time(pc: Clock, *values: int) -> None:
    for cell, value in zip((CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC), values, strict=True):
        pc.put(cell, value)


def test_setting_the_time_by_the_set_bit(pc):
    pc.put(B, SET | H24)
    set_time(pc, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58)
    pc.now += 100 * NS
    assert pc.time() == (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58), "it stands still"
    pc.put(B, H24)
    assert pc.time() == (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58)
    pc.now += 2 * NS
    assert pc.time() == (0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00)
    assert pc.get(WEEKDAY) == 7, "a Saturday"


def test_setting_the_time_as_linux_does(pc):
    pc.put(B, SET | H24)
    pc.put(A, 0x76)
    set_time(pc, 0x20, 0x30, 0x02, 0x28, 0x23, 0x59, 0x59)
    pc.put(B, H24)
    pc.now += 10 * NS
    assert pc.get(SEC) == 0x59, "the divider is still held"
    pc.put(A, 0x26)
    pc.now += NS // 2 - 1
    assert pc.get(SEC) == 0x59
    pc.now += 1
    assert pc.time() == (0x20, 0x30, 0x03, 0x01, 0x00, 0x00, 0x00), "half a second after release"


def test_setting_the_time_in_12_hours(pc):
    pc.put(B, SET)
    set_time(pc, 0x20, 0x26, 0x01, 0x01, 0x92, 0x30, 0x00)
    pc.put(B, H24)
    # The chip does not convert: 92 is now read as a 24-hour value and carried over.
    pc.put(B, SET)
    set_time(pc, 0x20, 0x26, 0x01, 0x01, 0x92, 0x30, 0x00)
    pc.put(B, 0)
    assert pc.get(HOUR) == 0x92
    pc.put(B, H24)
    assert pc.get(HOUR) == 0x12


def test_setting_one_cell_while_it_runs(pc):
    pc.put(MIN, 0x30)
    assert pc.time() == (0x20, 0x26, 0x11, 0x22, 0x13, 0x30, 0x59)
    pc.now += NS
    assert pc.time() == (0x20, 0x26, 0x11, 0x22, 0x13, 0x31, 0x00)


@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
@pytest.mark.parametrize("control", [H24, H24 | BINARY, 0])
def test_nonsense_is_some_time(pc, value, control):
    pc.put(B, SET | control)
    set_time(pc, *[value] * 7)
    pc.put(B, control)
    for _ in range(3):
        assert all(0 <= cell <= 0xFF for cell in pc.time())
        pc.now += 10**18


# Update in progress.


def test_uip_before_each_second(pc):
    second = ns(START) + NS
    expected = [(-2_228_001, 0), (-2_228_000, UIP), (-1, UIP), (0, 0), (NS // 2, 0)]
    for away, bit in expected:
        pc.now = second + away
        assert pc.get(A) & UIP == bit, away


def test_no_uip_while_the_clock_stands_still(pc):
    pc.now = ns(START) + NS - 1
    pc.put(B, SET | H24)
    assert not pc.get(A) & UIP
    pc.put(B, H24)
    pc.put(A, 0x66)
    assert not pc.get(A) & UIP


def test_uip_cannot_be_written(pc):
    pc.put(A, 0xA6)
    assert pc.get(A) == 0x26


# Flags without interrupts.


def test_update_flag_each_second(pc):
    assert pc.get(C) & UF == 0
    pc.now += NS
    assert pc.get(C) & (UF | IRQF) == UF
    assert pc.get(C) & UF == 0, "reading clears it"
    pc.put(B, SET | H24)
    pc.now += 5 * NS
    assert pc.get(C) & UF == 0, "no updates"


def test_status_c_and_d_cannot_be_written(pc):
    pc.put(C, 0xFF)
    pc.put(D, 0x00)
    assert pc.get(C) == 0
    assert pc.get(D) == VRT


def test_a_host_whose_clock_goes_back(pc):
    pc.now -= 3600 * NS
    assert pc.get(C) == 0
    assert pc.time()[4] == 0x12
    pc.now += NS
    assert pc.get(C) & UF


# Interrupts.


def test_nothing_is_scheduled_at_first(pc):
    assert pc.rtc.next_event_ns() is None


def test_update_interrupt(pc):
    pc.put(B, H24 | UIE)
    assert pc.schedules
    assert pc.rtc.next_event_ns() == ns(START) + NS
    pc.run_timer(pc.now + NS)
    assert pc.level
    assert pc.rtc.next_event_ns() is None, "until status C is read"
    assert pc.get(C) & ~PF == IRQF | UF
    assert not pc.level
    assert pc.rtc.next_event_ns() == ns(START) + 2 * NS


def test_setting_clears_the_update_interrupt(pc):
    pc.put(B, H24 | UIE)
    pc.put(B, H24 | UIE | SET)
    assert pc.get(B) == H24 | SET


@pytest.mark.parametrize(
    ("select", "hz"),
    [(1, 256), (2, 128), (3, 8192), (6, 1024), (8, 256), (9, 128), (14, 4), (15, 2)],
)
def test_periodic_interrupt(pc, select, hz):
    start = pc.now = ns(START)
    pc.put(A, 0x20 | select)
    pc.get(C)
    pc.put(B, H24 | PIE)
    for _ in range(hz):
        event = pc.rtc.next_event_ns()
        assert event is not None
        assert event > pc.now
        pc.now = event
        pc.rtc.tick()
        assert pc.level
        assert pc.get(C) & (IRQF | PF) == IRQF | PF
    assert pc.now == start + NS
    assert pc.edges == hz


def test_periods_that_pass_unseen_are_one_interrupt(pc):
    pc.put(B, H24 | PIE)
    pc.now += 10 * NS
    pc.rtc.tick()
    assert pc.edges == 1
    pc.get(C)
    assert not pc.level


def test_no_rate_and_no_divider_no_period(pc):
    for value in (0x20, 0x76):
        pc.put(A, value)
        pc.put(B, H24 | PIE)
        assert pc.rtc.next_event_ns() is None
        pc.get(C)
        pc.now += NS
        assert not pc.get(C) & PF


def test_an_interrupt_enabled_after_its_flag(pc):
    pc.now += NS
    pc.rtc.tick()
    assert not pc.level
    pc.put(B, H24 | UIE)
    assert pc.level


def set_alarm(pc: Clock, hour: int, minute: int, second: int) -> None:
    pc.put(HOUR_ALARM, hour)
    pc.put(MIN_ALARM, minute)
    pc.put(SEC_ALARM, second)
    pc.get(C)
    pc.put(B, pc.get(B) | AIE)


@pytest.mark.parametrize(
    ("alarm", "when"),
    [
        ((0x13, 0x05, 0x10), START.replace(minute=5, second=10)),
        ((0x13, 0x04, 0x59), START + timedelta(days=1)),
        ((0x00, 0x00, 0x00), datetime(2026, 11, 23)),
        ((0xFF, 0x00, 0x00), START.replace(hour=14, minute=0, second=0)),
        ((0xC0, 0xC0, 0x30), START.replace(minute=5, second=30)),
        ((0xFF, 0xFF, 0xFF), START + timedelta(seconds=1)),
        ((0x23, 0xFF, 0x15), START.replace(hour=23, minute=0, second=15)),
    ],
)
def test_alarm(pc, alarm, when):
    set_alarm(pc, *alarm)
    assert pc.rtc.next_event_ns() == ns(when)
    pc.now = ns(when) - 1
    pc.rtc.tick()
    assert not pc.level
    pc.now = ns(when)
    pc.rtc.tick()
    assert pc.level
    assert pc.get(C) & (IRQF | AF) == IRQF | AF


@pytest.mark.parametrize("alarm", [(0x24, 0, 0), (0, 0x60, 0), (0, 0, 0x0A), (0x81, 0, 0)])
def test_an_alarm_that_is_no_time_never_comes(pc, alarm):
    set_alarm(pc, *alarm)
    assert pc.rtc.next_event_ns() is None
    pc.now += 3 * 86_400 * NS
    assert not pc.get(C) & AF


def test_alarm_in_12_hours_and_binary(pc):
    pc.put(B, BINARY)
    set_alarm(pc, 0x82, 30, 0)
    assert pc.rtc.next_event_ns() == ns(START.replace(hour=14, minute=30, second=0))


def test_the_alarm_follows_the_guests_time(pc):
    pc.put(HOUR, 0x20)
    set_alarm(pc, 0x20, 0x05, 0x00)
    event = pc.rtc.next_event_ns()
    assert event == ns(START) + NS


# Reset and snapshots.


def test_the_battery_keeps_time_and_memory_over_a_reset(pc):
    pc.put(SHUTDOWN, 0x0A)
    pc.put(MIN, 0x30)
    pc.put(A, 0x2A)
    pc.put(B, H24 | BINARY | PIE | AIE | UIE | SQWE)
    pc.now += NS
    pc.rtc.tick()
    assert pc.level
    pc.rtc.reset()
    assert not pc.level
    assert pc.rtc.shutdown_code == 0x0A
    assert pc.get(B) == H24 | BINARY
    assert pc.get(A) == 0x2A
    assert pc.get(C) == 0
    assert pc.time()[5] == 31
    assert pc.rtc.next_event_ns() is None


def test_a_loaded_clock_has_gone_on(pc):
    pc.put(HOUR, 0x20)
    pc.put(0x40, 0x5A)
    pc.put(B, H24 | UIE)
    state = pc.rtc.save()
    other = Clock()
    other.now = pc.now + 30 * NS
    other.rtc.load(state)
    assert other.time() == (0x20, 0x26, 0x11, 0x22, 0x20, 0x05, 0x29)
    assert other.get(0x40) == 0x5A
    event = other.rtc.next_event_ns()
    assert event is not None
    assert event <= other.now, "an update was missed"
    other.rtc.tick()
    assert other.level


@pytest.mark.parametrize(
    "wrong",
    [
        {"status_a": 0x80},
        {"control": 0x40},
        {"enables": 0x02},
        {"flags": 0x80},
        {"cells": bytes(127)},
        {"cells": bytes(10) + b"\x26" + bytes(117)},
        {"offset_ns": 1 << 71},
        {"offset_ns": True},
        {"seen_ns": -1},
    ],
)
def test_impossible_states_are_refused(pc, wrong):
    state = pc.rtc.save()
    with pytest.raises(StateError):
        pc.rtc.load(dataclasses.replace(state, **wrong))
    assert pc.rtc.save() == state
