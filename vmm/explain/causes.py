"""The likely cause of each kind of death."""

from __future__ import annotations

from collections.abc import Callable

from vmm.cpustate import CpuState
from vmm.explain.cause import Cause
from vmm.explain.death import Death, Kind
from vmm.explain.delivery import delivery_problem
from vmm.explain.entry_state import entry_failure_reason, inconsistencies
from vmm.explain.faults import Fault, likely_fault
from vmm.explain.hangs import halt_cause, timeout_cause
from vmm.explain.internal_error import internal_error_cause
from vmm.explain.vectors import VECTORS, vector_name

__all__ = ["find_cause"]

_DOUBLE_FAULT = 8
_LOAD_AN_IDT = "load an IDT with handlers (LIDT) before anything can fault, #DF included"


def find_cause(death: Death) -> Cause:
    """Work out why a guest died, from what is known. Never raises; knows when it does not know."""
    return _FINDERS[death.kind](death)


def _shutdown(death: Death) -> Cause:
    state = death.state
    if state is None:
        return Cause("the registers could not be read")
    if death.state_was_reset:
        lost = "KVM reset the vCPU at the triple fault, so the registers of that moment are lost"
        if death.last_seen is None:
            return Cause(
                "the first exception could not be delivered, and neither could the double fault",
                details=(lost,),
                advice=(
                    "look at the last exits, or step through the guest's last instructions",
                    "check that the guest's IDT, its handlers and their stack are in memory",
                ),
            )
        return _as_last_seen(state, death, f"{lost}; what follows is the state at the exit before")
    fault = likely_fault(state, death.read)
    if fault.vector is None:
        return _unknown_vector(death, fault)
    problem = delivery_problem(state, death.read, fault.vector)
    double = delivery_problem(state, death.read, _DOUBLE_FAULT)
    details: tuple[str, ...] = (f"{vector_name(fault.vector)} at {state.location}: {fault.reason}",)
    if not problem:
        known = VECTORS.get(fault.vector, ("", ""))[1]
        return Cause(
            f"{vector_name(fault.vector)}{f', {known},' if known else ''} could be delivered, but "
            "its handler must have failed",
            details=(*details, double) if double else details,
            advice=("look at the handler; the state below may be from inside of it",),
        )
    if double and fault.vector != _DOUBLE_FAULT:
        details = (*details, double)
    return Cause(problem, details, _shutdown_advice(state.idt.limit, fault))


def _as_last_seen(state: CpuState, death: Death, lost: str) -> Cause:
    """Say what holds of a state from before the death: nothing of the instruction, which has run
    since, but whether an exception could be delivered, if the guest changed nothing about that."""
    double = delivery_problem(state, death.read, _DOUBLE_FAULT)
    advice = "look at the code from where the guest was last seen; it died somewhere behind"
    if double:
        return Cause(f"an exception, and {double}", (lost,), (advice, _LOAD_AN_IDT))
    return Cause("an exception whose handlers failed as well", (lost,), (advice,))


def _unknown_vector(death: Death, fault: Fault) -> Cause:
    state = death.state
    assert state is not None
    double = delivery_problem(state, death.read, _DOUBLE_FAULT)
    details = (double,) if double else ()
    if fault.reason:
        return Cause(fault.reason, details, ("look at how the guest came to this address",))
    if double:
        advice = _shutdown_advice(state.idt.limit, fault)
        return Cause(f"an exception, and {double}", (), advice)
    return Cause(
        "an exception whose handler failed; the instruction at RIP looks sound",
        (),
        ("look at the handlers; an interrupt may have come while the stack was not usable",),
    )


def _shutdown_advice(idt_limit: int, fault: Fault) -> tuple[str, ...]:
    advice = [_LOAD_AN_IDT]
    if fault.vector == 14:
        advice.insert(0, "map the address; the page walk below shows where it ends")
    if fault.vector == 7 or "CR4." in fault.reason:
        advice.insert(0, "switch the FPU and SSE on first: CR0.EM=0, CR0.TS=0, CR4.OSFXSR=1")
    if fault.vector in (3, 6) and idt_limit == 0:
        advice.append("if it was meant as a reset of the machine: many kernels reboot in this way")
    return tuple(advice)


def _fail_entry(death: Death) -> Cause:
    reason = entry_failure_reason(death.hardware_reason, death.backend)
    broken = inconsistencies(death.cpu) if death.cpu else []
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


_FINDERS: dict[Kind, Callable[[Death], Cause]] = {
    "shutdown": _shutdown,
    "fail_entry": _fail_entry,
    "internal_error": _internal_error,
    "memory_fault": _memory_fault,
    "unclaimed_access": _unclaimed_access,
    "unhandled_exit": _unhandled_exit,
    "timeout": timeout_cause,
    "halt": halt_cause,
    "device_fault": _device_fault,
}
