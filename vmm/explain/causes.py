"""The likely cause of each kind of death."""

from __future__ import annotations

from collections.abc import Callable

from vmm.entry_state import entry_failure_reason, inconsistencies
from vmm.explain.cause import Cause
from vmm.explain.death import Death, Kind
from vmm.explain.hangs import halt_cause, timeout_cause
from vmm.explain.internal_error import internal_error_cause
from vmm.explain.shutdown import shutdown_cause

__all__ = ["find_cause"]


def find_cause(death: Death) -> Cause:
    """Work out why a guest died, from what is known. Never raises; knows when it does not know."""
    return _FINDERS[death.kind](death)


def _fail_entry(death: Death) -> Cause:
    reason = entry_failure_reason(death.hardware_reason, death.backend)
    broken = inconsistencies(death.cpu, death.backend) if death.cpu else []
    if not broken:
        return Cause(
            f"{reason}; no rule that is known here is broken",
            advice=("the host's kernel log says more (kvm_intel.dump_invalid_vmcs=1)",),
        )
    return Cause(
        broken[0],
        details=(f"the processor says {reason}", *broken[1:]),
        advice=("set this state right before the run (m.sregs), or where the guest changes it",),
    )


def _internal_error(death: Death) -> Cause:
    return internal_error_cause(death.suberror, death.data, death.cpu, death.read, death.backend)


def _memory_fault(death: Death) -> Cause:
    where = "" if death.gpa is None else f" at guest-physical {death.gpa:#x}"
    return Cause(
        f"KVM could not reach the memory behind the guest{where}",
        advice=("the host may be out of memory or of huge pages; try without --huge-pages",),
    )


def _unclaimed_access(death: Death) -> Cause:
    return Cause(
        death.reason_name or "it used an address that no device claims",
        advice=(
            "put a device there (Machine.add_device, on_out, on_in)",
            "or leave out --strict: it then reads as all ones or does nothing, as on a PC",
        ),
    )


def _unhandled_exit(death: Death) -> Cause:
    name = death.reason_name or "an exit without a name"
    hardware = (
        f" (hardware exit reason {death.hardware_reason:#x})" if death.hardware_reason else ""
    )
    return Cause(
        f"KVM returned {name}{hardware}, which this machine does not handle",
        advice=("nothing was switched on that asks for it: please report this with the text here",),
    )


def _device_fault(death: Death) -> Cause:
    return Cause(
        f"the model of {death.reason_name or 'a device'} raised {death.error or 'an exception'}",
        advice=("this is a fault of the VMM or of your device, not of the guest",),
    )


def _panic(death: Death) -> Cause:
    said = death.reason_name
    advice = ["look at the guest's console for what led to it"]
    if death.symbols is None:
        names = "--symbols with its System.map or vmlinux names the functions on the stack"
        advice.append(f"{names} (boot it with nokaslr)")
    return Cause(f"it says {said!r}" if said else "why is not on its console", (), tuple(advice))


_FINDERS: dict[Kind, Callable[[Death], Cause]] = {
    "shutdown": shutdown_cause,
    "fail_entry": _fail_entry,
    "internal_error": _internal_error,
    "memory_fault": _memory_fault,
    "unclaimed_access": _unclaimed_access,
    "unhandled_exit": _unhandled_exit,
    "timeout": timeout_cause,
    "max_exits": timeout_cause,
    "stopped": timeout_cause,
    "halt": halt_cause,
    "device_fault": _device_fault,
    "panic": _panic,
}
