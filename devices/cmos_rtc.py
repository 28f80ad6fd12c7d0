"""The PC's real-time clock with its battery-backed memory: an MC146818 at ports 0x70 and 0x71.

Modelled: the time, BCD or binary, in 12 or 24 hours, with the century that PCs keep in cell 0x32;
setting it by the SET bit or through the divider; the update-in-progress bit; the alarm, update and
periodic flags and their interrupt; the cells that firmware reads. The index port is write-only
and reads as ones, as on most chipsets.

The time is the host's (`clock`) plus an offset that the guest changes by setting it. The model has
no timer of its own: flags are worked out from the clock whenever they are looked at, and for the
interrupts the machine calls `tick` at the time that `next_event_ns` names. Several periods that
pass unseen make one interrupt, as on the chip.

Left out: the square wave, daylight saving (its bit is kept), other crystals than 32.768 kHz. The
weekday follows from the date whatever is written to its cell. `reset` is the chip's RESET pin: the
battery keeps the time and the memory, so a shutdown code survives it.

Spec: Motorola MC146818A data sheet, "Registers", "Update Cycle", "Interrupts"; IBM PC/AT Technical
Reference, "Real-Time Clock/CMOS RAM".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from devices.cmos_layout import firmware_cells
from devices.cmos_registers import (
    CELL_NAMES,
    REGISTERS,
    STATUS_A,
    STATUS_B,
    STATUS_C,
    STATUS_CELLS,
    CmosRtcState,
)
from devices.pc_ports import CMOS_PORTS as PORTS
from devices.registers import Register, RegisterDevice
from devices.states import require
from devices.wiring import Clock, IrqLine, Signal, no_irq, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import State

__all__ = ["PORTS", "CmosRtc", "CmosRtcState"]

_SECOND = 1_000_000_000
_DAY_SECONDS = 86_400
_UPDATE_NS = (244 + 1984) * 1000
"""UIP goes up 244 us before an update cycle, which takes 1984 us and ends with the new second."""
_FIRST_UPDATE_NS = _SECOND // 2
"""From the release of the divider's reset to the first update."""

_EPOCH = datetime(1970, 1, 1)
_FIRST_SECOND = int((datetime(1, 1, 1) - _EPOCH).total_seconds())
_LAST_SECOND = int((datetime(9999, 12, 31, 23, 59, 59) - _EPOCH).total_seconds())

_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32
_TIME_CELLS = frozenset({_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY})
_SECONDS_ALARM, _MINUTES_ALARM, _HOURS_ALARM = 1, 3, 5
_ALARM_CELLS = frozenset({_SECONDS_ALARM, _MINUTES_ALARM, _HOURS_ALARM})
_A, _B, _C, _D = STATUS_CELLS
_SHUTDOWN = 0x0F
_ANY = 0xC0
"""An alarm cell with both high bits set matches every value."""

_UIP, _STOPPED_DIVIDER = STATUS_A.mask("UIP"), 0x60
_RATE = STATUS_A["RS"]
_SET, _BINARY, _HOURS_24 = (STATUS_B.mask(name) for name in ("SET", "DM", "H24"))
_UIE, _AIE, _PIE = (STATUS_B.mask(name) for name in ("UIE", "AIE", "PIE"))
_ENABLES = STATUS_B.mask("PIE", "AIE", "UIE", "SQWE")
_UF, _AF, _PF, _IRQF = (STATUS_C.mask(name) for name in ("UF", "AF", "PF", "IRQF"))
_INTERRUPTS = _UF | _AF | _PF
"""The flags; in status B the same bits enable their interrupts."""
_PM = 0x80
_NMI_OFF, _CELL = 0x80, 0x7F


