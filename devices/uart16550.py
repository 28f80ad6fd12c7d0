"""The PC's serial port: a National Semiconductor 16550A.

Modelled: all twelve registers, both FIFOs with the receiver's trigger levels, the interrupt
priorities, loopback, break, overrun, modem inputs with their delta bits, and the PC's gate of the
interrupt pin by OUT2. Sending takes no time: a byte that is written has left, so LSR always says
that the transmitter is empty, and the FIFO of the transmitter never holds anything.

Left out: the line itself. Baud rate, word length and parity are kept and read back but change
nothing, and no byte from outside has a parity or framing error. Time does not pass either, so
where the chip would wait four character times for its character timeout interrupt, the timeout
has come as soon as the receiver holds fewer characters than its trigger level.

Spec: PC16550D data sheet, "Registers", "FIFO Interrupt Mode Operation"; IBM PC/AT Technical
Reference, "Serial/Parallel Adapter" (OUT2).
"""

from __future__ import annotations

from collections import deque

from devices.registers import RegisterDevice
from devices.states import require
from devices.uart16550_registers import (
    FCR,
    FIFO_SIZE,
    IER,
    IIR,
    LCR,
    LSR,
    MCR,
    MSR,
    REGISTERS,
    Uart16550State,
)
from devices.wiring import ByteSink, IrqLine, Signal, discard, no_irq, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import State

__all__ = ["COM_PORTS", "FIFO_SIZE", "Uart16550", "Uart16550State"]

COM_PORTS = (range(0x3F8, 0x400), range(0x2F8, 0x300), range(0x3E8, 0x3F0), range(0x2E8, 0x2F0))
"""Where a PC has COM1 to COM4; their interrupts are 4, 3, 4 and 3."""

_RDI, _THRI, _RLSI, _MSI = (IER.mask(name) for name in ("RDI", "THRI", "RLSI", "MSI"))
_LINE, _DATA, _TIMEOUT, _THRE, _MODEM, _NONE = 0x6, 0x4, 0xC, 0x2, 0x0, 0x1  # IIR.ID
_FIFO_ON = IIR.mask("FIFO")
_ENABLE, _CLEAR_RX, _TRIGGER = FCR.mask("ENABLE"), FCR.mask("CLEAR_RX"), FCR["TRIGGER"]
_FCR_KEPT = FCR.mask("ENABLE", "DMA", "TRIGGER")
_TRIGGER_LEVELS = (1, 4, 8, 14)
_BREAK, _DLAB = LCR.mask("BREAK"), LCR.mask("DLAB")
_DTR, _RTS, _OUT1, _OUT2, _LOOP = (MCR.mask(n) for n in ("DTR", "RTS", "OUT1", "OUT2", "LOOP"))
_MCR_KEPT = MCR.mask("DTR", "RTS", "OUT1", "OUT2", "LOOP")
_DR, _OE, _FIFOE = LSR.mask("DR"), LSR.mask("OE"), LSR.mask("FIFOE")
_OF_CHARACTER = LSR.mask("PE", "FE", "BI")
_LINE_ERRORS = _OE | _OF_CHARACTER
_ON_LSR_READ = _LINE_ERRORS | _FIFOE
_BREAK_ERRORS = LSR.mask("FE", "BI")
_TERI, _CTS, _DSR, _RI, _DCD = (MSR.mask(name) for name in ("TERI", "CTS", "DSR", "RI", "DCD"))
_DELTAS, _LINES = 0x0F, 0xF0

# One object a byte value: a print loop must not build one for each character.
_BYTES = tuple(bytes((value,)) for value in range(256))


