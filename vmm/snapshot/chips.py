"""What KVM holds of a VM beside its vCPUs and memory: interrupt controllers, timer, clock.

Put back before the vCPUs: PIC, IOAPIC, PIT; the clock afterwards, when nothing is left to be done
but to run.

Spec: KVM API, KVM_GET_IRQCHIP, KVM_GET_PIT2 and KVM_GET_CLOCK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from devices.records import Record
from kvm_bindings import constants as c
from kvm_bindings import structs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvm_bindings import VM

__all__ = ["VmState", "put_chips", "put_clock", "take_chips"]

_CHIPS = {
    "pic-master": c.KVM_IRQCHIP_PIC_MASTER,
    "pic-slave": c.KVM_IRQCHIP_PIC_SLAVE,
    "ioapic": c.KVM_IRQCHIP_IOAPIC,
}


class VmState(Record):
    """`parts` are the kernel's structures as bytes: pic-master, pic-slave, ioapic, pit; none where
    the chips are not in the kernel. `clock_ns` is what kvmclock shows, None without it. `lines`
    are the interrupt lines that devices hold, by gsi."""

    parts: Mapping[str, bytes]
    clock_ns: int | None
    lines: Mapping[int, bool]


def take_chips(
    vm: VM, *, irqchip: bool, lines: Mapping[int, bool], has: Callable[[int], int]
) -> VmState:
    """Read the chips and the clock of a VM whose vCPUs stand still."""
    parts = {}
    if irqchip:
        parts = {name: bytes(vm.get_irqchip(chip)) for name, chip in _CHIPS.items()}
        parts["pit"] = bytes(vm.get_pit2())
    clock = vm.get_clock().clock if has(c.KVM_CAP_ADJUST_CLOCK) else None
    return VmState(parts, clock, dict(lines))


def put_chips(vm: VM, state: VmState) -> None:
    """Set the chips."""
    for name in _CHIPS:
        if name in state.parts:
            vm.set_irqchip(structs.kvm_irqchip.from_buffer_copy(state.parts[name]))
    if "pit" in state.parts:
        vm.set_pit2(structs.kvm_pit_state2.from_buffer_copy(state.parts["pit"]))


def put_clock(vm: VM, state: VmState) -> None:
    """Have kvmclock go on from where it was."""
    if state.clock_ns is not None:
        vm.set_clock(structs.kvm_clock_data(clock=state.clock_ns))
