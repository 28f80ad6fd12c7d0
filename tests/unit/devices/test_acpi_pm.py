"""The fixed ACPI hardware, with its bits declared a second time from the ACPI specification."""

from __future__ import annotations

import dataclasses

import pytest

from devices import StateError
from devices.acpi_pm import PORTS, AcpiPm

STS, EN, CNT, TMR = 0, 2, 4, 8

TMR_BIT = 1 << 0
PWRBTN_BIT = 1 << 8
SCI_EN = 1 << 0
SLP_EN = 1 << 13

TIMER_HZ = 3_579_545
SECOND = 1_000_000_000


class Machine:
    """A block with a clock in hand."""

    def __init__(self) -> None:
        self.now = 5 * SECOND
        self.sci = False
        self.poweroffs = 0
        self.pm = AcpiPm(clock=lambda: self.now, irq=self.drive, on_poweroff=self.poweroff)

    def drive(self, level: bool) -> None:
        self.sci = level

    def poweroff(self) -> None:
        self.poweroffs += 1


@pytest.fixture
def machine():
    return Machine()


def test_ports():
    assert PORTS.start == 0x600
    assert PORTS.start + CNT == 0x604
    assert PORTS.start + TMR + 4 == PORTS.stop


class TestPowerOff:
    def test_the_well_known_write(self, machine):
        machine.pm.write(CNT, 2, 0x2000)
        assert machine.poweroffs == 1

    def test_as_an_acpi_kernel_does_it(self, machine):
        control = machine.pm.read(CNT, 2)
        assert control & SCI_EN
        machine.pm.write(CNT, 2, control)
        assert machine.poweroffs == 0
        machine.pm.write(CNT, 2, control | SLP_EN)
        assert machine.poweroffs == 1

    def test_by_its_upper_byte(self, machine):
        machine.pm.write(CNT + 1, 1, SLP_EN >> 8)
        assert machine.poweroffs == 1

    @pytest.mark.parametrize("sleep_type", range(1, 8))
    def test_other_sleep_types_do_nothing(self, machine, sleep_type):
        machine.pm.write(CNT, 2, SLP_EN | sleep_type << 10)
        assert machine.poweroffs == 0

    def test_what_reads_back(self, machine):
        machine.pm.write(CNT, 2, 0xFFFF)
        assert machine.pm.read(CNT, 2) == 0x1C03, "SLP_EN and GBL_RLS read as 0"
        machine.pm.write(CNT, 2, 0x1C00)
        assert machine.pm.read(CNT, 2) == 0x1C01, "there is no legacy mode to go back to"


class TestPowerButton:
    def test_a_guest_that_listens_is_interrupted(self, machine):
        machine.pm.write(EN, 2, PWRBTN_BIT)
        assert not machine.sci
        machine.pm.press_power_button()
        assert machine.sci
        assert machine.pm.read(STS, 2) == PWRBTN_BIT
        machine.pm.write(STS, 2, PWRBTN_BIT)
        assert not machine.sci
        assert machine.pm.read(STS, 2) == 0

    def test_whether_a_guest_listens(self, machine):
        assert not machine.pm.listens
        machine.pm.write(EN, 2, 0xFFFF & ~PWRBTN_BIT)
        assert not machine.pm.listens
        machine.pm.write(EN, 2, PWRBTN_BIT)
        assert machine.pm.listens
        machine.pm.reset()
        assert not machine.pm.listens

    def test_enabling_it_later_is_not_too_late(self, machine):
        machine.pm.press_power_button()
        assert not machine.sci
        machine.pm.write(EN, 2, PWRBTN_BIT)
        assert machine.sci
        machine.pm.write(EN, 2, 0)
        assert not machine.sci

    def test_clearing_the_other_byte_leaves_it(self, machine):
        machine.pm.press_power_button()
        machine.pm.write(STS, 1, 0xFF)
        assert machine.pm.read(STS, 2) == PWRBTN_BIT
        machine.pm.write(STS + 1, 1, 0x01)
        assert machine.pm.read(STS, 2) == 0

    def test_only_events_can_be_enabled(self, machine):
        machine.pm.write(EN, 2, 0xFFFF)
        assert machine.pm.read(EN, 2) == 0x0521


