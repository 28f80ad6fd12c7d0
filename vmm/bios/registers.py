"""The caller's registers as a BIOS service sees and changes them."""

from __future__ import annotations

from typing import Protocol

from devices.wiring import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import GuestMemory

__all__ = ["BiosRegisters", "GeneralRegisters", "SegmentRegister", "SegmentRegisters"]

_CARRY = 1 << 0
_ZERO = 1 << 6


class GeneralRegisters(Protocol):
    """`struct kvm_regs`, as far as services use it."""

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rsp: int
    rbp: int
    rip: int
    rflags: int


class SegmentRegister(Protocol):
    """`struct kvm_segment`, as far as services use it."""

    base: int
    selector: int


class SegmentRegisters(Protocol):
    """`struct kvm_sregs`, as far as services use it."""

    @property
    def cs(self) -> SegmentRegister:
        """The code segment."""
        ...

    @property
    def ds(self) -> SegmentRegister:
        """The data segment."""
        ...

    @property
    def es(self) -> SegmentRegister:
        """The extra segment."""
        ...

    @property
    def ss(self) -> SegmentRegister:
        """The stack segment."""
        ...

    @property
    def cr0(self) -> int:
        """Control register 0."""
        ...


class _Part:
    """A part of a general register: `width` bits from bit `shift`."""

    def __init__(self, register: str, shift: int, width: int) -> None:
        self._register = register
        self._shift = shift
        self._mask = (1 << width) - 1

    def __get__(self, regs: BiosRegisters, owner: type | None = None) -> int:
        value: int = getattr(regs.general, self._register)
        return value >> self._shift & self._mask

    def __set__(self, regs: BiosRegisters, value: int) -> None:
        old: int = getattr(regs.general, self._register)
        new = old & ~(self._mask << self._shift) | (value & self._mask) << self._shift
        if new != old:
            setattr(regs.general, self._register, new)
            regs.changed = True


class BiosRegisters:
    """A view of the registers at an interrupt, by their 8-, 16- and 32-bit names.

    A part written leaves the rest of its register alone, and values are cut to its width.
    `carry` and `zero` are the caller's flags: they are changed in the FLAGS image that the
    interrupt left on the stack, from which the stub's IRET takes them. `skew` is how many bytes
    the stub has pushed above the interrupt frame.
    """

    eax, ebx, ecx, edx = (_Part(r, 0, 32) for r in ("rax", "rbx", "rcx", "rdx"))
    ax, bx, cx, dx = (_Part(r, 0, 16) for r in ("rax", "rbx", "rcx", "rdx"))
    al, bl, cl, dl = (_Part(r, 0, 8) for r in ("rax", "rbx", "rcx", "rdx"))
    ah, bh, ch, dh = (_Part(r, 8, 8) for r in ("rax", "rbx", "rcx", "rdx"))
    si, di, bp = (_Part(r, 0, 16) for r in ("rsi", "rdi", "rbp"))

    def __init__(
        self,
        general: GeneralRegisters,
        segments: SegmentRegisters,
        memory: GuestMemory,
        *,
        skew: int = 0,
    ) -> None:
        self.general = general
        self.segments = segments
        self.changed = False
        """A general register was written, or the stub was told to wait."""
        self.segments_changed = False
        self._memory = memory
        self._skew = skew

    @property
    def ds_base(self) -> int:
        """Linear address of DS:0."""
        return self.segments.ds.base

    @property
    def es_base(self) -> int:
        """Linear address of ES:0."""
        return self.segments.es.base

    def set_es(self, selector: int) -> None:
        """Load ES as real mode does: the base is the selector times 16."""
        self.segments.es.selector = selector & 0xFFFF
        self.segments.es.base = (selector & 0xFFFF) << 4
        self.segments_changed = True

    @property
    def caller(self) -> tuple[int, int]:
        """CS and IP behind the INT instruction, or of the instruction that faulted."""
        return self._frame_word(2), self._frame_word(0)

    @property
    def frame(self) -> int:
        """Linear address of the interrupt frame: one address for one call, however often tried."""
        return self.segments.ss.base + (self.general.rsp + self._skew & 0xFFFF)

    @property
    def carry(self) -> bool:
        """The caller's carry flag: set for a failure."""
        return bool(self._frame_word(4) & _CARRY)

    @carry.setter
    def carry(self, value: bool) -> None:
        self._set_flag(_CARRY, value)

    @property
    def zero(self) -> bool:
        """The caller's zero flag."""
        return bool(self._frame_word(4) & _ZERO)

    @zero.setter
    def zero(self, value: bool) -> None:
        self._set_flag(_ZERO, value)

    @property
    def stub_carry(self) -> bool:
        """The carry flag in the stub itself: set when the trap repeats after a wait."""
        return bool(self.general.rflags & _CARRY)

    @stub_carry.setter
    def stub_carry(self, value: bool) -> None:
        flags = self.general.rflags & ~_CARRY | (_CARRY if value else 0)
        if flags != self.general.rflags:
            self.general.rflags = flags
            self.changed = True

    def _frame_word(self, offset: int) -> int:
        try:
            return int.from_bytes(self._memory.read(self._frame_gpa(offset), 2), "little")
        except GuestAddressError:
            return 0xFFFF

    def _frame_gpa(self, offset: int) -> int:
        return self.segments.ss.base + (self.general.rsp + self._skew + offset & 0xFFFF)

    def _set_flag(self, mask: int, value: bool) -> None:
        flags = self._frame_word(4) & ~mask | (mask if value else 0)
        try:
            self._memory.write(self._frame_gpa(4), flags.to_bytes(2, "little"))
        except GuestAddressError:
            return  # a stack outside of memory: its owner gets no flags back
