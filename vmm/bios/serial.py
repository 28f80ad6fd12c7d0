"""INT 14h, serial ports: the UARTs of the machine, through their registers.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 14h - Asynchronous
Communications; National Semiconductor PC16550D, Registers.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmm.bios.host import WAIT_S, BiosHost, Service
from vmm.bios.registers import BiosRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device

__all__ = ["Serial"]

_DATA, _DIVISOR_HIGH, _LINE_CONTROL, _MODEM_CONTROL = 0, 1, 3, 4
_LINE_STATUS, _MODEM_STATUS = 5, 6
_DATA_READY, _TRANSMITTER_EMPTY = 0x01, 0x20
_TIMED_OUT = 0x80
_RECEIVE_TIMEOUT_NS = 1_000_000_000
_DIVISORS = (1047, 768, 384, 192, 96, 48, 24, 12)  # 110 to 9600 baud


class Serial(Service):
    """The serial port services."""

    vector = 0x14
    name = "serial port"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self._deadline_ns = 0
        self.functions = {
            0x00: self._initialise,
            0x01: self._send,
            0x02: self._receive,
            0x03: self._status,
        }

    def save(self) -> dict[str, int]:
        """How long a byte is waited for."""
        return {"deadline_ns": self._deadline_ns - self.host.clock_ns()}

    def load(self, saved: Mapping[str, int]) -> None:
        """Wait on for it."""
        self._deadline_ns = self.host.clock_ns() + saved["deadline_ns"]

    def missing(self, regs: BiosRegisters) -> None:
        """Answer as an absent port does: timed out."""
        regs.ah = _TIMED_OUT

    def _port(self, regs: BiosRegisters) -> Device | None:
        port = self.host.serial.get(regs.dx)
        if port is None:
            regs.ah = _TIMED_OUT
        return port

    def _initialise(self, regs: BiosRegisters) -> None:
        port = self._port(regs)
        if port is None:
            return
        divisor = _DIVISORS[regs.al >> 5]
        port.write(_LINE_CONTROL, 1, 0x80)
        port.write(_DATA, 1, divisor & 0xFF)
        port.write(_DIVISOR_HIGH, 1, divisor >> 8)
        port.write(_LINE_CONTROL, 1, regs.al & 0x1F)
        port.write(_MODEM_CONTROL, 1, 0x03)  # DTR and RTS
        self._status(regs)

    def _send(self, regs: BiosRegisters) -> None:
        port = self._port(regs)
        if port is None:
            return
        line = port.read(_LINE_STATUS, 1)
        if line & _TRANSMITTER_EMPTY:
            port.write(_DATA, 1, regs.al)
            regs.ah = line & 0x7F
        else:
            regs.ah = line | _TIMED_OUT

    def _receive(self, regs: BiosRegisters) -> None:
        port = self._port(regs)
        if port is None:
            return
        line = port.read(_LINE_STATUS, 1)
        if line & _DATA_READY:
            regs.al = port.read(_DATA, 1)
            regs.ah = line & 0x1E  # errors only
            regs.stub_carry = False
            return
        now = self.host.clock_ns()
        if not regs.stub_carry:
            self._deadline_ns = now + _RECEIVE_TIMEOUT_NS
        if now < self._deadline_ns:
            self.host.pause(WAIT_S / 4)
            regs.stub_carry = True
        else:
            regs.stub_carry = False
            regs.ah = _TIMED_OUT

    def _status(self, regs: BiosRegisters) -> None:
        port = self._port(regs)
        if port is not None:
            regs.ah = port.read(_LINE_STATUS, 1) & 0x7F
            regs.al = port.read(_MODEM_STATUS, 1)
