"""The fixed ACPI hardware of a PC: power button, power-off and the power management timer.

Modelled: the PM1a event and control blocks and the PM timer, laid out as in the PIIX4's power
management function with its I/O base at 0x600, which is where QEMU's PC has it once its firmware
has run. So the well-known `outw(0x604, 0x2000)` powers the machine off, with no ACPI tables.

Left out: the PCI function 00:01.3 that carries these registers on the chip. Firmware that finds
none leaves the block alone: SeaBIOS then takes the TSC as its clock, and does not try to set up
SMM through the chip's SMI port, for which it would wait without end. There is no SMM, therefore
no legacy mode: SCI_EN reads as 1 always, and a FADT must say SMI_CMD = 0. Sleep states other
than soft-off, general purpose events and the global lock do nothing.

Spec: ACPI 6.5, "ACPI Hardware Specification", "Power Management Timer"; Intel 82371AB (PIIX4)
data sheet, "Power Management I/O Registers".
"""

from __future__ import annotations

import time

from devices.pc_ports import ACPI_PM_PORTS as PORTS
from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.states import require, require_unsigned
from devices.wiring import Clock, IrqLine, Signal, StateError, no_irq, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State

__all__ = ["PM_TIMER_HZ", "PORTS", "AcpiPm", "AcpiPmState"]

PM_TIMER_HZ = 3_579_545
PM_TIMER_BITS = 24
NS_PER_S = 1_000_000_000

SOFT_OFF = 0
"""SLP_TYP of S5 on the PIIX4, so also what _S5 in a DSDT for this block says."""

EVENTS = 0x0521
"""The events that can be enabled, the same bits in PM1_STS and PM1_EN."""

PM1_STS = Register(
    "PM1_STS",
    0,
    size=2,
    writable=0,
    w1c=0x8521,
    fields=bits(TMR_STS=0, GBL_STS=5, PWRBTN_STS=8, RTC_STS=10, WAK_STS=15),
)
PM1_EN = Register(
    "PM1_EN",
    2,
    size=2,
    writable=EVENTS,
    fields=bits(TMR_EN=0, GBL_EN=5, PWRBTN_EN=8, RTC_EN=10),
)
PM1_CNT = Register(
    "PM1_CNT",
    4,
    size=2,
    reset=0x0001,
    # GBL_RLS and SLP_EN do something when written and read as 0.
    writable=0x1C02,
    fields=bits(SCI_EN=0, BM_RLD=1, GBL_RLS=2, SLP_TYP=(12, 10), SLP_EN=13),
)
PM_TMR = Register("PM_TMR", 8, size=4, access="r", doc="24 bits at 3.579545 MHz.")

REGISTERS = RegisterTable(PM1_STS, PM1_EN, PM1_CNT, PM_TMR)

TMR_STS = PM1_STS.mask("TMR_STS")
PWRBTN_STS = PM1_STS.mask("PWRBTN_STS")
TMR_EN = PM1_EN.mask("TMR_EN")
PWRBTN_EN = PM1_EN.mask("PWRBTN_EN")
SLP_EN = PM1_CNT.mask("SLP_EN")


class AcpiPmState(Record):
    """The registers, and the timer's age in nanoseconds."""

    kind: ClassVar[str] = "acpi-pm"
    version: ClassVar[int] = 1

    status: int
    enable: int
    control: int
    elapsed_ns: int
    halves: int
    """How many times the timer's highest bit had changed when that was last looked at."""


