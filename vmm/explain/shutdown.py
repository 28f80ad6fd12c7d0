"""A triple fault: which exception came first, and why no handler took it.

Where the kernel keeps the registers of the death, the instruction at RIP is tried on them. Where it
loses them (kvm_amd), what is left is the state at the exit before. From there the code is followed
for as long as every instruction's effect is certain (`vmm.explain.ahead`): if that meets a fault,
the guest must have died of it.
"""

from __future__ import annotations

from vmm.cpustate import CpuState
from vmm.explain.ahead import follow_code
from vmm.explain.cause import Cause
from vmm.explain.chain import Chain, follow
from vmm.explain.death import Death
from vmm.explain.delivery import delivery_failure
from vmm.explain.faults import Fault, likely_fault
from vmm.explain.page_walk import Read, read_linear, walk
from vmm.explain.vectors import VECTORS, vector_name

__all__ = ["shutdown_cause"]

_DOUBLE_FAULT, _PAGE_FAULT = 8, 14
_LOAD_AN_IDT = "load an IDT with handlers (LIDT) before anything can fault, #DF included"
_LOST = "KVM reset the vCPU at the triple fault, so the registers of that moment are lost"


def shutdown_cause(death: Death) -> Cause:
    """Explain a triple fault."""
    state = death.state
    if state is None:
        return Cause("the registers could not be read")
    if not death.state_was_reset:
        return _cause(state, death.read)
    if death.last_seen is None:
        return Cause(
            "the first exception could not be delivered, and neither could the double fault",
            details=(_LOST,),
            advice=(
                "look at the last exits, or step through the guest's last instructions",
                "check that the guest's IDT, its handlers and their stack are in memory",
            ),
        )
    return _as_last_seen(state, death.read)


def _cause(state: CpuState, read: Read) -> Cause:
    fault = likely_fault(state, read)
    if fault.vector is None:
        return _unknown_vector(state, read, fault)
    chain = follow(state, read, fault.vector)
    first = f"{vector_name(fault.vector)} at {state.location}: {fault.reason}"
    if not chain.failures:
        known = VECTORS.get(fault.vector, ("", ""))[1]
        double = delivery_failure(state, read, _DOUBLE_FAULT)
        return Cause(
            f"{vector_name(fault.vector)}{f', {known},' if known else ''} could be delivered, but "
            "its handler must have failed",
            details=(first, double.text) if double else (first,),
            advice=("look at the handler; the state below may be from inside of it",),
        )
    sentence = f"{_in_short(state, read, fault)}, and {chain.failures[0].text}"
    details = (first, *chain.lines(), *_arrows(chain))
    return Cause(sentence, details, _advice(state, fault, sentence))


def _arrows(chain: Chain) -> tuple[str, ...]:
    return (f"the chain of faults: {chain.arrows}",) if chain.fatal else ()


def _in_short(state: CpuState, read: Read, fault: Fault) -> str:
    """What the guest did, in a few words."""
    if fault.vector != _PAGE_FAULT or fault.address is None:
        return fault.reason
    at, mapped = f"{fault.address:#x}", walk(state, read, fault.address, cpl=0).mapped
    if fault.address == state.linear_rip:
        if _nothing_is_mapped(state, read):
            return (
                "the page tables map neither the code nor the stack any more: they were "
                f"overwritten, or CR3 ({state.cr3:#x}) is wrong"
            )
        if not mapped:
            return f"it jumped to {at}, where nothing is mapped"
        if "NX" in fault.reason:
            return f"it jumped to {at}, in a page that is not executable"
        return fault.reason
    if not mapped and _beneath_the_stack(state, read, fault.address):
        return f"the stack ran away: it grew down to {at}, where nothing is mapped"
    return fault.reason


def _nothing_is_mapped(state: CpuState, read: Read) -> bool:
    places = (state.linear_rip, state.linear_rsp - 8, state.idt.base, state.gdt.base)
    return not any(walk(state, read, place, cpl=0).mapped for place in places)


def _beneath_the_stack(state: CpuState, read: Read, address: int) -> bool:
    """Whether `address` is just below RSP, and the stack above it is there."""
    top = state.linear_rsp
    return 0 <= top - address <= 4096 and len(read_linear(state, read, top, 8)) == 8


def _as_last_seen(state: CpuState, read: Read) -> Cause:
    """Explain a death of which only an earlier state is known."""
    here, steps = follow_code(state, read)
    if steps is not None and _is_fatal(here, read):
        found = _cause(here, read)
        number = f"{steps} instruction{'' if steps == 1 else 's'}"
        seen = f"{_LOST}; what is told follows {number} from where it was last seen"
        return Cause(found.sentence, (*found.details, seen), found.advice)
    lost = f"{_LOST}; what follows is the state at the exit before"
    double = delivery_failure(state, read, _DOUBLE_FAULT)
    advice = "look at the code from where the guest was last seen; it died somewhere behind"
    if double:
        return Cause(f"an exception, and {double.text}", (lost,), (advice, _LOAD_AN_IDT))
    return Cause("an exception whose handlers failed as well", (lost,), (advice,))


def _is_fatal(state: CpuState, read: Read) -> bool:
    """A fault that has a handler is no death: the guest went on, and nobody knows where to."""
    vector = likely_fault(state, read, certain=True).vector
    return vector is not None and follow(state, read, vector).fatal


def _unknown_vector(state: CpuState, read: Read, fault: Fault) -> Cause:
    double = delivery_failure(state, read, _DOUBLE_FAULT)
    details = (double.text,) if double else ()
    if fault.reason:
        return Cause(fault.reason, details, ("look at how the guest came to this address",))
    if double:
        advice = _advice(state, fault, "")
        return Cause(f"an exception, and {double.text}", (), advice)
    return Cause(
        "an exception whose handler failed; the instruction at RIP looks sound",
        (),
        ("look at the handlers; an interrupt may have come while the stack was not usable",),
    )


def _advice(state: CpuState, fault: Fault, sentence: str) -> tuple[str, ...]:
    advice = [_LOAD_AN_IDT]
    if sentence.startswith("the stack ran away"):
        advice = [
            "look for a recursion without an end, or give it more stack",
            "let #DF have a stack of its own (in long mode IST, in the TSS): it is then survived",
        ]
    elif sentence.startswith("the page tables map"):
        advice = ["find what writes over the tables that CR3 points to, or where CR3 is loaded"]
    elif sentence.startswith("it jumped"):
        advice.insert(0, "look at where the address came from: a pointer, or a return address")
    elif fault.vector == _PAGE_FAULT:
        advice.insert(0, "map the address; the page walk below shows where it ends")
    elif fault.vector == 7 or "CR4." in fault.reason:
        advice.insert(0, "switch the FPU and SSE on first: CR0.EM=0, CR0.TS=0, CR4.OSFXSR=1")
    elif fault.vector in (3, 6) and state.idt.limit == 0:
        advice.append("if it was meant as a reset of the machine: many kernels reboot in this way")
    return tuple(advice)
