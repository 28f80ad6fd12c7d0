"""Typing on the guest's keyboard: terminal input becomes scan codes, at a keyboard's pace.

The controller is given one byte at a time: the next one a millisecond after the guest has read
it, as a keyboard's clock would have it, and not before an interrupt handler has come to its end.
Programs depend on that: a handler of INT 09h reads port 0x60 and then passes the interrupt on to
the BIOS, which reads the same byte once more. Time alone would not do, as a guest's millisecond
may be long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from devices.i8042 import I8042
from devices.i8042_registers import STATUS
from devices.protocols import State
from vmm.bios.keys import Key, KeyDecoder, scancodes_for
from vmm.host.console import Console
from vmm.host.irq1 import Irq1

__all__ = ["KeyboardListener", "Later", "Typist"]

Later = Callable[[float, Callable[[], None]], None]
"""Calls a function after some seconds, on another thread."""

_DATA, _STATUS = 0, 4
_FULL = STATUS.mask("OBF")
_GAP_S, _LONGEST_GAP_S = 0.001, 0.05
_ESCAPE_S = 0.05
"""How long an ESC may be the start of a sequence."""
_ROOM = 64
_POLLS = 16
"""So often in a row nobody looks at an empty controller but who waits for a key."""
_LOOK_AGAIN_S = 0.1


class Typist:
    """Types on a keyboard controller.

    Args:
        keyboard: the controller.
        console: its lock is held around everything that happens later; what waits there is
            offered again when there is room.
        later: calls a function after some seconds.
        irq1: the keyboard's interrupt in the guest.
    """

    def __init__(self, keyboard: I8042, console: Console, later: Later, irq1: Irq1) -> None:
        self._keyboard = keyboard
        self._irq1 = irq1
        self._console = console
        self._later = later
        self._decoder = KeyDecoder()
        self._codes: deque[int] = deque()
        self._pausing = False
        self._fed = 0

    @property
    def unread(self) -> int:
        """How many bytes the guest has not read yet, the one in the controller included."""
        return len(self._codes) + self._busy()

    def take(self, data: bytes) -> int:
        """Type terminal input; return how many bytes of it there was room for."""
        count = 0
        for byte in data:
            if len(self._codes) >= _ROOM:
                break
            count += 1
            self._press(self._decoder.feed(byte))
        self._fed += count
        if self._decoder.pending:
            self._later(_ESCAPE_S, partial(self._complete, self._fed))
        self._send()
        return count

    def was_read(self) -> None:
        """The guest has read a byte: the next one follows after a pause."""
        if not self._pausing:
            self._pausing = True
            self._pause(_GAP_S)

    def reset(self) -> None:
        """Forget what was not typed yet."""
        self._codes.clear()
        self._decoder.flush()

    def _pause(self, seconds: float) -> None:
        self._later(seconds, partial(self._resume, seconds))

    def _resume(self, paused: float) -> None:
        with self._console.lock:
            if self._codes and self._irq1.in_service():
                self._pause(min(2 * paused, _LONGEST_GAP_S))
                return
            self._pausing = False
            self._send()
            if len(self._codes) < _ROOM and self._console.waiting:
                self._console.offer()

    def _complete(self, fed: int) -> None:
        with self._console.lock:
            if fed == self._fed:
                self._press(self._decoder.flush())
                self._send()

    def _press(self, keys: list[Key]) -> None:
        for key in keys:
            self._codes.extend(scancodes_for(key))

    def _send(self) -> None:
        # A keyboard that the guest has switched off takes nothing, and the key is lost.
        while self._codes and not self._pausing and not self._busy():
            self._keyboard.queue_keys(bytes([self._codes.popleft()]))

    def _busy(self) -> bool:
        """The byte before is still on its way to the guest."""
        return bool(self._keyboard.values["STATUS"] & _FULL or self._keyboard.keyboard.queue)


class KeyboardListener:
    """The keyboard controller as the bus sees it: types for a guest that takes keys from it.

    All that is typed goes to the keyboard while `wanted` says so. A guest that looks into the
    empty controller again and again gets one key for its pains in any case.

    Args:
        keyboard: the controller.
        console: where input comes from.
        later: calls a function after some seconds.
        irq1: the keyboard's interrupt in the guest.
        wanted: says whether the guest takes keys by interrupt. Asked while input waits.
    """

    def __init__(
        self,
        keyboard: I8042,
        console: Console,
        later: Later,
        irq1: Irq1,
        wanted: Callable[[], bool],
    ) -> None:
        self.name = keyboard.name
        self.keyboard = keyboard
        self.registers = keyboard.registers
        self._console = console
        self._later = later
        self._wanted = wanted
        self._typist = Typist(keyboard, console, later, irq1)
        self._polls = 0
        self._looking = False
        console.add_taker(self._take, unread=lambda: self._typist.unread, asking=wanted)

    def read(self, offset: int, size: int) -> int:
        """Answer as the controller."""
        if offset in (_DATA, _STATUS) and not self._full:
            self._polls += 1
            if self._polls >= _POLLS:
                self._polls = 0
                self._fetch()
        full = self._full
        value = self.keyboard.read(offset, size)
        if full and offset == _DATA:
            self._polls = 0
            self._typist.was_read()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Pass a write on."""
        self._polls = 0
        self.keyboard.write(offset, size, value)

    def reset(self) -> None:
        """Reset the controller; what was not typed yet is lost."""
        self.keyboard.reset()
        self._typist.reset()
        self._polls = 0

    def save(self) -> State:
        """The controller's state; what was typed and not sent yet is on its way, and is lost."""
        return self.keyboard.save()

    def load(self, state: State) -> None:
        """Become the controller that `state` was saved from."""
        self.keyboard.load(state)
        self._typist.reset()
        self._polls = 0

    @property
    def _full(self) -> bool:
        return bool(self.keyboard.values["STATUS"] & _FULL)

    def _take(self, data: bytes) -> int:
        if self._wanted():
            return self._typist.take(data)
        # A guest opens its interrupt without an exit: look again while input waits.
        if not self._looking:
            self._looking = True
            self._later(_LOOK_AGAIN_S, self._look_again)
        return 0

    def _look_again(self) -> None:
        with self._console.lock:
            self._looking = False
            self._console.offer()

    def _fetch(self) -> None:
        """Type one key of what waits."""
        while not self._typist.unread and (byte := self._console.get(0)) is not None:
            self._typist.take(bytes([byte]))
