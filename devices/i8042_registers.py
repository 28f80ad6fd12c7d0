"""The registers, the commands and the saved state of the keyboard controller, as data.

`devices.i8042` is the controller.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
"""

from __future__ import annotations

from devices.keyboard import KEYBOARD_PARAMETERS, QUEUE_BYTES
from devices.mouse import MOUSE_PARAMETERS
from devices.records import Record
from devices.registers import Register, RegisterTable, bits
from devices.states import require_bytes, require_flags, require_unsigned
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = [
    "A20_CLOSE",
    "A20_OPEN",
    "AUX_DISABLE",
    "AUX_ENABLE",
    "AUX_TEST",
    "COMMAND_BYTE",
    "KBD_DISABLE",
    "KBD_ENABLE",
    "KBD_TEST",
    "PARAMETERS",
    "PULSE",
    "READ_BYTE",
    "READ_INPUT",
    "READ_OUTPUT",
    "REGISTERS",
    "SELF_TEST",
    "STATUS",
    "WRITE_AUX",
    "WRITE_AUX_BUFFER",
    "WRITE_BYTE",
    "WRITE_KBD_BUFFER",
    "WRITE_OUTPUT",
    "I8042State",
]

STATUS = Register(
    "STATUS",
    4,
    access="r",
    reset=0x14,
    fields=bits(OBF=0, IBF=1, SYS=2, CMD=3, UNLOCKED=4, AUX=5, TIMEOUT=6, PARITY=7),
)
REGISTERS = RegisterTable(
    Register("DATA", 0),
    STATUS,
    Register("COMMAND", 4, access="w"),
)
COMMAND_BYTE = Register(
    "COMMAND_BYTE",
    0,
    reset=0x45,
    fields=bits(KBD_INT=0, AUX_INT=1, SYS=2, KBD_OFF=4, AUX_OFF=5, TRANSLATE=6),
    doc="Not on the bus: read by command 0x20, written by 0x60.",
)

READ_BYTE, WRITE_BYTE, AUX_DISABLE, AUX_ENABLE, AUX_TEST = 0x20, 0x60, 0xA7, 0xA8, 0xA9
SELF_TEST, KBD_TEST, KBD_DISABLE, KBD_ENABLE = 0xAA, 0xAB, 0xAD, 0xAE
READ_INPUT, READ_OUTPUT, WRITE_OUTPUT = 0xC0, 0xD0, 0xD1
WRITE_KBD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX = 0xD2, 0xD3, 0xD4
A20_CLOSE, A20_OPEN, PULSE = 0xDD, 0xDF, 0xF0

PARAMETERS = frozenset({WRITE_BYTE, WRITE_OUTPUT, WRITE_KBD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX})
"""The commands that a byte at the data port follows."""


class I8042State(Record):
    """The controller, and both devices behind it."""

    kind: ClassVar[str] = "i8042"
    version: ClassVar[int] = 1

    command_byte: int
    a20: bool
    awaiting: int
    """The command whose parameter comes next, or 0."""
    last_was_command: bool
    data: int
    full: bool
    from_aux: bool
    reply: bytes
    """What the controller itself says next: nothing or one byte."""
    reply_aux: bool
    release: bool
    """The translation has seen the prefix of a released key."""
    kbd_queue: bytes
    kbd_replies: bytes
    kbd_awaiting: int
    kbd_last_sent: int
    kbd_code_set: int
    kbd_scanning: bool
    kbd_leds: int
    mouse_replies: bytes
    mouse_awaiting: int
    mouse_last_sent: int
    mouse_remote: bool
    mouse_reporting: bool
    mouse_doubled: bool
    mouse_resolution: int
    mouse_rate: int

    def check(self) -> None:
        """Refuse what no keyboard controller can be in.

        Raises:
            StateError: a field is out of range.
        """
        require_unsigned(self, command_byte=8, awaiting=8, data=8, kbd_awaiting=8, kbd_last_sent=8)
        require_unsigned(self, kbd_code_set=2, kbd_leds=3, mouse_awaiting=8, mouse_last_sent=8)
        require_unsigned(self, mouse_resolution=2, mouse_rate=8)
        require_flags(self, "a20", "last_was_command", "full", "from_aux", "reply_aux", "release")
        require_flags(self, "kbd_scanning", "mouse_remote", "mouse_reporting", "mouse_doubled")
        require_bytes(self, reply=range(2), kbd_queue=range(QUEUE_BYTES + 1))
        require_bytes(self, kbd_replies=range(4), mouse_replies=range(5))
        possible = {
            "awaiting": PARAMETERS | {0},
            "kbd_awaiting": KEYBOARD_PARAMETERS | {0},
            "mouse_awaiting": MOUSE_PARAMETERS | {0},
            "kbd_code_set": {1, 2},
        }
        for name, values in possible.items():
            if getattr(self, name) not in values:
                raise StateError(f"{self.kind!r} field {name} = {getattr(self, name)}: no such one")
