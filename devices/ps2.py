"""What a PS/2 keyboard and a PS/2 mouse have in common: the talk with their controller.

The controller hands a byte to `command` and takes bytes with `take`, answers before anything
else. A new command drops what was left of the answer to the one before it, so there are never
more than a few bytes of answer.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
"""

from __future__ import annotations

from collections import deque

__all__ = ["ACK", "BAT_OK", "RESEND", "Ps2Device"]

ACK = 0xFA
RESEND = 0xFE
"""Sent by a device: not understood. Sent to a device: say the last byte again."""
BAT_OK = 0xAA
"""The basic assurance test after a reset has passed."""


class Ps2Device:
    """The end of the cable; a keyboard or a mouse says what its commands do."""

    def __init__(self) -> None:
        self.replies: deque[int] = deque()
        self.awaiting = 0
        """The command that the next byte is a parameter of, or 0."""
        self.last_sent = 0

    def power_on(self) -> None:
        """Forget everything."""
        self.replies.clear()
        self.awaiting = 0
        self.last_sent = 0

    def command(self, byte: int) -> None:
        """Take a byte from the controller and prepare the answer."""
        self.replies.clear()
        awaiting, self.awaiting = self.awaiting, 0
        if awaiting and self._parameter(awaiting, byte):
            return
        if byte == RESEND:
            self.replies.append(self.last_sent)
        else:
            self._command(byte)

    def take(self) -> int | None:
        """Return the next byte to the controller, or None if there is nothing to say."""
        byte = self.replies.popleft() if self.replies else self._next()
        if byte is not None:
            self.last_sent = byte
        return byte

    def _await(self, command: int) -> None:
        """Acknowledge a command that a parameter follows."""
        self.awaiting = command
        self.replies.append(ACK)

    def _command(self, byte: int) -> None:
        raise NotImplementedError

    def _parameter(self, command: int, value: int) -> bool:
        """Take a parameter; False means that it is the next command instead."""
        raise NotImplementedError

    def _next(self) -> int | None:
        """What the device says unasked."""
        return None
