"""Tiny guests on a bare machine: starts, registers, interrupts, and what is refused."""

from __future__ import annotations

import gc
import os

import pytest

import vmm
from vmm.errors import ExitStatus
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm


class Cells:
    """A device of bytes that keeps what it is given."""

    def __init__(self, name="cells", size=0x100):
        self.name = name
        self.bytes = bytearray(size)
        self.log = []

    def read(self, offset, size):
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset, size, value):
        self.log.append(("w", offset, size))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self):
        self.bytes[:] = bytes(len(self.bytes))


# -- the contract -----------------------------------------------------------------------------


def test_the_contract():
    code = bytes.fromhex("e6e9 e2fc baf803 ee b007 e6f4 f4")  # out 0xE9 CX times; COM1; exit 7
    out, dev = [], Cells("dev", 8)
    with vmm.Machine(memory="2M", cpus=1, irqchip=False) as m:
        m.memory.write(0x1000, code)

        @m.on_out(0xE9)
        def debugcon(value: int, size: int) -> None:
            out.append((value, size))

        m.add_device(dev, pio=range(0x3F8, 0x400))
        m.start_at(0x1000, mode="real")
        m.regs.rcx = 100
        result = m.run(timeout=5.0, max_exits=100_000)
        assert result.reason == "debug_exit"
        assert result.exits == 102
        assert result.status == 15
        assert isinstance(result.report(), str)
        assert out == [(0, 1)] * 100
        assert dev.log == [("w", 0, 1)]
        assert [exit.name for exit in m.exits()] == ["HLT"]
        assert m.last_result.reason == "halt"


# -- starts -----------------------------------------------------------------------------------

# push rax (2, 4 or 8 bytes); mov al, 7; out 0xF4, al; jmp .
PUSH_AND_EXIT = "50 b007 e6f4 ebfe"


@pytest.mark.parametrize(
    ("mode", "cpl", "width"),
    [("real", 0, 2), ("protected", 0, 4), ("protected", 3, 4), ("long", 0, 8), ("long", 3, 8)],
)
def test_each_mode(machine, mode, cpl, width):
    m = machine(PUSH_AND_EXIT, mode, cpl=cpl)
    result = m.run(timeout=10)
    assert (result.reason, result.value) == ("debug_exit", 7), result.report()
    assert m.regs.rsp == 0x1000 - width
    assert m.sregs.cs.selector & 3 == cpl
    assert m.sregs.cs.l == (mode == "long")
    assert bool(m.sregs.cr0 & 1) == (mode != "real")


def test_another_mode_is_refused(machine):
    with pytest.raises(vmm.ConfigError, match="vm86"):
        machine(mode="vm86")


@pytest.mark.parametrize("again", ["real", "protected", "long"])
@pytest.mark.parametrize("irqchip", [False, True])
def test_a_machine_that_has_halted_can_be_started_again(machine, again, irqchip):
    m = machine("fa f4", "long", irqchip=irqchip)  # cli; hlt
    assert m.run(timeout=10).reason == "halt"
    m.memory.write(0x2000, bytes.fromhex("b003 e6f4 faf4"))
    m.start_at(0x2000, again)
    result = m.run(timeout=10)
    assert (result.reason, result.value) == ("debug_exit", 3), result.report()


def test_a_machine_that_has_died_can_be_started_again(boot):
    m = boot("payload:triple_fault", memory="2M")
    assert m.run(timeout=10).reason == "shutdown"
    m.memory.write(0x2000, bytes.fromhex("b003 e6f4 f4"))
    m.start_at(0x2000)
    assert m.run(timeout=10).value == 3


def test_a_guest_goes_on_behind_its_halt(machine):
    m = machine("f4 b001 f4")
    assert m.run(timeout=10).reason == "halt"
    assert m.run(timeout=10).reason == "halt"
    assert m.last_result.autopsy is None  # there is nothing to explain
    assert (m.regs.rip, m.regs.rax) == (0x1004, 1)


