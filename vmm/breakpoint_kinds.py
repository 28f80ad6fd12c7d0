"""Which breakpoints stop a guest here, and whether watchpoints do: tried with tiny guests.

A backend's name does not tell. kvm_pvm does not understand INT3 in ring 0, and its debug registers
stop at instructions only. And an AMD-V that QEMU emulates (seen with 7.2) has nothing: INT3 raises
a software interrupt there, for which the intercept of #BP is not looked at, and VMRUN loads DR7
without arming what it enables. Later versions arm it.

Spec: AMD64 APM vol. 2, Exception Intercepts; VMRUN Instruction.
"""

from __future__ import annotations

import threading
from functools import cache

from kvm_bindings import constants as c
from vmm.breakpoints import Trap
from vmm.bus import Bus
from vmm.errors import DeviceFault, FaultChoice
from vmm.guest_debug import EXECUTE, WRITES, Slot
from vmm.hardware import Hardware
from vmm.layout import MemoryLayout
from vmm.loader.plan import Start
from vmm.vcpu import Vcpu

__all__ = ["kinds_here"]

_MEMORY = 1 << 20
_AT = 0x1000
_WATCHED = 0x2000
_GUEST: dict[Trap, tuple[bytes, tuple[Slot, ...]]] = {
    "software": (b"\xcc\xf4", ()),  # int3; hlt
    "hardware": (b"\x90\xf4", ((_AT, EXECUTE, 1),)),  # nop; hlt
    "watch": (b"\xa2\x00\x20\x00\x00\xf4", ((_WATCHED, WRITES, 1),)),  # mov [0x2000], al; hlt
}


class _Nobody:
    """Nobody stops the guest: it ends by itself."""

    def interrupted(self, vcpu: Vcpu) -> bool:
        return False

    def device_failed(self, vcpu: Vcpu, fault: DeviceFault) -> FaultChoice:
        return "raise"


@cache
def kinds_here(kvm: str = "/dev/kvm") -> frozenset[Trap]:
    """What stops a guest in ring 0 of protected mode. Tried once a process.

    Raises:
        KvmUnavailable: KVM cannot be used.
    """
    return frozenset(kind for kind in _GUEST if _stops(kvm, kind))


def _stops(kvm: str, kind: Trap) -> bool:
    hardware = Hardware(
        *(kvm, MemoryLayout.for_size(_MEMORY)),
        cpus=1,
        irqchip=False,
        features="",
        huge_pages=False,
        pio=Bus("port", 1 << 16),
        mmio=Bus("MMIO", 1 << 52),
        lock=threading.RLock(),
        control=_Nobody(),
        trace=None,
    )
    try:
        code, slots = _GUEST[kind]
        hardware.memory.write(_AT, code)
        hardware.start(Start("protected", _AT))
        (vcpu,) = hardware.vcpus
        vcpu.debug.breakpoints(slots, software=kind == "software")
        ending = vcpu.execute(1)
        return ending is not None and ending.exit_reason == c.KVM_EXIT_DEBUG
    finally:
        hardware.close()
