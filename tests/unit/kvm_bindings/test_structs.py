from __future__ import annotations

import ctypes

import pytest

from kvm_bindings import structs
from kvm_bindings.structs import kvm_fpu, kvm_lapic_state, kvm_regs, kvm_run, kvm_sregs


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("kvm_regs", 144),
        ("kvm_segment", 24),
        ("kvm_sregs", 312),
        ("kvm_fpu", 416),
        ("kvm_lapic_state", 1024),
        ("kvm_xsave", 4096),
        ("kvm_vcpu_events", 64),
        ("kvm_cpuid_entry2", 40),
        ("kvm_userspace_memory_region", 32),
        ("kvm_irqchip", 520),
        ("kvm_pit_state2", 112),
        ("kvm_nested_state", 128),
        ("kvm_run", 2352),
    ],
)
def test_size(name: str, size: int) -> None:
    assert ctypes.sizeof(getattr(structs, name)) == size


def test_where_the_run_loop_reads() -> None:
    page = (ctypes.c_uint8 * ctypes.sizeof(kvm_run))()
    run = kvm_run.from_buffer(page)
    page[1] = 1
    assert run.immediate_exit == 1
    page[8:12] = [2, 0, 0, 0]
    assert run.exit_reason == 2
    # direction, size, port, count, data_offset
    page[32:48] = [1, 2, 0xF8, 0x03, 7, 0, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0]
    assert (run.io.direction, run.io.size, run.io.port) == (1, 2, 0x3F8)
    assert (run.io.count, run.io.data_offset) == (7, 0x1000)
    assert run.mmio.phys_addr == 0x0000_0007_03F8_0201


def test_arrays_are_bytes_and_words_not_strings() -> None:
    lapic = kvm_lapic_state()
    lapic.regs[0x20] = 0xFF
    assert bytes(lapic)[0x20] == 0xFF
    assert len(lapic.regs) == 1024
    fpu = kvm_fpu()
    fpu.xmm[15][15] = 0xAA
    assert bytes(fpu)[-9] == 0xAA


def test_a_copy_shares_nothing() -> None:
    regs = kvm_regs(rax=1, rip=0xFFF0)
    copy = regs.copy()
    copy.rax = 2
    assert (regs.rax, copy.rax, copy.rip) == (1, 2, 0xFFF0)
    assert type(copy) is kvm_regs


def test_it_prints_its_fields() -> None:
    sregs = kvm_sregs(cr0=0x11)
    sregs.cs.base = 0xFFFF0000
    text = repr(sregs)
    assert "cr0=0x11" in text
    assert "cs=kvm_segment(base=0xffff0000" in text
    assert "interrupt_bitmap=[0x0, 0x0, 0x0, 0x0]" in text