class Uart16550(RegisterDevice):
    """A serial port that sends to `out` and is given what arrives by `receive`.

    `irq` is the interrupt line of the PC, behind the OUT2 gate. `on_room` is called when the
    guest has emptied the receiver, so that a host that holds bytes back offers them again; it may
    call `receive` at once.
    """

    registers = REGISTERS
    inputs = ("receive", "receive_break", "set_modem_lines")

    def __init__(
        self,
        name: str = "com1",
        *,
        irq: IrqLine = no_irq,
        out: ByteSink = discard,
        on_room: Signal = no_signal,
    ) -> None:
        super().__init__(name)
        self._irq = irq
        self._out = out
        self._on_room = on_room
        # A character, and above it (shifted by 8) those of its errors that LSR has not shown.
        self._fifo: deque[int] = deque()
        self._inputs = _DCD | _DSR | _CTS
        self._thre_pending = False
        self._burst = 0
        self._level = False
        self._direct = True

    # The outside.

    def receive(self, data: bytes) -> int:
        """Take bytes that arrive from outside; return how many of them there was room for.

        In loopback the receiver is cut off from the line and takes none.
        """
        if self.values["MCR"] & _LOOP:
            return 0
        taken = data[: self._capacity - len(self._fifo)]
        if taken:
            self._fifo.extend(taken)
            self.values["LSR"] |= _DR
            self._update_irq()
        return len(taken)

    def receive_break(self) -> bool:
        """Take a break from outside (Linux's SysRq); return False where there was no room."""
        if self.values["MCR"] & _LOOP or len(self._fifo) >= self._capacity:
            return False
        self._push(0, _BREAK_ERRORS)
        self._update_irq()
        return True

    def set_modem_lines(
        self, *, cts: bool = True, dsr: bool = True, dcd: bool = True, ri: bool = False
    ) -> None:
        """Set the four modem inputs. At first a ready modem with a carrier is connected."""
        self._inputs = cts * _CTS | dsr * _DSR | dcd * _DCD | ri * _RI
        self._sense_modem()
        self._update_irq()

    # The bus.

    def read(self, offset: int, size: int) -> int:
        """Answer a read; the line status and data registers, which guests poll, go first."""
        if size == 1:
            if offset == 5:
                status = self.values["LSR"]
                return self.read_LSR() if status & _ON_LSR_READ else status
            if offset == 0 and not self.values["LCR"] & _DLAB:
                return self.read_RBR()
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write; a byte to be sent goes first."""
        if not offset and size == 1:
            if self._direct:
                self._out(_BYTES[value & 0xFF])
                return
            if not self.values["LCR"] & _DLAB:
                self.write_THR(value & 0xFF)
                return
        super().write(offset, size, value)

    def read_RBR(self) -> int:
        """Take the oldest character out of the receiver; an empty one repeats the last."""
        values = self.values
        if not self._fifo:
            return values["RBR"]
        values["RBR"] = self._fifo.popleft() & 0xFF
        if self._fifo:
            self._show_errors()
            # A read ends a timeout; the next one is a new edge. A handler that takes one
            # character an interrupt, behind an edge-triggered controller, waits for it.
            if self._interrupt() == _TIMEOUT:
                self._drive(False)
        else:
            values["LSR"] &= ~_DR
        self._update_irq()
        if not self._fifo:
            self._on_room()
        return values["RBR"]

    def write_THR(self, value: int) -> None:
        """Send a character; the register is empty again when this returns."""
        if self.values["MCR"] & _LOOP:
            self._push(value, 0)
        else:
            self._out(_BYTES[value])
        if self.values["IER"] & _THRI:
            # Loading the register ends the interrupt and its emptying starts another: an edge.
            # A driver that has just read IIR fills the FIFO in one go and wants one interrupt for
            # all of it; one that never reads IIR (simple kernels) wants one for each character.
            if self._burst:
                self._burst -= 1
            else:
                self._drive(False)
            self._thre_pending = True
        self._update_irq()

    def write_IER(self, value: int) -> None:
        """Enable interrupts. Enabling THRI while the register is empty raises it at once.

        Linux (`serial8250_do_startup`) tests for it and falls back to a slow timer otherwise.
        """
        new = value & (_RDI | _THRI | _RLSI | _MSI)
        if new & _THRI & ~self.values["IER"]:
            self._thre_pending = True
            self._burst = 0
        elif not new & _THRI:
            self._thre_pending = False
        self.values["IER"] = new
        self._update()

    def read_IIR(self) -> int:
        """Name the most urgent interrupt; reading ends a THRE interrupt, and only that one."""
        found = self._interrupt()
        if found == _THRE:
            self._thre_pending = False
            self._burst = self._capacity
            self._update_irq()
        return found | (_FIFO_ON if self.values["FCR"] & _ENABLE else 0)

    def write_FCR(self, value: int) -> None:
        """Switch the FIFOs and set the trigger level; the clear bits do not stay.

        While bit 0 is written as 0 the other bits are not programmed.
        """
        new = value & _FCR_KEPT if value & _ENABLE else 0
        switched = (new ^ self.values["FCR"]) & _ENABLE
        clear = switched or (value & _ENABLE and value & _CLEAR_RX)
        self.values["FCR"] = new
        # A transmitter without its FIFO takes one character a time.
        self._burst = min(self._burst, self._capacity)
        if clear:
            self._fifo.clear()
            self.values["LSR"] &= ~(_DR | _OF_CHARACTER | _FIFOE)
        self._update_irq()
        if clear:
            self._on_room()

    def write_LCR(self, value: int) -> None:
        """Set the line format and the divisor latch bit; in loopback a break comes back."""
        begins = value & ~self.values["LCR"] & _BREAK
        self.values["LCR"] = value
        if begins and self.values["MCR"] & _LOOP:
            self._push(0, _BREAK_ERRORS)
        self._update()

    def write_MCR(self, value: int) -> None:
        """Set the modem outputs and loopback; bits 7 to 5 stay 0."""
        left = self.values["MCR"] & ~value & _LOOP
        self.values["MCR"] = value & _MCR_KEPT
        self._sense_modem()
        self._update()
        if left and not self._fifo:
            self._on_room()

    def read_LSR(self) -> int:
        """Report the line status; reading clears the errors that it shows."""
        status = self.values["LSR"]
        self.values["LSR"] &= ~_LINE_ERRORS
        if not any(character >> 8 for character in self._fifo):
            self.values["LSR"] &= ~_FIFOE
        self._update_irq()
        return status

    def read_MSR(self) -> int:
        """Report the modem lines; reading clears their delta bits."""
        status = self.values["MSR"]
        self.values["MSR"] &= _LINES
        self._update_irq()
        return status

    def reset(self) -> None:
        """Return to the state after power-on; what the modem lines carry stays."""
        super().reset()
        self._fifo.clear()
        self._thre_pending = False
        self._burst = 0
        self.values["MSR"] = self._inputs
        self._update()
        self._on_room()

    # Inside of the chip.

    @property
    def _capacity(self) -> int:
        return FIFO_SIZE if self.values["FCR"] & _ENABLE else 1

    def _push(self, character: int, errors: int) -> None:
        """Put a character into the receiver; what does not fit is an overrun."""
        values = self.values
        if len(self._fifo) >= self._capacity:
            values["LSR"] |= _OE
            if values["FCR"] & _ENABLE:
                return  # The FIFO is kept, the character is lost.
            self._fifo.clear()  # The register holds one: the new one takes its place.
        self._fifo.append(character | errors << 8)
        values["LSR"] |= _DR
        if errors and values["FCR"] & _ENABLE:
            values["LSR"] |= _FIFOE
        self._show_errors()

    def _show_errors(self) -> None:
        """Move the oldest character's errors into LSR, where they wait to be read."""
        oldest = self._fifo[0]
        self.values["LSR"] |= oldest >> 8
        self._fifo[0] = oldest & 0xFF

    def _sense_modem(self) -> None:
        """Bring MSR up to date with its inputs: the outputs in loopback, the modem otherwise."""
        control, lines = self.values["MCR"], self._inputs
        if control & _LOOP:
            lines = (
                (_DSR if control & _DTR else 0)
                | (_CTS if control & _RTS else 0)
                | (_RI if control & _OUT1 else 0)
                | (_DCD if control & _OUT2 else 0)
            )
        before = self.values["MSR"]
        changed = (before ^ lines) & _LINES
        deltas = changed >> 4 & ~_TERI
        if changed & _RI and not lines & _RI:
            deltas |= _TERI  # The trailing edge of the ring indicator only.
        self.values["MSR"] = lines | before & _DELTAS | deltas

    def _interrupt(self) -> int:
        """The identification of the most urgent interrupt that is enabled and pending."""
        values = self.values
        enabled, status = values["IER"], values["LSR"]
        if enabled & _RLSI and status & _LINE_ERRORS:
            return _LINE
        if enabled & _RDI and status & _DR:
            control = values["FCR"]
            if control & _ENABLE and len(self._fifo) < _TRIGGER_LEVELS[_TRIGGER.get(control)]:
                return _TIMEOUT
            return _DATA
        if enabled & _THRI and self._thre_pending:
            return _THRE
        if enabled & _MSI and values["MSR"] & _DELTAS:
            return _MODEM
        return _NONE

    def _update(self) -> None:
        """Work out what depends on the control registers: the short way to `out`, the line."""
        values = self.values
        self._direct = not (values["LCR"] & _DLAB or values["IER"] & _THRI or values["MCR"] & _LOOP)
        self._update_irq()

    def _update_irq(self) -> None:
        """Drive the line. Loopback holds the OUT2 pin inactive, and with it the PC's gate."""
        open_gate = self.values["MCR"] & (_OUT2 | _LOOP) == _OUT2
        self._drive(open_gate and self._interrupt() != _NONE)

    def _drive(self, level: bool) -> None:
        if level != self._level:
            self._level = level
            self._irq(level)

    # Snapshots.

    def save(self) -> Uart16550State:
        """Return everything that a guest or the line can tell two serial ports apart by."""
        values = self.values
        return Uart16550State(
            rbr=values["RBR"],
            ier=values["IER"],
            fcr=values["FCR"],
            lcr=values["LCR"],
            mcr=values["MCR"],
            lsr_errors=values["LSR"] & _ON_LSR_READ,
            msr=values["MSR"],
            scr=values["SCR"],
            divisor=values["DLM"] << 8 | values["DLL"],
            received=bytes(character & 0xFF for character in self._fifo),
            errors=bytes(character >> 8 for character in self._fifo),
            thre_pending=self._thre_pending,
            burst=self._burst,
            inputs=self._inputs,
        )

    def load(self, state: State) -> None:
        """Become the serial port that `state` was saved from, and drive the line as it did.

        Raises:
            StateError: it is another device's, or a field is out of range; nothing changes.
        """
        state = require(state, Uart16550State)
        state.check()
        self.values.update(
            RBR=state.rbr,
            IER=state.ier,
            FCR=state.fcr,
            LCR=state.lcr,
            MCR=state.mcr,
            LSR=LSR.reset | state.lsr_errors | (_DR if state.received else 0),
            MSR=state.msr,
            SCR=state.scr,
            DLL=state.divisor & 0xFF,
            DLM=state.divisor >> 8,
        )
        self._fifo = deque(c | e << 8 for c, e in zip(state.received, state.errors, strict=True))
        self._thre_pending = state.thre_pending
        self._burst = state.burst
        self._inputs = state.inputs
        self._update()
        self._irq(self._level)
