"""The caller's registers."""

from __future__ import annotations

from vmm.bios.registers import BiosRegisters


def view(pc, **values):
    answer = pc.call(0x12)
    for name, value in values.items():
        setattr(answer.regs, name, value)
    return BiosRegisters(answer.regs, answer.sregs, pc.memory)


def test_parts_of_a_register(pc):
    regs = view(pc, rbx=0x1122334455667788)
    assert (regs.bl, regs.bh, regs.bx, regs.ebx) == (0x88, 0x77, 0x7788, 0x55667788)
    regs.bh = 0x1FF
    assert regs.general.rbx == 0x112233445566FF88
    regs.bx = 0x12345
    assert regs.general.rbx == 0x1122334455662345
    regs.ebx = 0xABCDEF01
    assert regs.general.rbx == 0x11223344ABCDEF01


def test_only_real_changes_count(pc):
    regs = view(pc, rcx=5)
    regs.cx = 5
    assert not regs.changed
    regs.cl = 6
    assert regs.changed


def test_flags_are_the_callers(pc):
    regs = view(pc)
    regs.carry = True
    regs.zero = True
    assert pc.memory.word(0x7004) == 0x0243
    assert regs.carry
    assert regs.zero
    regs.carry = False
    assert pc.memory.word(0x7004) == 0x0242
    assert regs.general.rflags == 2
    assert not regs.changed


def test_the_frame_wraps_in_its_segment(pc):
    regs = view(pc, rsp=0xFFFE)
    regs.carry = True
    assert pc.memory.word(0x0002) & 1
    regs.segments.ss.base = 0x7FFF_0000
    regs.carry = True
    assert regs.caller == (0xFFFF, 0xFFFF)


def test_a_segment_is_loaded_as_in_real_mode(pc):
    regs = view(pc)
    regs.set_es(0x1F000)
    assert (regs.segments.es.selector, regs.segments.es.base) == (0xF000, 0xF0000)
    assert regs.segments_changed
