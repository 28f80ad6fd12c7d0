"""INT 1Ah and INT 08h: the tick count and the real-time clock.

The tick count in the data area is raised by IRQ 0 where the machine has a timer. It also
follows the host's clock whenever it is asked for, so that it goes on with no timer at all.

Left out: the alarm and PCI BIOS (B1h), which answers that it is not there.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 1Ah - Time of Day.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping

from firmware.bios_data import Bda
from vmm.bios.host import BiosHost, MissingService, Service
from vmm.bios.registers import BiosRegisters

__all__ = ["TICKS_PER_DAY", "Clock", "ticks_since_midnight"]

TICKS_PER_DAY = 0x1800B0
_PIT_HZ = 1_193_182
_NS = 1_000_000_000
_DAY_S = 86_400


def ticks_since_midnight(wall_clock_ns: int) -> int:
    """Return the timer ticks between midnight (UTC) and a time in ns since the epoch."""
    return wall_clock_ns % (_DAY_S * _NS) * TICKS_PER_DAY // (_DAY_S * _NS)


def _bcd(value: int) -> int:
    return value // 10 % 10 << 4 | value % 10


def _from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 0x0F)


class Clock(Service):
    """The time services."""

    vector = 0x1A
    name = "time"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self._offset_ns = 0
        self._last = -1
        self._base_ticks = 0
        self._base_ns = 0
        self.functions = {
            0x00: self._get_ticks,
            0x01: self._set_ticks,
            0x02: self._get_time,
            0x03: self._set_time,
            0x04: self._get_date,
            0x05: self._set_date,
            0xB1: self._no_pci,
        }

    def save(self) -> dict[str, int]:
        """The base of the count, and what the guest has set the clock off by."""
        return {
            "offset_ns": self._offset_ns,
            "last": self._last,
            "base_ticks": self._base_ticks,
            "since_base_ns": self.host.clock_ns() - self._base_ns,
        }

    def load(self, saved: Mapping[str, int]) -> None:
        """Count on from where it was."""
        self._offset_ns, self._last = saved["offset_ns"], saved["last"]
        self._base_ticks = saved["base_ticks"]
        self._base_ns = self.host.clock_ns() - saved["since_base_ns"]

    def start(self) -> None:
        """Begin to count from the ticks that the data area holds."""
        self._last = -1
        self._advance(0)

    def tick(self) -> None:
        """Count a timer interrupt."""
        self._advance(1)

    def _advance(self, at_least: int) -> None:
        now = self.host.clock_ns()
        count = self.ram.get(Bda.TICKS, 4) % TICKS_PER_DAY
        if count != self._last:  # the first time, or a program set the count itself
            self._base_ticks, self._base_ns, self._last = count, now, count
        by_clock = self._base_ticks + (now - self._base_ns) * _PIT_HZ // (65536 * _NS)
        # The clock's count, measured from the count that is shown, over midnight as well.
        behind = (by_clock - count) % TICKS_PER_DAY
        step = max(at_least, behind if behind < TICKS_PER_DAY // 2 else 0)
        count += step
        if count >= TICKS_PER_DAY:
            count %= TICKS_PER_DAY
            self.ram.put(Bda.MIDNIGHT, 1)
        self._last = count
        self.ram.put(Bda.TICKS, count, 4)

    def _get_ticks(self, regs: BiosRegisters) -> None:
        self._advance(0)
        count = self.ram.get(Bda.TICKS, 4)
        regs.cx, regs.dx = count >> 16, count
        regs.al = self.ram.get(Bda.MIDNIGHT)
        regs.ah = 0
        self.ram.put(Bda.MIDNIGHT, 0)
        regs.carry = False

    def _set_ticks(self, regs: BiosRegisters) -> None:
        self.ram.put(Bda.TICKS, (regs.cx << 16 | regs.dx) % TICKS_PER_DAY, 4)
        self.ram.put(Bda.MIDNIGHT, 0)
        self.start()
        regs.ah = 0
        regs.carry = False

    # The real-time clock: the host's time in UTC, plus what the guest has set it off by.

    def _now_s(self) -> int:
        return (self.host.wall_clock_ns() + self._offset_ns) // _NS

    def _now(self) -> time.struct_time:
        return time.gmtime(self._now_s() % (253_402_300_800))  # up to the year 9999

    def _get_time(self, regs: BiosRegisters) -> None:
        now = self._now()
        regs.ch, regs.cl = _bcd(now.tm_hour), _bcd(now.tm_min)
        regs.dh, regs.dl = _bcd(now.tm_sec), 0
        regs.ah = 0
        regs.carry = False

    def _set_time(self, regs: BiosRegisters) -> None:
        hour, minute, second = _from_bcd(regs.ch), _from_bcd(regs.cl), _from_bcd(regs.dh)
        if hour > 23 or minute > 59 or second > 59:
            regs.carry = True
            return
        wanted = hour * 3600 + minute * 60 + second
        self._offset_ns += (wanted - self._now_s() % _DAY_S) * _NS
        regs.carry = False

    def _get_date(self, regs: BiosRegisters) -> None:
        now = self._now()
        regs.ch, regs.cl = _bcd(now.tm_year // 100), _bcd(now.tm_year % 100)
        regs.dh, regs.dl = _bcd(now.tm_mon), _bcd(now.tm_mday)
        regs.ah = 0
        regs.carry = False

    def _set_date(self, regs: BiosRegisters) -> None:
        year = _from_bcd(regs.ch) * 100 + _from_bcd(regs.cl)
        month, day = _from_bcd(regs.dh), _from_bcd(regs.dl)
        days = _days_since_epoch(year, month, day)
        regs.carry = days is None
        if days is not None:
            self._offset_ns += (days - self._now_s() // _DAY_S) * _DAY_S * _NS

    def _no_pci(self, regs: BiosRegisters) -> None:
        if regs.al != 0x01:
            raise MissingService
        regs.ah = 0x01  # anything but 0: not present
        regs.carry = True


def _days_since_epoch(year: int, month: int, day: int) -> int | None:
    """Return the days from 1970-01-01, None for what is no date of the clock's years."""
    try:
        date = datetime.date(year, month, day)
    except ValueError:
        return None
    days = (date - datetime.date(1970, 1, 1)).days
    return days if days >= 0 else None