class AcpiPm(RegisterDevice):
    """The fixed hardware, with `clock` (nanoseconds, monotonic) behind its timer.

    `irq` is the SCI: level-triggered, usually interrupt 9. `on_poweroff` is called when the guest
    enters soft-off. Where a guest enables the timer's interrupt, the machine calls `tick` at the
    time that `next_event_ns` names; without that the status bit is still right when it is read.
    `on_schedule` is called when that time may have changed. `since_ns` is when by `clock` the power
    came on, if that was not now.
    """

    registers = REGISTERS
    inputs = ("next_event_ns", "press_power_button", "tick")

    def __init__(
        self,
        name: str = "acpi-pm",
        *,
        clock: Clock = time.monotonic_ns,
        irq: IrqLine = no_irq,
        on_poweroff: Signal = no_signal,
        on_schedule: Signal = no_signal,
        since_ns: int | None = None,
    ) -> None:
        super().__init__(name)
        self._clock = clock
        self._irq = irq
        self._on_poweroff = on_poweroff
        self._on_schedule = on_schedule
        self._origin_ns = clock() if since_ns is None else since_ns
        self._halves = 0

    @property
    def listens(self) -> bool:
        """Whether the guest has enabled the button's event."""
        return bool(self.values["PM1_EN"] & PWRBTN_EN)

    def press_power_button(self) -> None:
        """Press the button: a guest that listens shuts itself down."""
        self.values["PM1_STS"] |= PWRBTN_STS
        self._drive()

    def next_event_ns(self) -> int | None:
        """When, by `clock`, the timer raises the SCI next; None if it will not."""
        self._sync()
        if not self.values["PM1_EN"] & TMR_EN or self.values["PM1_STS"] & TMR_STS:
            return None
        ticks = (self._halves + 1) << (PM_TIMER_BITS - 1)
        return self._origin_ns - (-ticks * NS_PER_S // PM_TIMER_HZ)

    def tick(self) -> None:
        """Catch up with the clock and drive the SCI."""
        self._sync()
        self._drive()

    def read_PM1_STS(self) -> int:
        """Return the status, the timer's bit up to date."""
        self.tick()
        return self.values["PM1_STS"]

    def write_PM1_STS(self, value: int) -> None:
        """Clear the status bits that are written as 1."""
        self._sync()
        self.values["PM1_STS"] = PM1_STS.merge(self.values["PM1_STS"], value)
        self._drive()
        self._on_schedule()

    def write_PM1_EN(self, value: int) -> None:
        """Choose the events that raise the SCI."""
        self._sync()
        self.values["PM1_EN"] = PM1_EN.merge(self.values["PM1_EN"], value)
        self._drive()
        self._on_schedule()

    def write_PM1_CNT(self, value: int) -> None:
        """Keep the sleep type, and enter soft-off when SLP_EN asks for it."""
        self.values["PM1_CNT"] = PM1_CNT.merge(self.values["PM1_CNT"], value)
        if value & SLP_EN and PM1_CNT["SLP_TYP"].get(value) == SOFT_OFF:
            self._on_poweroff()

    def read_PM_TMR(self) -> int:
        """Return the timer, which wraps every 4.7 s."""
        return self._ticks() & ((1 << PM_TIMER_BITS) - 1)

    def reset(self) -> None:
        """Clear the registers, start the timer again and release the SCI."""
        super().reset()
        self._origin_ns = self._clock()
        self._halves = 0
        self._drive()

    def save(self) -> AcpiPmState:
        """Return the registers and the timer's age."""
        return AcpiPmState(
            status=self.values["PM1_STS"],
            enable=self.values["PM1_EN"],
            control=self.values["PM1_CNT"],
            elapsed_ns=self._elapsed_ns(),
            halves=self._halves,
        )

    def load(self, state: State) -> None:
        """Take over the registers, and let the timer go on from its saved age.

        Raises:
            StateError: it is another device's, or a bit is set that cannot be.
        """
        state = require(state, AcpiPmState)
        require_unsigned(state, status=16, enable=16, control=16, elapsed_ns=64, halves=64)
        if state.status & ~PM1_STS.w1c or state.enable & ~EVENTS:
            raise StateError("'acpi-pm': a reserved bit is set in the PM1 event registers")
        if PM1_CNT.merge(PM1_CNT.reset, state.control) != state.control:
            raise StateError("'acpi-pm' field control: a reserved bit is set")
        if state.halves > _half_periods(state.elapsed_ns):
            raise StateError("'acpi-pm' field halves: the timer has not come that far")
        self.values.update(PM1_STS=state.status, PM1_EN=state.enable, PM1_CNT=state.control)
        self._origin_ns = self._clock() - state.elapsed_ns
        self._halves = state.halves

    def _elapsed_ns(self) -> int:
        return max(0, self._clock() - self._origin_ns)

    def _ticks(self) -> int:
        return self._elapsed_ns() * PM_TIMER_HZ // NS_PER_S

    def _sync(self) -> None:
        """Set TMR_STS if the timer's highest bit has changed since the last look."""
        halves = self._ticks() >> (PM_TIMER_BITS - 1)
        if halves != self._halves:
            self._halves = halves
            self.values["PM1_STS"] |= TMR_STS

    def _drive(self) -> None:
        self._irq(bool(self.values["PM1_STS"] & self.values["PM1_EN"] & EVENTS))


def _half_periods(elapsed_ns: int) -> int:
    return (elapsed_ns * PM_TIMER_HZ // NS_PER_S) >> (PM_TIMER_BITS - 1)
