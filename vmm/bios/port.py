"""The BIOS trap port as the machine sees it: an output port that changes registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmm.bios.dispatch import Bios

__all__ = ["BiosPort"]

_PROTECTION = 1 << 0


class BiosPort:
    """Connects a `Bios` to a vCPU: call it for each write to `TRAP_PORT`.

    The callables read and write `kvm_regs` and `kvm_sregs` of the vCPU that is at the exit.
    KVM completes the OUT at the next entry, so all registers but RIP may be set now.
    `set_sregs` is used only by the few services that return a pointer in ES. `on_wait` is called
    after a service has waited and will go on waiting: the vCPU is then hardly ever in the guest,
    where signals find it, and has to look by itself for what ends or pauses the run.
    """

    def __init__(
        self,
        bios: Bios,
        *,
        get_regs: Callable[[], Any],
        get_sregs: Callable[[], Any],
        set_regs: Callable[[Any], None],
        set_sregs: Callable[[Any], None],
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.bios = bios
        self._get_regs = get_regs
        self._get_sregs = get_sregs
        self._set_regs = set_regs
        self._set_sregs = set_sregs
        self._on_wait = on_wait

    def __call__(self, value: int, size: int) -> None:
        """Take a write. One that does not come from a stub of the ROM in real mode is ignored."""
        sregs = self._get_sregs()
        if sregs.cr0 & _PROTECTION:
            return
        general = self._get_regs()
        linear = (sregs.cs.base + (general.rip & 0xFFFF)) & 0xFFFF_FFFF
        regs = self.bios.handle(linear, general, sregs)
        if regs is None:
            return
        if regs.segments_changed:
            self._set_sregs(sregs)
        if regs.changed:
            self._set_regs(general)
        if regs.stub_carry and self._on_wait is not None:
            self._on_wait()
