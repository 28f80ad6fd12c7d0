"""A vCPU: its registers, its events, and the page it shares with the kernel.

Spec: KVM API, "API description", the requests of type "vcpu ioctl".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from kvm_bindings import ioctls, structs
from kvm_bindings.calls import Closable, ioctl, pointer_to
from kvm_bindings.constants import KVM_CAP_NESTED_STATE, KVM_CAP_XSAVE2, KVM_DIRTY_LOG_PAGE_OFFSET
from kvm_bindings.cpuid import CpuidEntry, pack_table, read_table
from kvm_bindings.errors import KvmError
from kvm_bindings.exit_ring import ExitRing
from kvm_bindings.ioctls import Ioctl
from kvm_bindings.rings import CoalescedRing, DirtyRing
from kvm_bindings.runner import Runner, make_runner
from kvm_bindings.structs.base import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _S = TypeVar("_S", bound=Struct)

__all__ = ["Vcpu", "pack_msrs"]


_MSR_HEADER = struct.Struct("=II")
_MSR_ENTRY = struct.Struct("=IIQ")
_MSRS_A_CALL = 255
"""The kernel takes 255 entries a call at most."""
_NESTED_HEADER = 128
"""The size of kvm_nested_state without its data."""
_NESTED_SIZE_AT = 4
"""Where kvm_nested_state.size is."""


class Vcpu(Closable):
    """A virtual CPU. Every method raises KvmError when the kernel refuses.

    `page` is the mapping shared with the kernel, writable: kvm_run, the data of port I/O and,
    where there is one, the ring of batched writes. `run_struct` is its start as a structure.
    Requests wait while another thread is in KVM_RUN on this vCPU.

    `close()` releases both and unmaps the page. Whoever still holds a slice of `page` or
    `run_struct` keeps the mapping until it lets go; the vCPU itself is closed all the same.
    """

    def __init__(
        self, fd: int, index: int, mmap_size: int, vm_capability: Callable[[int], int]
    ) -> None:
        super().__init__(fd)
        self.index = index
        self._vm_capability = vm_capability
        self._runner: Runner | None = None
        self._rings: list[CoalescedRing | DirtyRing] = []
        self._map = mmap.mmap(fd, mmap_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.page = memoryview(self._map)

    @cached_property
    def run_struct(self) -> structs.kvm_run:
        """The shared page as a structure."""
        return structs.kvm_run.from_buffer(self._map)

    @property
    def synced_rip(self) -> int:
        """Where RIP is in `page`, of the registers that KVM delivers (KVM_SYNC_X86_REGS)."""
        registers: int = structs.kvm_run.s.offset
        rip: int = vars(structs.kvm_regs)["rip"].offset
        return registers + rip

    def runner(self, ring: ExitRing | None = None) -> Runner:
        """What enters the guest, noting exits in `ring` if one is given (the first time).

        Its `enter` returns the exit reason (KVM_EXIT_*, 0 or above) or a negative errno: -EINTR
        after a kick or with `immediate_exit` set, -EAGAIN when a vCPU that waited for its
        start-up interrupt was woken, -EBADF after `close()`.

        Spec: KVM API, KVM_RUN.
        """
        if self._runner is None:
            self._runner = make_runner(self.fd, self._map, index=self.index, ring=ring)
        return self._runner

    def coalesced_ring(self, page_offset: int) -> CoalescedRing:
        """The ring of batched writes, `page_offset` pages (KVM_CAP_COALESCED_MMIO) into `page`.

        All vCPUs of a VM share one ring.
        """
        start = page_offset * mmap.PAGESIZE
        ring = CoalescedRing(self.page[start : start + mmap.PAGESIZE])
        self._rings.append(ring)
        return ring

    def dirty_ring(self, size_bytes: int) -> DirtyRing:
        """Map this vCPU's dirty ring of the size given to KVM_CAP_DIRTY_LOG_RING."""
        ring = DirtyRing(self.fd, size_bytes, KVM_DIRTY_LOG_PAGE_OFFSET * mmap.PAGESIZE)
        self._rings.append(ring)
        return ring

    def close(self) -> None:
        """Disarm the runner, release and unmap the shared page, close the descriptor."""
        if self._runner is not None:
            self._runner.disarm()
        while self._rings:
            self._rings.pop().release()
        self.__dict__.pop("run_struct", None)
        if (page := self.__dict__.get("page")) is not None:
            page.release()
            # Someone holds a view of it: the mapping goes when they let go.
            with contextlib.suppress(BufferError):
                self._map.close()
        super().close()

    # Registers

    def get_regs(self) -> structs.kvm_regs:
        """Read the general registers."""
        return self._get(ioctls.KVM_GET_REGS, structs.kvm_regs)

    def set_regs(self, regs: structs.kvm_regs) -> None:
        """Set the general registers."""
        ioctl(self.fd, ioctls.KVM_SET_REGS, regs)

    def get_sregs(self) -> structs.kvm_sregs:
        """Read segments, descriptor tables and control registers."""
        return self._get(ioctls.KVM_GET_SREGS, structs.kvm_sregs)

    def set_sregs(self, sregs: structs.kvm_sregs) -> None:
        """Set segments, descriptor tables and control registers."""
        ioctl(self.fd, ioctls.KVM_SET_SREGS, sregs)

    def get_sregs2(self) -> structs.kvm_sregs2:
        """As `get_sregs`, with the PAE page directory pointers (KVM_CAP_SREGS2)."""
        return self._get(ioctls.KVM_GET_SREGS2, structs.kvm_sregs2)

    def set_sregs2(self, sregs: structs.kvm_sregs2) -> None:
        """Undo `get_sregs2`."""
        ioctl(self.fd, ioctls.KVM_SET_SREGS2, sregs)

    def get_fpu(self) -> structs.kvm_fpu:
        """Read the x87 and SSE registers."""
        return self._get(ioctls.KVM_GET_FPU, structs.kvm_fpu)

    def set_fpu(self, fpu: structs.kvm_fpu) -> None:
        """Set the x87 and SSE registers."""
        ioctl(self.fd, ioctls.KVM_SET_FPU, fpu)

    @cached_property
    def _xsave_size(self) -> int:
        return self._vm_capability(KVM_CAP_XSAVE2)

    def get_xsave(self) -> bytes:
        """Read the XSAVE area, 4,096 bytes or more (KVM_CAP_XSAVE2)."""
        if not self._xsave_size:
            return bytes(self._get(ioctls.KVM_GET_XSAVE, structs.kvm_xsave))
        area = bytearray(self._xsave_size)
        ioctl(self.fd, ioctls.KVM_GET_XSAVE2, pointer_to(area))
        return bytes(area)

    def set_xsave(self, area: bytes) -> None:
        """Set the XSAVE area as `get_xsave` gave it.

        Raises:
            ValueError: it is shorter than what the kernel reads.
        """
        needed = max(self._xsave_size, ctypes.sizeof(structs.kvm_xsave))
        if len(area) < needed:
            raise ValueError(f"an XSAVE area of {len(area)} bytes: the kernel reads {needed}")
        ioctl(self.fd, ioctls.KVM_SET_XSAVE, pointer_to(bytearray(area)))

    def get_xcrs(self) -> structs.kvm_xcrs:
        """Read the extended control registers."""
        return self._get(ioctls.KVM_GET_XCRS, structs.kvm_xcrs)

    def set_xcrs(self, xcrs: structs.kvm_xcrs) -> None:
        """Set the extended control registers."""
        ioctl(self.fd, ioctls.KVM_SET_XCRS, xcrs)

    def get_debugregs(self) -> structs.kvm_debugregs:
        """Read the guest's debug registers."""
        return self._get(ioctls.KVM_GET_DEBUGREGS, structs.kvm_debugregs)

    def set_debugregs(self, debugregs: structs.kvm_debugregs) -> None:
        """Set the guest's debug registers."""
        ioctl(self.fd, ioctls.KVM_SET_DEBUGREGS, debugregs)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Read the MSRs that can be read; the others are left out."""
        left = list(indices)
        found: dict[int, int] = {}
        while left:
            asked = left[:_MSRS_A_CALL]
            table = pack_msrs((index, 0) for index in asked)
            done = ioctl(self.fd, ioctls.KVM_GET_MSRS, pointer_to(table))
            for number in range(done):
                offset = _MSR_HEADER.size + number * _MSR_ENTRY.size
                index, _, found[index] = _MSR_ENTRY.unpack_from(table, offset)
            # The kernel stops at the first MSR that it cannot read.
            left = left[done + (done < len(asked)) :]
        return found

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set MSRs, in the order given.

        Raises:
            KvmError: the kernel refused one; the message names it. Those before it are set.
        """
        left = list(values.items())
        while left:
            asked = left[:_MSRS_A_CALL]
            done = ioctl(self.fd, ioctls.KVM_SET_MSRS, pointer_to(pack_msrs(asked)))
            if done < len(asked):
                index, value = asked[done]
                reason = f"MSR {index:#x} does not take the value {value:#x}"
                raise KvmError(ioctls.KVM_SET_MSRS.name, errno.EINVAL, reason)
            left = left[done:]

    def get_tsc_khz(self) -> int:
        """Read the frequency of the guest's time stamp counter, in kHz."""
        return ioctl(self.fd, ioctls.KVM_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """Set the frequency of the guest's time stamp counter, in kHz."""
        ioctl(self.fd, ioctls.KVM_SET_TSC_KHZ, khz)

    def get_cpuid2(self) -> list[CpuidEntry]:
        """Read what CPUID answers to this vCPU."""
        entries = read_table(self.fd, ioctls.KVM_GET_CPUID2)
        # Up to Linux 6.1 at least, the kernel leaves the count as asked for: what it did not
        # fill in are zeros, which no entry is (leaf 0 says how many leaves there are).
        while entries and entries[-1] == CpuidEntry(0):
            entries.pop()
        return entries

    def set_cpuid2(self, table: Iterable[CpuidEntry] | ctypes.Array[ctypes.c_char]) -> None:
        """Set what CPUID answers to this vCPU: entries, or what `cpuid.pack_table` made of them.
        Before it runs for the first time."""
        packed = table if isinstance(table, ctypes.Array) else pack_table(table)
        ioctl(self.fd, ioctls.KVM_SET_CPUID2, packed)

    # Interrupts and events

    def get_lapic(self) -> structs.kvm_lapic_state:
        """Read the local APIC's register page."""
        return self._get(ioctls.KVM_GET_LAPIC, structs.kvm_lapic_state)

    def set_lapic(self, lapic: structs.kvm_lapic_state) -> None:
        """Set the local APIC's register page."""
        ioctl(self.fd, ioctls.KVM_SET_LAPIC, lapic)

    def get_vcpu_events(self) -> structs.kvm_vcpu_events:
        """Read the exceptions and interrupts that wait or are being delivered."""
        return self._get(ioctls.KVM_GET_VCPU_EVENTS, structs.kvm_vcpu_events)

    def set_vcpu_events(self, events: structs.kvm_vcpu_events) -> None:
        """Set the exceptions and interrupts that wait; `flags` says which fields count."""
        ioctl(self.fd, ioctls.KVM_SET_VCPU_EVENTS, events)

    def get_mp_state(self) -> int:
        """Read KVM_MP_STATE_*."""
        return self._get(ioctls.KVM_GET_MP_STATE, structs.kvm_mp_state).mp_state

    def set_mp_state(self, state: int) -> None:
        """Set KVM_MP_STATE_*."""
        ioctl(self.fd, ioctls.KVM_SET_MP_STATE, structs.kvm_mp_state(state))

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt, where no interrupt chip is in the kernel."""
        ioctl(self.fd, ioctls.KVM_INTERRUPT, structs.kvm_interrupt(vector))

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        ioctl(self.fd, ioctls.KVM_NMI)

    def smi(self) -> None:
        """Queue a system management interrupt (KVM_CAP_X86_SMM)."""
        ioctl(self.fd, ioctls.KVM_SMI)

    # Control

    def enable_cap(self, capability: int, *args: int, flags: int = 0) -> None:
        """Switch a capability of the vCPU on, with up to four arguments of 64 bits."""
        asked = structs.kvm_enable_cap(cap=capability, flags=flags)
        for position, value in enumerate(args):
            asked.args[position] = value
        ioctl(self.fd, ioctls.KVM_ENABLE_CAP, asked)

    def set_guest_debug(self, debug: structs.kvm_guest_debug) -> None:
        """Choose breakpoints and single-stepping (KVM_GUESTDBG_*)."""
        ioctl(self.fd, ioctls.KVM_SET_GUEST_DEBUG, debug)

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """Block these signals, and only these, while the guest runs; None undoes it."""
        if blocked is None:
            ioctl(self.fd, ioctls.KVM_SET_SIGNAL_MASK)
            return
        bits = sum({1 << (number - 1) for number in blocked})
        # The kernel's sigset_t has 8 bytes, libc's has 128.
        ioctl(
            self.fd, ioctls.KVM_SET_SIGNAL_MASK, pointer_to(bytearray(struct.pack("=IQ", 8, bits)))
        )

    def translate(self, gva: int) -> structs.kvm_translation:
        """Walk the guest's page tables for a linear address."""
        asked = structs.kvm_translation(linear_address=gva)
        ioctl(self.fd, ioctls.KVM_TRANSLATE, asked)
        return asked

    def kvmclock_ctrl(self) -> None:
        """Tell a guest with kvmclock that it was paused, so that no watchdog barks."""
        ioctl(self.fd, ioctls.KVM_KVMCLOCK_CTRL)

    def get_nested_state(self) -> bytes:
        """Read the state of nested virtualization: kvm_nested_state and what follows it."""
        size = max(self._vm_capability(KVM_CAP_NESTED_STATE), _NESTED_HEADER)
        state = bytearray(size)
        struct.pack_into("=I", state, _NESTED_SIZE_AT, size)
        ioctl(self.fd, ioctls.KVM_GET_NESTED_STATE, pointer_to(state))
        (used,) = struct.unpack_from("=I", state, _NESTED_SIZE_AT)
        return bytes(state[:used])

    def set_nested_state(self, state: bytes) -> None:
        """Set the state of nested virtualization as `get_nested_state` gave it.

        Raises:
            ValueError: it is shorter than it says itself.
        """
        header = structs.kvm_nested_state.from_buffer_copy(state)
        if header.size > len(state):
            raise ValueError(f"nested state of {len(state)} bytes says that it has {header.size}")
        ioctl(self.fd, ioctls.KVM_SET_NESTED_STATE, pointer_to(bytearray(state)))

    def stats_fd(self) -> int:
        """Open the vCPU's statistics (see `kvm_bindings.stats`); the caller closes it."""
        return ioctl(self.fd, ioctls.KVM_GET_STATS_FD)

    def _get(self, request: Ioctl, kind: type[_S]) -> _S:
        state = kind()
        ioctl(self.fd, request, state)
        return state


def pack_msrs(entries: Iterable[tuple[int, int]]) -> bytearray:
    """Lay out MSRs as a kvm_msrs."""
    entries = list(entries)
    packed = [_MSR_ENTRY.pack(index, 0, value) for index, value in entries]
    return bytearray(_MSR_HEADER.pack(len(packed), 0) + b"".join(packed))