class CmosRtc(RegisterDevice):
    """The clock, fed by `clock`: nanoseconds since 1970, in the time zone the guest shall see.

    Memory sizes are in bytes. `boot_order` names up to three devices: "a" floppy, "c" disk, "d"
    CD-ROM, "n" network. `irq` is interrupt 8. `on_schedule` is called when what `next_event_ns`
    answers may have changed. `since_ns` is when by `clock` the power came on, if that was not now.

    Raises:
        ValueError: `boot_order` is not one.
    """

    registers = REGISTERS
    inputs = ("next_event_ns", "tick")

    def __init__(
        self,
        name: str = "rtc",
        *,
        clock: Clock = time.time_ns,
        memory_below_4g: int = 1 << 20,
        memory_above_4g: int = 0,
        cpus: int = 1,
        boot_order: str = "c",
        irq: IrqLine = no_irq,
        on_schedule: Signal = no_signal,
        since_ns: int | None = None,
    ) -> None:
        super().__init__(name)
        self._clock = clock
        self._irq = irq
        self._on_schedule = on_schedule
        self._level = False
        self._offset_ns = 0
        self._seen_ns = clock() if since_ns is None else since_ns
        for index, value in firmware_cells(
            memory_below_4g=memory_below_4g,
            memory_above_4g=memory_above_4g,
            cpus=cpus,
            boot_order=boot_order,
        ).items():
            self.values[CELL_NAMES[index]] = value

    # The outside.

    @property
    def shutdown_code(self) -> int:
        """Cell 0x0F: what firmware is to do after the next reset (5 and 10: jump to 40:67)."""
        return self.values[CELL_NAMES[_SHUTDOWN]]

    @property
    def nmi_masked(self) -> bool:
        """Whether bit 7 of the index port holds back non-maskable interrupts."""
        return bool(self.values["INDEX"] & _NMI_OFF)

    def next_event_ns(self) -> int | None:
        """When, by `clock`, an enabled flag raises the interrupt next; None if none will.

        A time that has passed means that `tick` is due.
        """
        enabled = self.values["STATUS_B"]
        if self.values["STATUS_C"] & enabled & _INTERRUPTS:
            return None  # The line is up, and stays up until status C is read.
        seen = self._seen_ns + self._offset_ns
        times = []
        rate = self._rate_hz
        if enabled & _PIE and rate:
            times.append(-(-(seen * rate // _SECOND + 1) * _SECOND // rate))
        if enabled & _UIE and self._running:
            times.append((seen // _SECOND + 1) * _SECOND)
        if enabled & _AIE and self._running:
            alarm = self._next_alarm(seen // _SECOND)
            if alarm is not None:
                times.append(alarm * _SECOND)
        return min(times) - self._offset_ns if times else None

    def tick(self, now_ns: int | None = None) -> None:
        """Catch up with `clock` (or with the time given) and drive the interrupt."""
        self._catch_up(self._clock() if now_ns is None else now_ns)
        self._update_irq()
        self._on_schedule()

    # The bus.

    def read(self, offset: int, size: int) -> int:
        """Answer a read; the index port reads as ones."""
        if offset == 1 and size == 1:
            return self._read_cell(self.values["INDEX"] & _CELL)
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a cell, or write the selected one."""
        if offset == 1 and size == 1:
            self._write_cell(self.values["INDEX"] & _CELL, value)
        else:
            super().write(offset, size, value)

    def reset(self) -> None:
        """Clear the interrupts, as the RESET pin does; the battery keeps the rest."""
        self._catch_up(self._clock())
        self.values["INDEX"] = 0
        self.values["STATUS_B"] &= ~_ENABLES
        self.values["STATUS_C"] = 0
        self._changed()

    def _connect(self, register: Register) -> None:
        super()._connect(register)
        if register.when is not None:
            self._readers[register.name] = partial(self._read_cell, register.when.equals)
            self._writers[register.name] = partial(self._write_cell, register.when.equals)

    def _read_cell(self, index: int) -> int:
        stored = self.values[CELL_NAMES[index]]
        if index in _TIME_CELLS and self._running:
            return self._time_cells()[index]
        if index == _A:
            phase = (self._clock() + self._offset_ns) % _SECOND
            return stored | (_UIP if self._running and phase >= _SECOND - _UPDATE_NS else 0)
        if index == _C:
            return self._take_flags()
        return stored

    def _write_cell(self, index: int, value: int) -> None:
        name = CELL_NAMES[index]
        if index in (_C, _D):
            return
        if index in _TIME_CELLS:
            running = self._running
            if running:
                self._stop()
            self.values[name] = value
            if running:
                self._start(self._phase_ns())
            self._changed()
        elif index in _ALARM_CELLS:
            self._catch_up(self._clock())
            self.values[name] = value
            self._changed()
        elif index in (_A, _B):
            self._reconfigure(name, value & ~_UIP if index == _A else value)
        else:
            self.values[name] = value

    def _reconfigure(self, name: str, value: int) -> None:
        """Write status A or B, which may stop the clock or let it go on."""
        was_running, divider_stopped = self._running, self._divider_stopped
        phase = self._phase_ns()
        self._catch_up(self._clock())
        cells = self._time_cells()
        self.values[name] = value
        if self.values["STATUS_B"] & _SET:
            self.values["STATUS_B"] &= ~_UIE  # As on the chip: no update, no interrupt of it.
        if was_running and not self._running:
            self._keep(cells)  # In the format that was valid when it stopped.
        if divider_stopped and not self._divider_stopped:
            phase = _FIRST_UPDATE_NS
            self._offset_ns = phase - self._clock()  # The chain counts from here on.
        if self._running and not was_running:
            self._start(phase)
        self._changed()

    def _take_flags(self) -> int:
        """Read status C, which clears it and releases the interrupt."""
        self._catch_up(self._clock())
        flags = self.values["STATUS_C"]
        self.values["STATUS_C"] = 0
        raised = flags & self.values["STATUS_B"] & _INTERRUPTS
        self._changed()
        return flags | (_IRQF if raised else 0)

    # The time.

    @property
    def _divider_stopped(self) -> bool:
        return self.values["STATUS_A"] & _STOPPED_DIVIDER == _STOPPED_DIVIDER

    @property
    def _running(self) -> bool:
        return not (self.values["STATUS_B"] & _SET or self._divider_stopped)

    @property
    def _rate_hz(self) -> int:
        """The frequency of the periodic flag; 0 for none."""
        select = _RATE.get(self.values["STATUS_A"])
        if not select or self._divider_stopped:
            return 0
        # The two highest taps of a 32.768 kHz crystal's divider repeat lower ones.
        return 1 << (9 - select) if select < 3 else 1 << (16 - select)

    def _phase_ns(self) -> int:
        """How far the current second has come."""
        return (self._clock() + self._offset_ns) % _SECOND

    def _stop(self) -> None:
        """Put the time into its cells, where the guest changes it."""
        self._catch_up(self._clock())
        self._keep(self._time_cells())

    def _keep(self, cells: dict[int, int]) -> None:
        self.values.update((CELL_NAMES[index], value) for index, value in cells.items())

    def _start(self, phase_ns: int) -> None:
        """Go on from the time in the cells, with so much of its second gone."""
        now = self._clock()
        self._offset_ns = self._second_in_cells() * _SECOND + phase_ns - now
        self._seen_ns = now

    def _time_cells(self) -> dict[int, int]:
        """The time as the cells show it."""
        second = (self._clock() + self._offset_ns) // _SECOND
        when = _EPOCH + timedelta(seconds=min(max(second, _FIRST_SECOND), _LAST_SECOND))
        encode = self._encode
        return {
            _SECONDS: encode(when.second),
            _MINUTES: encode(when.minute),
            _HOURS: self._encode_hour(when.hour),
            _WEEKDAY: encode(when.isoweekday() % 7 + 1),
            _DAY: encode(when.day),
            _MONTH: encode(when.month),
            _YEAR: encode(when.year % 100),
            _CENTURY: encode(when.year // 100),
        }

    def _second_in_cells(self) -> int:
        """The time in the cells, in seconds since 1970; what is too large is carried over."""
        get = self._decoded
        hour = self.values[CELL_NAMES[_HOURS]]
        if not self.values["STATUS_B"] & _HOURS_24:
            hour = self._decode(hour & ~_PM) % 12 + (12 if hour & _PM else 0)
        else:
            hour = self._decode(hour)
        year = min(max(get(_CENTURY) * 100 + get(_YEAR), 1), 9999)
        month = min(max(get(_MONTH), 1), 12)
        days = (datetime(year, month, 1) - _EPOCH).days + get(_DAY) - 1
        return days * _DAY_SECONDS + hour * 3600 + get(_MINUTES) * 60 + get(_SECONDS)

    def _decoded(self, index: int) -> int:
        return self._decode(self.values[CELL_NAMES[index]])

    def _decode(self, value: int) -> int:
        return value if self.values["STATUS_B"] & _BINARY else (value >> 4) * 10 + (value & 0x0F)

    def _encode(self, value: int) -> int:
        return value if self.values["STATUS_B"] & _BINARY else value // 10 << 4 | value % 10

    def _encode_hour(self, hour: int) -> int:
        if self.values["STATUS_B"] & _HOURS_24:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (_PM if hour >= 12 else 0)

    # Flags and the interrupt.

    def _catch_up(self, now_ns: int) -> None:
        """Set the flags of everything that happened since the last look."""
        # Where the host's clock was set back nothing has happened.
        before, self._seen_ns = min(self._seen_ns, now_ns) + self._offset_ns, now_ns
        now = now_ns + self._offset_ns
        rate = self._rate_hz
        if now * rate // _SECOND > before * rate // _SECOND:
            self.values["STATUS_C"] |= _PF
        if self._running and now // _SECOND > before // _SECOND:
            self.values["STATUS_C"] |= _UF
            alarm = self._next_alarm(before // _SECOND)
            if alarm is not None and alarm <= now // _SECOND:
                self.values["STATUS_C"] |= _AF

    def _next_alarm(self, second: int) -> int | None:
        """The first second after `second` that the alarm matches; None if it never does."""
        hours = self._matches(_HOURS_ALARM, 24, self._encode_hour)
        minutes = self._matches(_MINUTES_ALARM, 60, self._encode)
        seconds = self._matches(_SECONDS_ALARM, 60, self._encode)
        midnight = second - second % _DAY_SECONDS
        for day in (midnight, midnight + _DAY_SECONDS):
            for hour in hours:
                if day + hour * 3600 + 3599 <= second:
                    continue
                for minute in minutes:
                    start = day + hour * 3600 + minute * 60
                    for found in seconds:
                        if start + found > second:
                            return start + found
        return None

    def _matches(self, index: int, limit: int, encode: Callable[[int], int]) -> Sequence[int]:
        """The values that an alarm cell matches: all of them, one, or none that is a time."""
        wanted = self.values[CELL_NAMES[index]]
        if wanted & _ANY == _ANY:
            return range(limit)
        return [value for value in range(limit) if encode(value) == wanted]

    def _changed(self) -> None:
        self._update_irq()
        self._on_schedule()

    def _update_irq(self) -> None:
        level = bool(self.values["STATUS_C"] & self.values["STATUS_B"] & _INTERRUPTS)
        if level != self._level:
            self._level = level
            self._irq(level)

    # Snapshots.

    def save(self) -> CmosRtcState:
        """Return the cells and the clock's distance from the host's."""
        values = self.values
        return CmosRtcState(
            index=values["INDEX"],
            status_a=values["STATUS_A"],
            control=values["STATUS_B"] & ~_ENABLES,
            enables=values["STATUS_B"] & _ENABLES,
            flags=values["STATUS_C"],
            cells=bytes(
                0 if index in STATUS_CELLS else values[name]
                for index, name in enumerate(CELL_NAMES)
            ),
            offset_ns=self._offset_ns,
            seen_ns=self._seen_ns,
        )

    def load(self, state: State) -> None:
        """Become the clock that `state` was saved from; time has gone on in between.

        Raises:
            StateError: it is another device's, or a field is out of range; nothing changes.
        """
        state = require(state, CmosRtcState)
        state.check()
        for index, name in enumerate(CELL_NAMES):
            if index not in STATUS_CELLS:
                self.values[name] = state.cells[index]
        self.values.update(
            INDEX=state.index,
            STATUS_A=state.status_a,
            STATUS_B=state.control | state.enables,
            STATUS_C=state.flags,
        )
        self._offset_ns = state.offset_ns
        self._seen_ns = state.seen_ns
        self._changed()
