"""The PC's keyboard controller: an 8042 with a PS/2 keyboard and a PS/2 mouse.

Modelled: the commands of the controller, its translation of scan code set 2 into set 1, the
output port with A20 and the reset line, interrupts 1 and 12, the keyboard and the mouse as they
answer. It starts as firmware leaves it: translating, keyboard interrupt on, A20 open.

Left out: the controller's own memory beside the command byte (commands 0x21 to 0x3F and 0x61 to
0x7F), the password, multiplexing, timeouts and parity errors. Commands take no time, so the input
buffer is always empty. The next byte waits in the output buffer as soon as one was read; a
handler that reads a key twice must disable the keyboard in between, as BIOS handlers do.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller";
IBM PC/AT Technical Reference, "Keyboard Controller".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from devices.i8042_registers import (
    A20_CLOSE,
    A20_OPEN,
    AUX_DISABLE,
    AUX_ENABLE,
    AUX_TEST,
    COMMAND_BYTE,
    KBD_DISABLE,
    KBD_ENABLE,
    KBD_TEST,
    PARAMETERS,
    PULSE,
    READ_BYTE,
    READ_INPUT,
    READ_OUTPUT,
    REGISTERS,
    SELF_TEST,
    STATUS,
    WRITE_AUX,
    WRITE_AUX_BUFFER,
    WRITE_BYTE,
    WRITE_OUTPUT,
    I8042State,
)
from devices.keyboard import RELEASE, SET1_TO_SET2, Ps2Keyboard, keystrokes
from devices.mouse import Ps2Mouse
from devices.pc_ports import I8042_BASE as BASE
from devices.pc_ports import I8042_PORTS as PORTS
from devices.registers import RegisterDevice
from devices.states import require
from devices.wiring import IrqLine, Signal, no_irq, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import State

__all__ = ["BASE", "I8042", "PORTS", "I8042State"]

_OBF, _SYS, _CMD, _AUX = (STATUS.mask(name) for name in ("OBF", "SYS", "CMD", "AUX"))
_KBD_INT, _AUX_INT, _SYSTEM, _KBD_OFF, _AUX_OFF, _TRANSLATE = (
    COMMAND_BYTE.mask(name)
    for name in ("KBD_INT", "AUX_INT", "SYS", "KBD_OFF", "AUX_OFF", "TRANSLATE")
)

# Output port: bit 0 low resets, bit 1 opens A20, bits 4 and 5 are the interrupt requests, the
# rest are the lines to the devices, which rest high.
_NOT_RESET, _A20, _KBD_IRQ, _AUX_IRQ = 0x01, 0x02, 0x10, 0x20
_RESTING = 0xCC | _NOT_RESET

_INPUT_PORT = 0xB0
"""Not inhibited, no manufacturing jumper, RAM enabled, colour display."""

_SELF_TEST_PASSED, _PORT_TEST_PASSED = 0x55, 0x00


def _translation() -> bytes:
    """What the controller makes of each byte from the keyboard, answers included."""
    table = bytearray(range(256))
    table[0x00] = 0xFF
    for set1, set2 in enumerate(SET1_TO_SET2):
        if set1:
            table[set2] = set1
    # The two codes that F7 and SysRq would have had: the controller knows them as well.
    table[0x02], table[0x7F] = 0x41, 0x54
    return bytes(table)


TRANSLATION = _translation()


def _ignore(level: bool) -> None:
    """Take an A20 level that nobody wants."""


class I8042(RegisterDevice):
    """The controller. Keys reach it by `queue_keys` and `type_text`.

    `on_reset` is called when the guest pulses the reset line, `on_a20` with the new level when it
    opens (True) or closes the A20 gate.
    """

    registers = REGISTERS
    inputs = ("queue_keys", "type_text")

    def __init__(
        self,
        name: str = "i8042",
        *,
        irq_keyboard: IrqLine = no_irq,
        irq_mouse: IrqLine = no_irq,
        on_reset: Signal = no_signal,
        on_a20: Callable[[bool], None] = _ignore,
    ) -> None:
        super().__init__(name)
        self.keyboard = Ps2Keyboard()
        self.mouse = Ps2Mouse()
        self._irq_keyboard = irq_keyboard
        self._irq_mouse = irq_mouse
        self._on_reset = on_reset
        self._on_a20 = on_a20
        self._levels = (False, False)
        self._a20 = True
        self._awaiting = 0
        self._power_on()

    def queue_keys(self, scancodes: bytes) -> int:
        """Press keys given by their codes in set 1; return how many bytes there was room for.

        The rest is lost and counted in `keyboard.dropped`.
        """
        taken = self.keyboard.press(scancodes)
        self._refill()
        return taken

    def type_text(self, text: str) -> int:
        """Type text on the US layout; return how many characters were typed.

        Characters that have no key are left out.
        """
        typed = 0
        for character in text:
            codes = keystrokes(character)
            if codes and self.queue_keys(codes) == len(codes):
                typed += 1
        return typed

    @property
    def a20(self) -> bool:
        """Whether the output port opens the A20 gate."""
        return self._a20

    def read_DATA(self) -> int:
        """Take the byte out of the output buffer; an empty one repeats the last."""
        value = self.values["DATA"]
        if self.values["STATUS"] & _OBF:
            self.values["STATUS"] &= ~(_OBF | _AUX)
            # The line falls before the next byte raises it: an edge for each byte.
            self._update_irqs()
            self._refill()
        return value

    def write_DATA(self, value: int) -> None:
        """Take a command's parameter, or a byte for the keyboard."""
        self.values["STATUS"] &= ~_CMD
        awaiting, self._awaiting = self._awaiting, 0
        if awaiting:
            self._parameter(awaiting, value)
        else:
            self._command_byte &= ~_KBD_OFF  # Talking to the keyboard switches its port on.
            self.keyboard.command(value)
        self._refill()

    def write_COMMAND(self, value: int) -> None:
        """Take a command for the controller."""
        self.values["STATUS"] |= _CMD
        self._awaiting = 0
        if value in PARAMETERS:
            self._awaiting = value
        elif value >= PULSE:
            if not value & _NOT_RESET:
                self._on_reset()
        else:
            self._command(value)
        self._refill()

    def reset(self) -> None:
        """Return to the state in which firmware leaves the controller; waiting keys are lost."""
        super().reset()
        self.keyboard.power_on()
        self.mouse.power_on()
        self._power_on()
        self._set_a20(True)
        self._update_irqs()

    def _power_on(self) -> None:
        self._command_byte = COMMAND_BYTE.reset
        self._awaiting = 0
        self._reply: int | None = None
        self._reply_aux = False
        self._release = False  # Set 2 has said that the next key is released.

    def _command(self, value: int) -> None:
        if value == READ_BYTE:
            self._answer(self._command_byte)
        elif value == SELF_TEST:
            self._set_command_byte(self._command_byte | _SYSTEM)
            self._answer(_SELF_TEST_PASSED)
        elif value in (KBD_TEST, AUX_TEST):
            self._answer(_PORT_TEST_PASSED)
        elif value in (KBD_DISABLE, KBD_ENABLE):
            self._switch(_KBD_OFF, value == KBD_DISABLE)
        elif value in (AUX_DISABLE, AUX_ENABLE):
            self._switch(_AUX_OFF, value == AUX_DISABLE)
        elif value == READ_INPUT:
            self._answer(_INPUT_PORT)
        elif value == READ_OUTPUT:
            self._answer(self._output_port())
        elif value in (A20_CLOSE, A20_OPEN):
            self._set_a20(value == A20_OPEN)

    def _parameter(self, command: int, value: int) -> None:
        if command == WRITE_BYTE:
            self._set_command_byte(value)
        elif command == WRITE_OUTPUT:
            self._set_a20(bool(value & _A20))
            if not value & _NOT_RESET:
                self._on_reset()
        elif command == WRITE_AUX:
            self._switch(_AUX_OFF, False)
            self.mouse.command(value)
        else:
            self._answer(value, aux=command == WRITE_AUX_BUFFER)

    def _answer(self, value: int, *, aux: bool = False) -> None:
        """Say something itself: it goes before what the devices say."""
        self._reply, self._reply_aux = value, aux

    def _switch(self, off: int, disabled: bool) -> None:
        self._command_byte = self._command_byte & ~off | (off if disabled else 0)

    def _set_command_byte(self, value: int) -> None:
        self._command_byte = value
        status = self.values["STATUS"] & ~_SYS
        self.values["STATUS"] = status | (_SYS if value & _SYSTEM else 0)

    def _set_a20(self, level: bool) -> None:
        if level != self._a20:
            self._a20 = level
            self._on_a20(level)

    def _output_port(self) -> int:
        keyboard, mouse = self._levels
        lines = (_KBD_IRQ if keyboard else 0) | (_AUX_IRQ if mouse else 0)
        return _RESTING | (_A20 if self._a20 else 0) | lines

    def _refill(self) -> None:
        """Put the next byte into the output buffer if that is empty, and drive the lines."""
        if not self.values["STATUS"] & _OBF:
            aux = False
            value, self._reply = self._reply, None
            if value is not None:
                aux = self._reply_aux
            elif not self._command_byte & _KBD_OFF:
                value = self._from_keyboard()
            if value is None and not self._command_byte & _AUX_OFF:
                value, aux = self.mouse.take(), True
            if value is not None:
                self.values["DATA"] = value
                self.values["STATUS"] |= _OBF | (_AUX if aux else 0)
        self._update_irqs()

    def _from_keyboard(self) -> int | None:
        """The keyboard's next byte, translated if the command byte says so."""
        while (value := self.keyboard.take()) is not None:
            if not self._command_byte & _TRANSLATE:
                return value
            if value != RELEASE:
                released, self._release = self._release, False
                return TRANSLATION[value] | (0x80 if released else 0)
            self._release = True
        return None

    def _update_irqs(self) -> None:
        status, control = self.values["STATUS"], self._command_byte
        full, aux = bool(status & _OBF), bool(status & _AUX)
        # Drivers switch the keyboard off around a command and poll for the answer; an interrupt
        # would take it away from them.
        keyboard = full and not aux and control & (_KBD_INT | _KBD_OFF) == _KBD_INT
        mouse = full and aux and control & (_AUX_INT | _AUX_OFF) == _AUX_INT
        before, self._levels = self._levels, (keyboard, mouse)
        if keyboard != before[0]:
            self._irq_keyboard(keyboard)
        if mouse != before[1]:
            self._irq_mouse(mouse)

    def save(self) -> I8042State:
        """Return the controller's state with the keyboard's and the mouse's."""
        status, keyboard, mouse = self.values["STATUS"], self.keyboard, self.mouse
        return I8042State(
            command_byte=self._command_byte,
            a20=self._a20,
            awaiting=self._awaiting,
            last_was_command=bool(status & _CMD),
            data=self.values["DATA"],
            full=bool(status & _OBF),
            from_aux=bool(status & _AUX),
            reply=b"" if self._reply is None else bytes((self._reply,)),
            reply_aux=self._reply_aux,
            release=self._release,
            kbd_queue=bytes(keyboard.queue),
            kbd_replies=bytes(keyboard.replies),
            kbd_awaiting=keyboard.awaiting,
            kbd_last_sent=keyboard.last_sent,
            kbd_code_set=keyboard.code_set,
            kbd_scanning=keyboard.scanning,
            kbd_leds=keyboard.leds,
            mouse_replies=bytes(mouse.replies),
            mouse_awaiting=mouse.awaiting,
            mouse_last_sent=mouse.last_sent,
            mouse_remote=mouse.remote,
            mouse_reporting=mouse.reporting,
            mouse_doubled=mouse.doubled,
            mouse_resolution=mouse.resolution,
            mouse_rate=mouse.rate,
        )

    def load(self, state: State) -> None:
        """Become the controller that `state` was saved from; drive interrupts and A20 as it did.

        Raises:
            StateError: it is another device's, or a field is out of range; nothing changes.
        """
        state = require(state, I8042State)
        state.check()
        flags = (_OBF if state.full else 0) | (_AUX if state.from_aux else 0)
        flags |= _CMD if state.last_was_command else 0
        self.values.update(DATA=state.data, STATUS=STATUS.mask("UNLOCKED") | flags)
        self._set_command_byte(state.command_byte)
        self._awaiting = state.awaiting
        self._reply = state.reply[0] if state.reply else None
        self._reply_aux = state.reply_aux
        self._release = state.release
        keyboard, mouse = self.keyboard, self.mouse
        keyboard.queue, keyboard.replies = deque(state.kbd_queue), deque(state.kbd_replies)
        keyboard.awaiting, keyboard.last_sent = state.kbd_awaiting, state.kbd_last_sent
        keyboard.code_set, keyboard.scanning = state.kbd_code_set, state.kbd_scanning
        keyboard.leds = state.kbd_leds
        mouse.replies, mouse.awaiting = deque(state.mouse_replies), state.mouse_awaiting
        mouse.last_sent, mouse.remote = state.mouse_last_sent, state.mouse_remote
        mouse.reporting, mouse.doubled = state.mouse_reporting, state.mouse_doubled
        mouse.resolution, mouse.rate = state.mouse_resolution, state.mouse_rate
        self._set_a20(state.a20)
        self._update_irqs()
