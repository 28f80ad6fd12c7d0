"""INT 16h, the keyboard, and INT 09h, which takes keys from a keyboard controller.

Keys come straight from the terminal. Only while a program has put its own handler at INT 09h, and
the machine has interrupts, they come as scan codes through the keyboard controller: to that
handler, and to INT 09h here if it passes them on. Both ways end in the buffer of the BIOS data
area, from which programs may take keys as well.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupts 09h and 16h; Ralf Brown's
Interrupt List, INT 16.
"""

from __future__ import annotations

from firmware.bios_data import Bda
from firmware.bios_rom import build_vectors
from vmm.bios.host import WAIT_S, BiosHost, MissingService, Service
from vmm.bios.keys import Key, KeyDecoder, key_from_scancode
from vmm.bios.registers import BiosRegisters

__all__ = ["Keyboard"]

_SEGMENT = 0x400
_INT9 = 4 * 0x09
_OUR_INT9 = int.from_bytes(build_vectors()[_INT9 : _INT9 + 4], "little")
_FIRST, _BEHIND = 0x1E, 0x3E
_ESCAPE_DELAY_NS = 50_000_000
"""How long an ESC may be the start of a sequence."""

# Shift keys by scan code, as bits of the first shift flag byte, and the keys that lock.
_HELD = {0x36: 0x01, 0x2A: 0x02, 0x1D: 0x04, 0x38: 0x08}
_LOCKS = {0x46: 0x10, 0x45: 0x20, 0x3A: 0x40, 0x52: 0x80}
_PREFIX = 0xE0


class Keyboard(Service):
    """The keyboard services."""

    vector = 0x16
    name = "keyboard"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self._decoder = KeyDecoder()
        self._last_byte_ns = 0
        self.functions = {
            0x00: self._read,
            0x01: self._peek,
            0x02: self._shift_flags,
            0x03: self._accept,
            0x05: self._push,
            0x10: self._read,
            0x11: self._peek,
            0x12: self._extended_flags,
        }

    def missing(self, regs: BiosRegisters) -> None:
        """Answer as keyboard BIOSes do: nothing changes."""

    def pump(self) -> None:
        """Move what was typed into the buffer, as far as it has room. Does not wait."""
        while self._has_room() and not self._hooked():
            byte = self.host.keys.get(0)
            if byte is None:
                break
            self._take(byte)
        late = self.host.clock_ns() - self._last_byte_ns >= _ESCAPE_DELAY_NS
        if self._decoder.pending and late:
            self._store_all(self._decoder.flush())

    def scancode(self, code: int) -> None:
        """Take one byte from the keyboard controller (INT 09h with the byte in AL)."""
        flags = self.ram.get(Bda.SHIFT_FLAGS)
        scan, released = code & 0x7F, bool(code & 0x80)
        if code == _PREFIX:
            return
        if scan in _HELD:
            bit = _HELD[scan]
            self.ram.put(Bda.SHIFT_FLAGS, flags & ~bit if released else flags | bit)
            return
        if released:
            return
        if scan in _LOCKS and scan != 0x52:
            self.ram.put(Bda.SHIFT_FLAGS, flags ^ _LOCKS[scan])
            return
        key = key_from_scancode(
            scan,
            shift=bool(flags & 0x03),
            ctrl=bool(flags & 0x04),
            alt=bool(flags & 0x08),
            caps=bool(flags & 0x40),
        )
        if key is not None:
            self._store(key.word)

    def _hooked(self) -> bool:
        """A program takes keys by interrupt, and passes on to the BIOS what it likes to."""
        return self.host.interrupts and self.ram.get(_INT9, 4) != _OUR_INT9

    def _wait(self) -> None:
        """Wait a moment for a key."""
        if self._hooked():
            self.host.pause(WAIT_S / 4)  # it comes by an interrupt, which has to get through
            return
        byte = self.host.keys.get(WAIT_S)
        if byte is not None:
            self._take(byte)

    # The ring in the data area. Its pointers may have been changed by the guest.

    def _pointer(self, field: int) -> int:
        value = self.ram.get(field, 2)
        return value if _FIRST <= value < _BEHIND and value % 2 == 0 else _FIRST

    @staticmethod
    def _next(pointer: int) -> int:
        return _FIRST if pointer + 2 == _BEHIND else pointer + 2

    def _has_room(self) -> bool:
        return self._next(self._pointer(Bda.KEY_TAIL)) != self._pointer(Bda.KEY_HEAD)

    def _store(self, word: int) -> bool:
        if not self._has_room():
            return False
        tail = self._pointer(Bda.KEY_TAIL)
        self.ram.put(_SEGMENT + tail, word, 2)
        self.ram.put(Bda.KEY_TAIL, self._next(tail), 2)
        return True

    def _store_all(self, keys: list[Key]) -> None:
        for key in keys:
            self._store(key.word)

    def _take(self, byte: int) -> None:
        self._last_byte_ns = self.host.clock_ns()
        self._store_all(self._decoder.feed(byte))

    def _first(self) -> int | None:
        head = self._pointer(Bda.KEY_HEAD)
        if head == self._pointer(Bda.KEY_TAIL):
            return None
        return self.ram.get(_SEGMENT + head, 2)

    def _drop(self) -> None:
        self.ram.put(Bda.KEY_HEAD, self._next(self._pointer(Bda.KEY_HEAD)), 2)

    def _first_for(self, function: int) -> int | None:
        """The next key as `function` shows it; the older calls never see the newer keys."""
        while (word := self._first()) is not None:
            if function & 0x10:
                return word
            if word >> 8 < 0x85:
                return word & 0xFF00 if word & 0xFF == 0xE0 and word >> 8 else word
            self._drop()
        return None

    # The functions.

    def _read(self, regs: BiosRegisters) -> None:
        self.pump()
        word = self._first_for(regs.ah)
        if word is None:
            self._wait()
            word = self._first_for(regs.ah)
        if word is None:
            regs.stub_carry = True
            return
        regs.stub_carry = False
        self._drop()
        regs.ax = word

    def _peek(self, regs: BiosRegisters) -> None:
        self.pump()
        word = self._first_for(regs.ah)
        regs.zero = word is None
        if word is not None:
            regs.ax = word

    def _shift_flags(self, regs: BiosRegisters) -> None:
        regs.al = self.ram.get(Bda.SHIFT_FLAGS)

    def _extended_flags(self, regs: BiosRegisters) -> None:
        regs.ax = self.ram.get(Bda.SHIFT_FLAGS, 2)

    def _accept(self, regs: BiosRegisters) -> None:
        """Take a repeat rate; the terminal does its own repeating."""
        if regs.al not in (0x00, 0x05):
            raise MissingService

    def _push(self, regs: BiosRegisters) -> None:
        regs.al = 0 if self._store(regs.cx) else 1