# -- registers --------------------------------------------------------------------------------

COUNT_DOWN = "e610 e2fc f4"  # out 0x10, al; loop; hlt


def test_registers_before_between_and_after_runs(machine):
    m = machine(COUNT_DOWN)
    m.regs.rcx = 100
    assert m.run(max_exits=10, timeout=10).reason == "max_exits"
    # The tenth OUT is finished, its LOOP is not.
    assert (m.regs.rip, m.regs.rcx) == (0x1002, 91)
    m.regs.rcx = 3
    result = m.run(timeout=10)
    assert (result.reason, result.exits) == ("halt", 3)
    assert (m.regs.rip, m.regs.rcx) == (0x1005, 0)


def test_special_registers_before_and_between_runs(machine):
    m = machine("8cd8 f4 8cc0 f4")  # mov ax, ds; hlt; mov ax, es; hlt
    m.sregs.ds.selector = 0x1234
    m.run(timeout=10)
    assert m.regs.rax == 0x1234
    m.sregs.es.selector = 0x5678
    m.run(timeout=10)
    assert m.regs.rax == 0x5678


@pytest.mark.parametrize(
    ("code", "size"), [("e410 f4", 1), ("e510 f4", 2), ("66e510 f4", 4)], ids=["1", "2", "4"]
)
def test_a_read_is_finished_when_registers_are_looked_at(machine, code, size):
    m = machine(code)
    m.on_in(0x10)(lambda size: 0xD4C3B2A1)
    assert m.run(timeout=10, max_exits=1).reason == "max_exits"
    assert m.regs.rax == 0xD4C3B2A1 & ((1 << 8 * size) - 1)
    assert m.regs.rip == 0x1000 + len(bytes.fromhex(code)) - 1
    assert m.run(timeout=10).exits == 1


def test_a_load_is_finished_when_registers_are_looked_at(machine):
    m = machine("a1000000d0 f4", "protected")  # mov eax, [0xD0000000]
    cells = Cells()
    cells.bytes[:4] = b"\x11\x22\x33\x44"
    m.add_device(cells, mmio=range(0xD000_0000, 0xD000_0100))
    m.run(timeout=10, max_exits=1)
    assert (m.regs.rax, m.regs.rip) == (0x44332211, 0x1005)


def test_a_read_is_finished_without_anybody_looking(machine):
    m = machine("e410 e611 f4")  # in al, 0x10; out 0x11, al; hlt
    written = []
    m.on_in(0x10)(lambda: 0x5A)
    m.on_out(0x11)(lambda value, size: written.append(value))
    for _ in range(3):
        m.run(timeout=10, max_exits=1)
    assert written == [0x5A]


# -- the processor ----------------------------------------------------------------------------

CPUID = "66b801000000 6631c9 0fa2 f4"  # mov eax, 1; xor ecx, ecx; cpuid; hlt
CX16 = 1 << 13


def test_a_hidden_feature_is_not_in_cpuid(machine):
    def features(cpu):
        m = machine(CPUID, cpu=cpu)
        assert m.run(timeout=10).reason == "halt"
        return m.regs.rcx

    # kvm_pvm shows most of the host's features whatever it is told, but this one it hides.
    everything = features("")
    if not everything & CX16:
        pytest.skip("the processor has no cmpxchg16b")
    assert features("-cx16") == everything & ~CX16


@pytest.mark.parametrize("cpu", ["-nonsense", "cx16", "-"])
def test_a_feature_that_does_not_exist(machine, cpu):
    with pytest.raises(vmm.ConfigError) as caught:
        machine(cpu=cpu)
    assert "\n" not in str(caught.value)


# -- interrupts -------------------------------------------------------------------------------


