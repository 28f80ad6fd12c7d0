"""Where typed input goes: to the serial port or to the keyboard.

A PC has both, a terminal has one stream. With "auto" input waits until the guest is seen to want
it, and goes to the first of these:

1. COM1, once the guest waits for it there: it enables the receive interrupt, or reads the line
   status again and again without sending anything. A guest that was not started by the Python
   BIOS need only have used COM1 at all.
2. The keyboard controller, if the guest takes keys from it: it has put its own handler at INT 09h
   of the BIOS, or it has programmed an interrupt controller of its own with IRQ 1 open and has
   not used COM1, or it looks into the empty controller again and again.
3. The keyboard services of the Python BIOS, when they are called.

A guest that only writes its log to COM1 and takes keys from the keyboard needs "keyboard": COM1 is
then left out. With "serial" everything goes to COM1 at once.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from devices.i8042 import I8042
    from devices.protocols import Device, State
    from devices.uart16550 import Uart16550
    from vmm.host.console import Console
    from vmm.host.irq1 import Irq1
    from vmm.host.typist import Later

    InputRoute: TypeAlias = Literal["auto", "serial", "keyboard"]
else:
    InputRoute = str

__all__ = ["InputRoute", "InputRouter", "SerialListener"]


_THR = 0
_IER = 1
_LSR = 5
_RECEIVE_INTERRUPT = 1
_POLLS = 3
"""A guest that sends polls the line status once for each byte: the transmitter is never busy."""


class SerialListener:
    """COM1 as the bus sees it where input may also be the keyboard's: watches for a reader.

    With `eager` whoever uses the port is taken for one.
    """

    def __init__(self, uart: Uart16550, console: Console, *, eager: bool = False) -> None:
        self.name = uart.name
        self.uart = uart
        self.registers = uart.registers
        self.used = False
        """The guest has used the port in some way."""
        self.listening = False
        """The guest is known to wait for input here."""
        self._console = console
        self._eager = eager
        self._polls = 0

    def read(self, offset: int, size: int) -> int:
        """Answer as the UART; a line status read over and over means that somebody waits."""
        self._use()
        if offset == _LSR and not self.listening:
            self._polls += 1
            if self._polls >= _POLLS:
                self._listen()
        return self.uart.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Pass a write on; the receive interrupt being enabled means that somebody waits."""
        self._use()
        self.uart.write(offset, size, value)
        if offset == _THR:
            self._polls = 0
        elif offset == _IER and value & _RECEIVE_INTERRUPT and not self.listening:
            self._listen()

    def reset(self) -> None:
        """Reset the UART and forget that somebody waited."""
        self.uart.reset()
        self._polls = 0

    def save(self) -> State:
        """The UART's state."""
        return self.uart.save()

    def load(self, state: State) -> None:
        """Become the port that `state` was saved from; a guest that waited still does."""
        self.uart.load(state)
        self._use()
        if self.uart.values["IER"] & _RECEIVE_INTERRUPT and not self.listening:
            self._listen()

    def _use(self) -> None:
        self.used = True
        if self._eager and not self.listening:
            self._listen()

    def _listen(self) -> None:
        self.listening = True
        _connect_serial(self._console, self.uart)
        self._console.offer()


class InputRouter:
    """Connects a console's input to COM1 and the keyboard controller, as soon as there are any.

    Args:
        route: where input goes.
        console: where it comes from.
        bios: BIOS services take keys from the console themselves.
        later: calls a function after some seconds.
    """

    def __init__(self, route: InputRoute, console: Console, *, bios: bool, later: Later) -> None:
        self._route = route
        self._console = console
        self._bios = bios
        self._later = later
        self._listener: SerialListener | None = None

    def serial(self, uart: Uart16550) -> Device:
        """Return what to map as COM1, given its UART."""
        if self._route == "serial":
            _connect_serial(self._console, uart)
        elif self._route == "auto":
            self._listener = SerialListener(uart, self._console, eager=not self._bios)
            return self._listener
        return uart

    def keyboard(self, controller: I8042, irq1: Irq1) -> Device:
        """Return what to map as the keyboard controller; `irq1` is its interrupt in the guest."""
        if self._route == "serial":
            return controller

        def wanted() -> bool:
            serial = self._listener
            if serial is not None and serial.listening:
                return False
            handler = irq1.handler()
            # A kernel may open IRQ 1 long before it listens to the serial line that it talks on.
            talks = serial is not None and serial.used
            return handler == "int9" or (handler == "kernel" and not talks)

        from vmm.host.typist import KeyboardListener

        return KeyboardListener(controller, self._console, self._later, irq1, wanted)


def _connect_serial(console: Console, uart: Uart16550) -> None:
    console.add_taker(
        uart.receive,
        unread=lambda: len(uart.save().received),
        asking=lambda: bool(uart.save().ier & _RECEIVE_INTERRUPT),
    )
