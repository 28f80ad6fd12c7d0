"""The trap port: which registers it writes back, and when it does not listen."""

from __future__ import annotations

from vmm.bios import BiosPort


class Vcpu:
    def __init__(self, pc):
        answer = pc.call(0x11)
        self.regs, self.sregs = answer.regs, answer.sregs
        self.written: list[str] = []

    def port(self, pc) -> BiosPort:
        return BiosPort(
            pc.bios,
            get_regs=lambda: self.regs,
            get_sregs=lambda: self.sregs,
            set_regs=lambda regs: self.written.append("regs"),
            set_sregs=lambda sregs: self.written.append("sregs"),
            on_wait=lambda: self.written.append("waited"),
        )

    def trap(self, pc, vector, ax):
        self.regs.rip, self.regs.rax = 0x8000 + vector * 32 + 3, ax
        self.written.clear()
        self.port(pc)(0, 1)


def test_registers_are_written_back_when_changed(pc):
    vcpu = Vcpu(pc)
    vcpu.trap(pc, 0x12, 0)
    assert vcpu.written == ["regs"]
    vcpu.trap(pc, 0x10, 0x0E41)
    assert vcpu.written == []
    vcpu.trap(pc, 0x15, 0xC000)
    assert vcpu.written == ["sregs", "regs"]


def test_rip_is_never_changed(pc):
    vcpu = Vcpu(pc)
    vcpu.trap(pc, 0x16, 0x0000)
    assert vcpu.regs.rip == 0x8000 + 0x16 * 32 + 3
    assert vcpu.written == ["regs", "waited"]
    pc.typed.extend(b"x")
    vcpu.trap(pc, 0x16, 0x0000)
    assert vcpu.written == ["regs"]


def test_protected_mode_and_other_code_are_ignored(pc):
    vcpu = Vcpu(pc)
    vcpu.sregs.cr0 = 0x11
    vcpu.trap(pc, 0x12, 0)
    assert vcpu.written == []
    vcpu.sregs.cr0 = 0x10
    vcpu.sregs.cs.base = 0
    vcpu.trap(pc, 0x12, 0)
    assert vcpu.written == []
    assert pc.bios.calls[0x12] == 0
