"""A PS/2 mouse that lies still.

Modelled: the answers of a standard two-button mouse (device type 0) to every command a driver
probes it with. Left out: movement and buttons, so stream mode never sends a packet; wrap mode;
the wheel extensions, whose knock of sample rates such a mouse rightly ignores.

Spec: IBM PS/2 Hardware Interface Technical Reference, "Mouse".
"""

from __future__ import annotations

from devices.ps2 import ACK, BAT_OK, RESEND, Ps2Device

__all__ = ["MOUSE_PARAMETERS", "Ps2Mouse"]

DEVICE_TYPE = 0x00
NO_MOVEMENT = (0x08, 0x00, 0x00)
"""A movement packet: bit 3 is always set, no button, no way in either direction."""

SET_SCALING_1, SET_SCALING_2, SET_RESOLUTION, STATUS_REQUEST = 0xE6, 0xE7, 0xE8, 0xE9
SET_STREAM, READ_DATA, SET_REMOTE, READ_TYPE, SET_RATE = 0xEA, 0xEB, 0xF0, 0xF2, 0xF3
ENABLE, DISABLE, SET_DEFAULTS, RESET = 0xF4, 0xF5, 0xF6, 0xFF

MOUSE_PARAMETERS = frozenset({SET_RESOLUTION, SET_RATE})
"""The commands that a parameter follows."""


class Ps2Mouse(Ps2Device):
    """The mouse on the auxiliary port."""

    def __init__(self) -> None:
        super().__init__()
        self._defaults()

    def power_on(self) -> None:
        """Forget everything."""
        super().power_on()
        self._defaults()

    def _defaults(self) -> None:
        self.remote = False
        self.reporting = False
        self.doubled = False
        self.resolution = 2
        """2 to the power of this many counts per millimetre."""
        self.rate = 100
        """Samples per second."""

    def _command(self, byte: int) -> None:
        if byte in MOUSE_PARAMETERS:
            self._await(byte)
            return
        if byte == RESET:
            self._defaults()
            self.replies.extend((ACK, BAT_OK, DEVICE_TYPE))
        elif byte == READ_TYPE:
            self.replies.extend((ACK, DEVICE_TYPE))
        elif byte == STATUS_REQUEST:
            status = self.remote << 6 | self.reporting << 5 | self.doubled << 4
            self.replies.extend((ACK, status, self.resolution, self.rate))
        elif byte == READ_DATA:
            self.replies.extend((ACK, *NO_MOVEMENT))
        elif self._switch(byte):
            self.replies.append(ACK)
        else:
            self.replies.append(RESEND)

    def _switch(self, byte: int) -> bool:
        """Carry out a command that is answered with nothing but ACK; False if it is none."""
        if byte in (SET_SCALING_1, SET_SCALING_2):
            self.doubled = byte == SET_SCALING_2
        elif byte in (SET_STREAM, SET_REMOTE):
            self.remote = byte == SET_REMOTE
        elif byte in (ENABLE, DISABLE):
            self.reporting = byte == ENABLE
        elif byte == SET_DEFAULTS:
            self._defaults()
        else:
            return False
        return True

    def _parameter(self, command: int, value: int) -> bool:
        if command == SET_RESOLUTION:
            self.resolution = value & 0x03
        else:
            self.rate = value
        self.replies.append(ACK)
        return True