@pytest.mark.parametrize("irqchip", [False, True])
def test_a_halt_with_interrupts_disabled_ends_the_run(machine, irqchip):
    m = machine("fa f4 ebfd", irqchip=irqchip)
    assert m.run(timeout=10).reason == "halt"
    assert m.phase is Phase.PAUSED


def test_with_an_irqchip_a_halt_waits_for_interrupts(machine):
    result = machine("fb f4 ebfd", irqchip=True).run(timeout=0.3)  # sti; hlt; jmp
    assert (result.reason, result.exits) == ("timeout", 0)


def test_a_device_on_another_thread_wakes_a_halt(machine, background, until):
    m = machine(
        "b011 e620 b020 e621 b004 e621 b001 e621 b0ef e621"  # PIC at 0x20, only IRQ 4 open
        "c70690000020 c70692000000"  # vector 0x24: 0:0x2000
        "b001 a20005 fb f4 ebfd",  # say that it waits; sti; hlt
        irqchip=True,
    )
    m.memory.write(0x2000, bytes.fromhex("b007 e6f4 f4"))
    line = m.irq(4)
    run = background(lambda: m.run(timeout=20))
    until(lambda: m.memory.read(0x500, 1) == b"\x01")
    line(True)
    result = run.result()
    line(False)
    assert (result.reason, result.value) == ("debug_exit", 7)


def test_without_an_irqchip_an_interrupt_line_is_not_connected(machine):
    m = machine()
    m.irq(4)(True)
    assert m.run(timeout=10).reason == "halt"


# -- faults of ours ---------------------------------------------------------------------------


def test_a_function_that_raises_is_named_and_fails_the_machine(machine):
    m = machine("b001 e610 f4")

    @m.on_out(0x10)
    def broken(value: int, size: int) -> None:
        raise RuntimeError("out of paper")

    with pytest.raises(vmm.DeviceFault, match=r"0x10.*RuntimeError: out of paper") as caught:
        m.run(timeout=10)
    assert caught.value.status == ExitStatus.VMM_FAULT
    assert m.phase is Phase.FAILED
    with pytest.raises(vmm.LifecycleError):
        m.run(timeout=10)
    m.close()
    assert m.phase is Phase.STOPPED


def test_registers_that_cannot_be_are_refused(machine):
    m = machine()
    m.sregs.cr0 = 1 << 31  # paging without protection
    with pytest.raises((OSError, vmm.VmmError), match="KVM_SET_SREGS"):
        m.run(timeout=10)


# -- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": 0}, "memory of 0 bytes"),
        ({"memory": "0"}, "memory of 0 bytes"),
        ({"memory": -4096}, "memory"),
        ({"memory": 5000}, "multiple of 4K"),
        ({"memory": "lots"}, "lots"),
        ({"memory": "9999999T"}, "memory"),
        ({"cpus": 0}, "0 vCPUs"),
        ({"cpus": -1}, "-1 vCPUs"),
        ({"cpus": 2}, "irqchip"),
        ({"cpus": 100_000, "irqchip": True}, "100000 vCPUs: a machine has 255 at most"),
        ({"debug_exit": 0x10000}, "debug-exit"),
        ({"debug_exit": -1}, "debug-exit"),
        ({"kvm": "/nonexistent/kvm"}, "/nonexistent/kvm"),
    ],
)
def test_impossible_machines_are_refused_in_one_line_and_leave_nothing_behind(options, words):
    gc.collect()  # what earlier tests left must not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(vmm.VmmError, match=words) as caught:
        vmm.Machine(**options)
    assert "\n" not in str(caught.value)
    del caught
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_an_impossible_timeout(machine, timeout):
    with pytest.raises(vmm.ConfigError, match="timeout"):
        machine().run(timeout=timeout)


@pytest.mark.parametrize("count", [0, -5])
def test_an_impossible_number_of_exits(machine, count):
    with pytest.raises(vmm.ConfigError, match="max_exits"):
        machine().run(max_exits=count)
