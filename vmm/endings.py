"""Why a run ends, read out of the exit that ended it.

Every exit reason of the x86 API comes through here; one that the machine does not handle ends the
run with a sentence that names it.

Spec: KVM API, "The kvm_run structure".
"""

from __future__ import annotations

import errno
import os
import struct

from devices.records import Record
from kvm_bindings import constants as c
from vmm.exits import exit_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.reasons import Reason

__all__ = ["Ending", "ending_of", "run_failed"]

_UNION = 32
"""Where the part of kvm_run begins that depends on the exit reason."""
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")  # hardware_exit_reason; memory_fault.gpa
_FAIL_ENTRY = struct.Struct("<QI")  # hardware_entry_failure_reason, cpu
_INTERNAL = struct.Struct("<II16Q")  # suberror, ndata, data


class Ending(Record):
    """Why a run ends, as the vCPU or the device that ended it knows it."""

    reason: Reason
    vcpu: int = 0
    value: int | None = None
    """What was written to the debug-exit port."""
    detail: str = ""
    exit_reason: int = -1
    """The exit reason behind it, where there is one."""
    numbers: tuple[int, ...] = ()
    """What the exit carried: suberror and data, or the hardware's reason."""


def ending_of(reason: int, page: memoryview, vcpu: int) -> Ending | None:
    """The ending that an exit means; None where the guest simply runs on."""
    if reason in (c.KVM_EXIT_INTR, c.KVM_EXIT_IRQ_WINDOW_OPEN):
        return None
    if reason == c.KVM_EXIT_HLT:
        return Ending("halt", vcpu, exit_reason=reason)
    if reason == c.KVM_EXIT_SHUTDOWN:
        return Ending("shutdown", vcpu, exit_reason=reason)
    if reason == c.KVM_EXIT_SYSTEM_EVENT:
        return _system_event(page, vcpu)
    if reason == c.KVM_EXIT_FAIL_ENTRY:
        hardware, cpu = _FAIL_ENTRY.unpack_from(page, _UNION)
        return Ending(
            "fail_entry",
            vcpu,
            detail=f"hardware entry failure reason {hardware:#x} on processor {cpu}",
            exit_reason=reason,
            numbers=(hardware,),
        )
    if reason == c.KVM_EXIT_INTERNAL_ERROR:
        suberror, count, *data = _INTERNAL.unpack_from(page, _UNION)
        return Ending(
            "internal_error",
            vcpu,
            detail=f"KVM internal error, suberror {suberror}",
            exit_reason=reason,
            numbers=(suberror, *data[: min(count, len(data))]),
        )
    numbers: tuple[int, ...] = ()
    if reason == c.KVM_EXIT_UNKNOWN:
        numbers = _U64.unpack_from(page, _UNION)
    elif reason == c.KVM_EXIT_MEMORY_FAULT:
        numbers = _U64.unpack_from(page, _UNION + 8)
    return Ending(
        "internal_error",
        vcpu,
        detail=f"exit {exit_name(reason)}",
        exit_reason=reason,
        numbers=numbers,
    )


def run_failed(number: int, vcpu: int) -> Ending:
    """The ending where KVM_RUN itself failed with an errno."""
    name = errno.errorcode.get(number, str(number))
    return Ending(
        "internal_error", vcpu, detail=f"KVM_RUN failed with {name}: {os.strerror(number)}"
    )


def _system_event(page: memoryview, vcpu: int) -> Ending:
    reason = c.KVM_EXIT_SYSTEM_EVENT
    event = _U32.unpack_from(page, _UNION)[0]
    if event == c.KVM_SYSTEM_EVENT_SHUTDOWN:
        return Ending("poweroff", vcpu, exit_reason=reason)
    if event == c.KVM_SYSTEM_EVENT_RESET:
        return Ending("reset", vcpu, exit_reason=reason)
    words = "the guest reported a crash" if event == c.KVM_SYSTEM_EVENT_CRASH else ""
    return Ending(
        "internal_error",
        vcpu,
        detail=words or f"system event {event}, which this machine does not handle",
        exit_reason=reason,
    )