class TestTimer:
    def test_it_starts_at_zero_and_runs_at_its_rate(self, machine):
        assert machine.pm.read(TMR, 4) == 0
        machine.now += SECOND
        assert machine.pm.read(TMR, 4) == TIMER_HZ
        machine.now += SECOND // 1000
        assert machine.pm.read(TMR, 4) == TIMER_HZ + 3579

    def test_it_has_24_bits(self, machine):
        machine.now += 5 * SECOND
        assert machine.pm.read(TMR, 4) == 5 * TIMER_HZ - (1 << 24)

    def test_it_is_read_only(self, machine):
        machine.now += SECOND
        machine.pm.write(TMR, 4, 0)
        assert machine.pm.read(TMR, 4) == TIMER_HZ

    def test_a_clock_that_steps_back_reads_as_zero(self, machine):
        machine.now -= SECOND
        assert machine.pm.read(TMR, 4) == 0

    def test_its_status_is_set_when_bit_23_changes(self, machine):
        machine.now += 2 * SECOND
        assert machine.pm.read(STS, 2) == 0
        machine.now += SECOND
        assert machine.pm.read(TMR, 4) >= 1 << 23
        assert machine.pm.read(STS, 2) == TMR_BIT
        machine.pm.write(STS, 2, TMR_BIT)
        assert machine.pm.read(STS, 2) == 0
        machine.now += 2 * SECOND
        assert machine.pm.read(TMR, 4) < 1 << 23
        assert machine.pm.read(STS, 2) == TMR_BIT

    def test_a_change_between_looks_is_not_lost_by_clearing(self, machine):
        machine.now += 3 * SECOND
        machine.pm.write(STS, 2, 0)
        assert machine.pm.read(STS, 2) == TMR_BIT

    def test_the_next_interrupt_is_foretold(self, machine):
        assert machine.pm.next_event_ns() is None
        machine.pm.write(EN, 2, TMR_BIT)
        when = machine.pm.next_event_ns()
        machine.now = when - 1
        machine.pm.tick()
        assert not machine.sci
        machine.now = when
        machine.pm.tick()
        assert machine.sci
        assert machine.pm.next_event_ns() is None, "it is pending"
        machine.pm.write(STS, 2, TMR_BIT)
        assert not machine.sci
        assert machine.pm.next_event_ns() > when

    def test_the_machine_is_told_when_to_ask_again(self):
        told = []
        pm = AcpiPm(clock=lambda: 0, on_schedule=lambda: told.append(True))
        pm.write(EN, 2, TMR_BIT)
        pm.write(STS, 2, TMR_BIT)
        pm.write(CNT, 2, 0)
        assert len(told) == 2


class TestReset:
    def test_it_releases_the_interrupt_and_starts_over(self, machine):
        machine.pm.write(EN, 2, PWRBTN_BIT)
        machine.pm.press_power_button()
        machine.now += SECOND
        machine.pm.reset()
        assert not machine.sci
        assert machine.pm.read(TMR, 4) == 0
        assert machine.pm.read(EN, 2) == 0


class TestState:
    def test_the_timer_goes_on_from_its_age(self, machine):
        machine.now += SECOND
        other = Machine()
        other.now = 1000 * SECOND
        other.pm.load(machine.pm.save())
        assert other.pm.read(TMR, 4) == TIMER_HZ
        other.now += SECOND
        assert other.pm.read(TMR, 4) == 2 * TIMER_HZ

    def test_a_status_that_was_cleared_stays_cleared(self, machine):
        machine.now += 3 * SECOND
        machine.pm.write(STS, 2, TMR_BIT)
        other = Machine()
        other.pm.load(machine.pm.save())
        assert other.pm.read(STS, 2) == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"status": 0x0002},
            {"enable": 0x0100 << 1},
            {"control": 0x0000},
            {"control": 0x2001},
            {"halves": 1},
        ],
    )
    def test_what_cannot_be_is_refused(self, machine, change):
        state = dataclasses.replace(machine.pm.save(), **change)
        with pytest.raises(StateError):
            machine.pm.load(state)
