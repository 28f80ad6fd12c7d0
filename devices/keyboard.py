"""A PS/2 keyboard with the US layout, and the scan codes that it sends.

Keys are named from outside by their codes in set 1, the one that BIOS and kernels see: a press
is a byte below 0x80, a release the same with bit 7 set, E0 or E1 in front for the keys that the
first PC did not have. The keyboard sends them in the set that it was told to use, at first set 2,
and the controller translates them back.

Modelled: the commands, both scan code sets, the lights. Left out: set 3; the repeat of a key held
down, so the typematic rate is accepted and has no effect; the overrun code: keys that find no
room are counted in `dropped`.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from devices.ps2 import ACK, BAT_OK, RESEND, Ps2Device

__all__ = [
    "KEYBOARD_PARAMETERS",
    "QUEUE_BYTES",
    "SET1_TO_SET2",
    "Ps2Keyboard",
    "keystrokes",
]

QUEUE_BYTES = 4096
"""Room for the key codes that wait. A keyboard has 16 bytes; text pasted by a host is longer."""

IDENTITY = (0xAB, 0x83)
"""An MF2 keyboard."""

SET_LEDS, ECHO, SCAN_CODE_SET, IDENTIFY, SET_TYPEMATIC = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
ENABLE, DISABLE, SET_DEFAULTS, RESET = 0xF4, 0xF5, 0xF6, 0xFF

KEYBOARD_PARAMETERS = frozenset({SET_LEDS, SCAN_CODE_SET, SET_TYPEMATIC})
"""The commands that a parameter follows."""

SET1_TO_SET2 = bytes.fromhex(
    "00 76 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d"
    "15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 14 1c 1b"
    "23 2b 34 33 3b 42 4b 4c 52 0e 12 5d 1a 22 21 2a"
    "32 31 3a 41 49 4a 59 7c 11 29 58 05 06 04 0c 03"
    "0b 83 0a 01 09 77 7e 6c 75 7d 7b 6b 73 74 79 69"
    "72 7a 70 71 84 60 61 78 07 0f 17 1f 27 2f 37 3f"
    "47 4f 56 5e 08 10 18 20 28 30 38 40 48 50 57 6f"
    "13 19 39 51 53 5c 5f 62 63 64 65 67 68 6a 6d 6e"
)
"""For each press in set 1 (0 to 0x7F) the byte that stands for the key in set 2."""

RELEASE = 0xF0
"""Stands before a key that is released, in set 2."""

_PREFIXED = {0xE0: 2, 0xE1: 3}
"""How many bytes of set 1 make one key."""


def _set2(code: int) -> bytes:
    if code in _PREFIXED:
        return bytes((code,))
    key = SET1_TO_SET2[code & 0x7F]
    return bytes((RELEASE, key)) if code & 0x80 else bytes((key,))


_SET2 = tuple(_set2(code) for code in range(256))

_SHIFT, _CONTROL = 0x2A, 0x1D
# Each row is a run of neighbouring keys: the first one's code, the characters without and with
# Shift.
_ROWS = (
    (0x02, "1234567890-=\b\t", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]\n", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", ""),
    (0x01, "\x1b", ""),
)
_ALIASES = {"\r": "\n", "\x7f": "\b"}


def _layout() -> dict[str, bytes]:
    """The codes (set 1) of pressing and releasing what types each character."""

    def stroke(key: int, modifier: int | None = None) -> bytes:
        codes = (key, key | 0x80)
        return bytes(codes if modifier is None else (modifier, *codes, modifier | 0x80))

    strokes: dict[str, bytes] = {}
    for first, plain, shifted in _ROWS:
        strokes.update((char, stroke(first + n)) for n, char in enumerate(plain))
        strokes.update((char, stroke(first + n, _SHIFT)) for n, char in enumerate(shifted))
    strokes.update((alias, strokes[char]) for alias, char in _ALIASES.items())
    for number in range(1, 27):
        letter = strokes[chr(ord("a") + number - 1)][0]
        strokes.setdefault(chr(number), stroke(letter, _CONTROL))
    return strokes


_STROKES = _layout()


def keystrokes(character: str) -> bytes:
    r"""Return the codes (set 1) that type one character on a US keyboard; none if it has no key.

    "\n" and "\r" are Enter, "\b" and "\x7f" Backspace, the other control characters Ctrl and a
    letter.
    """
    return _STROKES.get(character, b"")


class Ps2Keyboard(Ps2Device):
    """The keyboard on the first port. Keys reach it by `press`."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: deque[int] = deque()
        self.leds = 0
        """Scroll Lock bit 0, Num Lock bit 1, Caps Lock bit 2."""
        self.dropped = 0
        """How many code bytes given to `press` were lost."""
        self._defaults()

    def power_on(self) -> None:
        """Forget everything, keys that wait included."""
        super().power_on()
        self.leds = 0
        self._defaults()

    def press(self, codes: bytes) -> int:
        """Press and release keys; return how many bytes of `codes` (set 1) were taken.

        Keys that find the queue full, or the keyboard switched off by the guest, are lost, and
        so are those behind them. A key's bytes are never torn apart.
        """
        taken = 0
        for key in _keys(codes):
            sent = key if self.code_set == 1 else b"".join(_SET2[code] for code in key)
            if not self.scanning or len(self.queue) + len(sent) > QUEUE_BYTES:
                break
            self.queue.extend(sent)
            taken += len(key)
        self.dropped += len(codes) - taken
        return taken

    def _defaults(self) -> None:
        self.queue.clear()
        self.scanning = True
        self.code_set = 2

    def _command(self, byte: int) -> None:
        if byte in KEYBOARD_PARAMETERS:
            self._await(byte)
        elif byte == ECHO:
            self.replies.append(ECHO)
        elif byte == IDENTIFY:
            self.replies.extend((ACK, *IDENTITY))
        elif byte == RESET:
            self._defaults()
            self.leds = 0
            self.replies.extend((ACK, BAT_OK))
        elif byte in (SET_DEFAULTS, DISABLE):
            self._defaults()
            self.scanning = byte == SET_DEFAULTS
            self.replies.append(ACK)
        elif byte == ENABLE:
            self.queue.clear()
            self.scanning = True
            self.replies.append(ACK)
        else:
            self.replies.append(RESEND)

    def _parameter(self, command: int, value: int) -> bool:
        if value & 0x80:
            return False  # No parameter is that large: the guest has changed its mind.
        answer: tuple[int, ...] = (ACK,)
        if command == SET_LEDS:
            self.leds = value & 0x07
        elif command == SCAN_CODE_SET:
            answer = self._select_set(value)
        self.replies.extend(answer)
        return True

    def _select_set(self, number: int) -> tuple[int, ...]:
        if number == 0:
            return (ACK, self.code_set)
        if number not in (1, 2):
            return (RESEND,)
        self.code_set = number
        self.queue.clear()
        return (ACK,)

    def _next(self) -> int | None:
        return self.queue.popleft() if self.queue else None


def _keys(codes: bytes) -> Iterator[bytes]:
    """Cut set 1 codes into keys."""
    position = 0
    while position < len(codes):
        size = _PREFIXED.get(codes[position], 1)
        yield codes[position : position + size]
        position += size
