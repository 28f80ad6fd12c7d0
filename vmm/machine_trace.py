"""What a machine and its trace have to do with each other.

The trace asks what machine it is of, and has it stopped where a condition is met; the machine has
its phases noted, and tracers told of them while it is held.
"""

from __future__ import annotations

from collections.abc import Callable

from vmm.endings import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.run import RunControl
    from vmm.trace.trace import Trace

__all__ = ["connect_trace"]


def connect_trace(trace: Trace, machine: Machine, control: RunControl) -> None:
    """Connect a machine with the trace of what it does."""

    def about() -> dict[str, object]:
        from vmm.description import describe_machine

        with machine.lock:
            return describe_machine(machine)

    def met_stop(vcpu: int, detail: str, pauses: bool) -> None:
        if pauses or machine.pause_at_stops or machine.onlookers:
            control.gate.pause_soon(detail)
        else:
            control.state.end(Ending("stopped", vcpu, detail=detail))

    def break_at(address: int, hit: Callable[[int, str], object]) -> Callable[[], None]:
        def met(vcpu: int, address: int) -> None:
            name = None if machine.symbols is None else machine.symbols.at(address)
            hit(vcpu, f"vCPU {vcpu}, RIP {address:#x}{f' ({name})' if name else ''}")

        point = machine.breakpoints.add(address, met)
        return lambda: machine.breakpoints.remove(point)

    trace.around = machine
    trace.about = about
    trace.on_stop = met_stop
    trace.break_at = break_at
    control.state.lifecycle.note = trace.note_phase
    control.gate.on_held = trace.catch_up
