"""Carrying out a boot plan: memory is written, the first vCPU gets its registers.

This is the one place where plans meet KVM. Every start sets all segment, control and descriptor
registers from the state that KVM gave the vCPU at creation, so that a machine can be started a
second time.
"""

from __future__ import annotations

from firmware.gdt import (
    BOOT_CODE,
    BOOT_DATA,
    KERNEL_CODE32,
    KERNEL_CODE64,
    KERNEL_DATA,
    NO_LDT,
    SEGMENTS,
    USER_CODE32,
    USER_CODE64,
    USER_DATA,
    Segment,
    boot_segments,
    real_mode_segment,
    tss_segment,
)
from firmware.start_tables import START_TABLES_SIZE, start_tables
from kvm_bindings import structs
from vmm.errors import BootError, GuestMemoryError
from vmm.layout import FOUR_GIB
from vmm.loader.plan import BootPlan, Start
from vmm.memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["place_image", "start_registers"]

_CR0_PE = 1 << 0
_CR0_ET = 1 << 4
_CR0_NE = 1 << 5
_CR0_PG = 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME = 1 << 8
_EFER_LMA = 1 << 10
_RFLAGS_FIXED = 1 << 1
_RFLAGS_IOPL3 = 3 << 12
_REAL_MODE_REACH = 0x10_0000


def place_image(plan: BootPlan, memory: GuestMemory) -> None:
    """Write a plan's image, tables and ROMs to guest memory.

    Raises:
        BootError: something does not fit.
    """
    for rom in plan.roms:
        memory.add_rom(rom.gpa, rom.data, rom.what)
    if plan.expects[1]:
        memory.expect(*plan.expects)
    for write in plan.writes:
        try:
            memory.write(write.gpa, write.data)
            if write.zeros_after:
                memory.fill(write.gpa + len(write.data), write.zeros_after)
        except GuestMemoryError:
            raise BootError(
                f"{write.what}: {write.size:#x} bytes at {write.gpa:#x} do not fit in "
                f"{memory.size >> 10}K of memory"
            ) from None


def start_registers(start: Start, memory: GuestMemory, initial: Any) -> tuple[Any, Any]:
    """Work out the registers for a start; the tables that the mode needs are put in memory.

    Args:
        start: mode, entry point, privilege level and general registers.
        memory: gets page tables and descriptor tables in its last 32 KiB below 4 GiB.
        initial: the `kvm_sregs` of the new vCPU, from which the result is made.

    Returns:
        The `kvm_regs` and the `kvm_sregs` to set.

    Raises:
        BootError: the mode cannot start there.
    """
    sregs = initial.copy()
    regs = structs.kvm_regs(rip=start.entry, rflags=_RFLAGS_FIXED)
    if start.mode == "reset":
        regs.rip = 0xFFF0
        # What RESET leaves in EDX is the processor's signature; firmware prints it at most.
        regs.rdx = 0x600
    elif start.mode == "real":
        _real(start, regs, sregs)
    else:
        _flat(start, memory, regs, sregs)
        # A stack that grows down from the code: a call must not be the end of a tiny guest.
        regs.rsp = start.entry
    for name, value in start.registers.items():
        setattr(regs, name, value)
    return regs, sregs


def _real(start: Start, regs: Any, sregs: Any) -> None:
    """Real mode: segments with base = selector * 16, the interrupt table at 0.

    Spec: AMD64 APM vol. 2, Real Addressing; Initial Processor State.
    """
    if not 0 <= start.entry < _REAL_MODE_REACH:
        raise BootError(f"entry point {start.entry:#x} is out of reach in real mode (below 1M)")
    if start.cpl:
        raise BootError("real mode has no privilege levels: leave out cpl")
    segment = start.segment
    if segment is None:
        segment = 0 if start.entry < 0x1_0000 else start.entry >> 4
    regs.rip = regs.rsp = start.entry - (segment << 4)
    sregs.cs = _loaded(real_mode_segment(segment, code=True))
    _load_data(sregs, real_mode_segment(segment))
    sregs.cr0 = _CR0_ET
    sregs.idt.base, sregs.idt.limit = 0, 0x3FF
    sregs.gdt.base, sregs.gdt.limit = 0, 0xFFFF


def _flat(start: Start, memory: GuestMemory, regs: Any, sregs: Any) -> None:
    """Protected or long mode with flat segments; at CPL 3 ports are open (IOPL 3).

    Spec: AMD64 APM vol. 2, Initializing Long Mode; Linux, The Linux/x86 Boot Protocol (32-bit Boot
    Protocol; 64-bit Boot Protocol); Xen, x86/HVM direct boot ABI.
    """
    if start.cpl not in (0, 3):
        raise BootError(f"cpl {start.cpl}: a guest starts at privilege level 0 or 3")
    if not 0 <= start.entry < FOUR_GIB:
        raise BootError(f"entry point {start.entry:#x} is outside of the first 4G")
    gpa = memory.layout.low_end - START_TABLES_SIZE
    if gpa < 0:
        raise BootError(
            f"memory of {memory.size >> 10}K: a {start.mode} mode start needs "
            f"{START_TABLES_SIZE >> 10}K for its tables"
        )
    user = start.cpl == 3
    long = start.mode == "long"
    if start.protocol == "linux":
        segments, code, data = boot_segments(long=long), BOOT_CODE, BOOT_DATA
    else:
        segments, data = SEGMENTS, USER_DATA if user else KERNEL_DATA
        if long:
            code = USER_CODE64 if user else KERNEL_CODE64
        else:
            code = USER_CODE32 if user else KERNEL_CODE32
    tables = start_tables(gpa, user=user, segments=segments)
    memory.write(gpa, tables.data)
    sregs.cs = _loaded(segments[code])
    _load_data(sregs, segments[data])
    sregs.tr = _loaded(tss_segment(0) if start.protocol == "pvh" else tables.tr)
    sregs.ldt = _loaded(NO_LDT)
    sregs.gdt.base, sregs.gdt.limit = tables.gdt_base, tables.gdt_limit
    sregs.idt.base, sregs.idt.limit = 0, 0
    sregs.cr0 = _CR0_PE | _CR0_ET | (0 if start.protocol == "pvh" else _CR0_NE)
    if long:
        sregs.cr0 |= _CR0_PG
        sregs.cr3 = tables.cr3
        sregs.cr4 = _CR4_PAE
        sregs.efer = _EFER_LME | _EFER_LMA
    if user:
        regs.rflags |= _RFLAGS_IOPL3


def _load_data(sregs: Any, segment: Segment) -> None:
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = _loaded(segment)


def _loaded(segment: Segment) -> Any:
    # The fields of `struct kvm_segment` come in this order; each costs as much as all at once.
    return structs.kvm_segment(*segment)
