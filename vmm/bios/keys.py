"""Keys: from the bytes of a terminal to the codes of a PC keyboard.

A key is what INT 16h returns: an ASCII code and a scan code. The layout is the US keyboard's.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 16h - Keyboard; ECMA-48 and
xterm control sequences, PC-Style Function Keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Key", "KeyDecoder", "key_from_scancode", "scancodes_for"]

_ESCAPE = 0x1B
_LONGEST_SEQUENCE = 12

# Rows of the keyboard by first scan code: unshifted and shifted characters.
_ROWS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
_PLAIN = {scan + i: ord(c) for scan, low, _ in _ROWS for i, c in enumerate(low)}
_SHIFTED = {scan + i: ord(c) for scan, _, high in _ROWS for i, c in enumerate(high)}
_SCANS = {code: scan for table in (_SHIFTED, _PLAIN) for scan, code in table.items()}
_BLANKS = {0x01: 0x1B, 0x0E: 0x08, 0x0F: 0x09, 0x1C: 0x0D, 0x39: 0x20}
_SCANS |= {code: scan for scan, code in _BLANKS.items()}

# Keys that a terminal sends as sequences: scan codes alone, with shift, ctrl and alt.
_LETTERS = {"A": 0x48, "B": 0x50, "C": 0x4D, "D": 0x4B, "H": 0x47, "F": 0x4F}
_FUNCTION_LETTERS = {"P": 0x3B, "Q": 0x3C, "R": 0x3D, "S": 0x3E}
_NUMBERS = {1: 0x47, 2: 0x52, 3: 0x53, 4: 0x4F, 5: 0x49, 6: 0x51, 7: 0x47, 8: 0x4F}
_NUMBERS |= {11 + i: 0x3B + i for i in range(5)} | {17 + i: 0x40 + i for i in range(5)}
_NUMBERS |= {23: 0x85, 24: 0x86}
_GREY = frozenset({0x47, 0x48, 0x49, 0x4B, 0x4D, 0x4F, 0x50, 0x51, 0x52, 0x53})
_WITH_CTRL = {0x47: 0x77, 0x48: 0x8D, 0x49: 0x84, 0x4B: 0x73, 0x4D: 0x74, 0x4F: 0x75}
_WITH_CTRL |= {0x50: 0x91, 0x51: 0x76, 0x52: 0x92, 0x53: 0x93}
_SEQUENCE = re.compile(r"(?:\[(?:(\d*)(?:;(\d+))?)|O)([A-Za-z~])")
_F11_MAKE = {0x85: 0x57, 0x86: 0x58}


@dataclass(frozen=True, slots=True)
class Key:
    """One keystroke. `ascii` 0xE0 marks a grey key (arrows, Home, Delete...), 0 one without text.

    `shift`, `ctrl` and `alt` are the keys held with it.
    """

    ascii: int
    scan: int
    shift: bool = False
    ctrl: bool = False
    alt: bool = False

    @property
    def word(self) -> int:
        """The key as the keyboard buffer and INT 16h have it: scan code, then ASCII."""
        return self.scan << 8 | self.ascii


def _plain(code: int) -> Key:
    """The key behind one byte of terminal input."""
    if code == 0x7F:
        return Key(0x08, 0x0E)  # Backspace as terminals send it
    if code == 0x0A:
        return Key(0x0D, 0x1C)  # a line's end in piped input is Enter
    if code in _SCANS:
        scan = _SCANS[code]
        return Key(code, scan, shift=_PLAIN.get(scan, code) != code and code > 0x20)
    if code < 0x20:
        controls = {0x00: 0x03, 0x1C: 0x2B, 0x1D: 0x1B, 0x1E: 0x07, 0x1F: 0x0C}
        return Key(code, _SCANS.get(code + 0x60, controls.get(code, 0)), ctrl=True)
    return Key(code, 0)  # beyond ASCII: as if typed on the keypad with Alt


def _special(scan: int, modifiers: int) -> Key:
    shift, alt, ctrl = bool(modifiers & 1), bool(modifiers & 2), bool(modifiers & 4)
    grey = scan in _GREY
    code = 0xE0 if grey else 0x00
    if grey:
        if alt:
            scan, code = scan + 0x50, 0x00
        elif ctrl:
            scan = _WITH_CTRL[scan]
    elif scan in _F11_MAKE:
        scan += 6 if alt else 4 if ctrl else 2 if shift else 0
    elif alt or ctrl or shift:
        scan += 0x2D if alt else 0x23 if ctrl else 0x19
    return Key(code, scan, shift, ctrl, alt)


class KeyDecoder:
    """Turns terminal input into keys, byte by byte.

    An ESC may be the key or the start of a sequence: it is held back until the next byte, or
    until `flush` says that none followed in time.
    """

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def pending(self) -> bool:
        """Bytes are held back."""
        return bool(self._held)

    def feed(self, byte: int) -> list[Key]:
        """Take one byte; return the keys that it completes."""
        self._held.append(byte & 0xFF)
        first = self._held[0]
        if first == _ESCAPE:
            return self._escape()
        if first >= 0xC2:
            return self._utf8()
        self._held.clear()
        return [_plain(first)]

    def flush(self) -> list[Key]:
        """Give up waiting: what is held back was typed as it stands."""
        held = bytes(self._held)
        self._held.clear()
        return [_plain(byte) for byte in held]

    def _escape(self) -> list[Key]:
        held = self._held
        if len(held) == 1:
            return []
        if len(held) == 2:
            if held[1] == _ESCAPE:
                held.pop()
                return [_plain(_ESCAPE)]
            if held[1] not in b"[O":
                key = _plain(held[1])
                held.clear()
                return [Key(0x00, key.scan, key.shift, key.ctrl, alt=True)]
            return []
        last = held[-1]
        if 0x40 <= last <= 0x7E:
            text = held[1:].decode("latin-1")
            held.clear()
            return self._sequence(text)
        return self.flush() if len(held) >= _LONGEST_SEQUENCE else []

    @staticmethod
    def _sequence(text: str) -> list[Key]:
        match = _SEQUENCE.fullmatch(text)
        if match is None:
            return []
        number, modifier, final = match.groups()
        modifiers = (int(modifier or 1) - 1) & 7
        if final == "Z":
            return [Key(0x00, 0x0F, shift=True)]  # Shift-Tab
        if final == "~":
            scan = _NUMBERS.get(int(number or 0))
        else:
            scan = _LETTERS.get(final) or _FUNCTION_LETTERS.get(final)
        return [] if scan is None else [_special(scan, modifiers)]

    def _utf8(self) -> list[Key]:
        held = self._held
        wanted = 2 if held[0] < 0xE0 else 3 if held[0] < 0xF0 else 4
        if len(held) < wanted and (len(held) == 1 or held[-1] & 0xC0 == 0x80):
            return []
        text = held.decode("utf-8", "replace")
        held.clear()
        return [Key(byte, 0) for byte in text.encode("cp437", "ignore")]


def key_from_scancode(scan: int, *, shift: bool, ctrl: bool, alt: bool, caps: bool) -> Key | None:
    """Return the key of a make code from a keyboard (set 1, without prefix); None for no key."""
    code = _PLAIN.get(scan, _BLANKS.get(scan))
    if code is None:
        if 0x3B <= scan <= 0x44 or scan in _GREY:
            key = _special(scan, shift | alt << 1 | ctrl << 2)
            return Key(0x00, key.scan, shift, ctrl, alt)
        if scan in (0x57, 0x58):
            return _special(scan + 0x2E, shift | alt << 1 | ctrl << 2)
        return None
    if alt:
        return Key(0x00, scan + 0x76 if 0x02 <= scan <= 0x0D else scan, shift, ctrl, alt)
    if ctrl:
        control = code & 0x1F if 0x40 <= code < 0x80 and code != 0x60 else code
        return Key(control, scan, shift, ctrl)
    if scan in _SHIFTED:
        letter = 0x61 <= code <= 0x7A
        if shift != (caps and letter):
            code = _SHIFTED[scan]
    return Key(code, scan, shift)


def scancodes_for(key: Key) -> bytes:
    """Return what a PC keyboard sends for a keystroke (set 1): keys held, make, break, release.

    For a machine that feeds its keyboard controller, so that a guest's own IRQ 1 handler sees
    the key. A key without a scan code (typed beyond ASCII) gives nothing.
    """
    scan, grey = key.scan, key.ascii == 0xE0
    reverse = {value: name for name, value in _WITH_CTRL.items()}
    if key.ctrl and scan in reverse:
        scan, grey = reverse[scan], True
    elif key.alt and key.ascii == 0 and scan - 0x50 in _GREY:
        scan, grey = scan - 0x50, True
    elif 0x85 <= scan <= 0x8C:
        scan = 0x57 + (scan - 0x85) % 2
    elif 0x54 <= scan <= 0x71:
        scan = 0x3B + (scan - 0x54) % 10
    if scan == 0:
        return b""
    held = [code for code, on in ((0x2A, key.shift), (0x1D, key.ctrl), (0x38, key.alt)) if on]
    prefix = b"\xe0" if grey else b""
    down = bytes(held) + prefix + bytes([scan])
    up = prefix + bytes([scan | 0x80]) + bytes(code | 0x80 for code in reversed(held))
    return down + up
