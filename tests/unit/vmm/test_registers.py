from __future__ import annotations

import pytest

from kvm_bindings.structs import kvm_regs, kvm_sregs
from vmm.registers import RegisterView

REGS = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"  # struct kvm_regs


class Kernel:
    """A vCPU's registers behind the view, with a count of who came by."""

    def __init__(self, struct):
        self.struct = struct
        self.fetched = 0
        self.stored = []
        self.view = RegisterView(self.fetch, self.stored.append)

    def fetch(self):
        self.fetched += 1
        return type(self.struct).from_buffer_copy(self.struct)


@pytest.fixture
def regs():
    return Kernel(kvm_regs(rax=1, rip=0x1000, rflags=2))


@pytest.fixture
def sregs():
    made = kvm_sregs(cr0=0x10)
    made.cs.base, made.cs.selector = 0xF0000, 0xF000
    return Kernel(made)


def test_registers_are_fetched_once_and_when_first_looked_at(regs):
    assert regs.fetched == 0
    assert (regs.view.rax, regs.view.rip, regs.view.rflags) == (1, 0x1000, 2)
    assert regs.fetched == 1


def test_nothing_changed_nothing_stored(regs):
    assert regs.view.rax == 1
    regs.view.rax = 1
    regs.view.flush()
    assert regs.stored == []


def test_a_flush_of_what_nobody_looked_at_does_nothing(regs):
    regs.view.flush()
    assert (regs.fetched, regs.stored) == (0, [])


def test_changes_are_stored_once_and_then_forgotten(regs):
    regs.view.rcx = 100
    regs.view.rax = -1
    assert regs.stored == []
    regs.view.flush()
    (stored,) = regs.stored
    assert (stored.rcx, stored.rax, stored.rip) == (100, 0xFFFF_FFFF_FFFF_FFFF, 0x1000)
    regs.view.flush()
    assert len(regs.stored) == 1
    # The guest has run meanwhile: the next look fetches again.
    assert regs.view.rcx == 0
    assert regs.fetched == 2


def test_a_change_in_a_segment_is_a_change(sregs):
    assert sregs.view.cs.selector == 0xF000
    sregs.view.cs.base = 0x1000
    sregs.view.flush()
    (stored,) = sregs.stored
    assert (stored.cs.base, stored.cs.selector, stored.cr0) == (0x1000, 0xF000, 0x10)


def test_what_is_forgotten_is_not_stored(regs):
    regs.view.rcx = 100
    regs.view.forget()
    regs.view.flush()
    assert regs.stored == []
    assert regs.view.rcx == 0


def test_a_name_that_is_no_register(regs):
    with pytest.raises(AttributeError, match=r"no register 'rxx'.*rax"):
        regs.view.rxx = 1
    with pytest.raises(AttributeError, match="rxx"):
        _ = regs.view.rxx


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1])
def test_a_value_that_does_not_fit_is_a_mistake(regs, value):
    with pytest.raises(ValueError, match=r"rax.*64 bits"):
        regs.view.rax = value
    regs.view.flush()
    assert regs.stored == []


@pytest.mark.parametrize("value", [(1 << 64) - 1, -(1 << 63), 0])
def test_every_value_that_fits_is_taken(regs, value):
    regs.view.rax = value
    assert regs.view.rax == value & ((1 << 64) - 1)


def test_the_names_are_those_of_the_kernel(regs, sregs):
    assert set(REGS.split()) == set(dir(regs.view))
    assert {"cs", "ss", "tr", "ldt", "gdt", "idt", "cr0", "cr3", "cr4", "efer"} <= set(
        dir(sregs.view)
    )


def test_the_view_reads_well(regs, sregs):
    assert "rip=0x1000" in repr(regs.view)
    assert "cr0=0x10" in repr(sregs.view)
