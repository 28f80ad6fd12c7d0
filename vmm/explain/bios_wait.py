"""A guest that waits in a service of the Python BIOS.

A service that has to wait makes its stub trap again and again (`firmware.bios_rom`): the guest is
then in the stub, with the registers of the call and the INT's frame on its stack.
"""

from __future__ import annotations

from firmware.bios_rom import vector_at
from vmm.cpustate import CpuState
from vmm.explain.cause import Cause
from vmm.explain.page_walk import Read, read_linear

__all__ = ["bios_wait"]

_KEYBOARD = 0x16
_INT_SIZE = 2


def bios_wait(state: CpuState, read: Read) -> Cause | None:
    """Say which service a guest waits in; None if it is in none."""
    vector = vector_at(state.linear_rip) if state.mode == "real" else None
    if vector is None:
        return None
    call = f"INT {vector:02X}h, AH={state.rax >> 8 & 0xFF:02X}h"
    frame = read_linear(state, read, state.linear_rsp, 4)
    if len(frame) == 4:
        offset, segment = int.from_bytes(frame[:2], "little"), int.from_bytes(frame[2:], "little")
        call += f", called at {segment:04x}:{offset - _INT_SIZE & 0xFFFF:04x}"
    if vector != _KEYBOARD:
        return Cause(
            f"it is in the BIOS ({call})",
            advice=("look at what the service waits for, or give it a longer --timeout",),
        )
    return Cause(
        f"it waits in the BIOS for a key ({call})",
        advice=("type one: standard input is the guest's keyboard",),
    )
