"""The stub on a machine that only notes what it is asked for."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvm_bindings.structs import kvm_fpu, kvm_regs, kvm_sregs
from vmm.errors import LifecycleError
from vmm.gdb.memory import DebugMemory
from vmm.gdb.points import Point
from vmm.gdb.registers import read, write
from vmm.gdb.stub import Stub
from vmm.gdb.target import Ended, Going, Stop
from vmm.gdb.target_xml import LAYOUTS
from vmm.layout import MemoryLayout
from vmm.memory import GuestMemory


class Cpu:
    """A vCPU in real mode at F000:FFF0, as far as registers go."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.exits = 0
        self.regs, self.sregs, self.fpu = kvm_regs(), kvm_sregs(), kvm_fpu()
        self.regs.rip, self.regs.rflags = 0xFFF0, 2
        self.sregs.cs.base, self.sregs.cs.selector = 0xF0000, 0xF000
        self.sregs.cr0 = 0x10
        self.kvm = SimpleNamespace(get_fpu=lambda: self.fpu, set_fpu=self.set_fpu)

    def set_fpu(self, fpu) -> None:
        self.fpu = fpu

    def go_long(self) -> None:
        self.sregs.cr0, self.sregs.efer, self.sregs.cr4 = 0x8000_0011, 0x500, 0x20
        self.sregs.cs.l, self.sregs.cs.base = 1, 0

    def last_exits(self, count: int) -> list:
        return []


class FakeTarget:
    def __init__(self, memory: GuestMemory, cpus: int = 2) -> None:
        self.vcpus = tuple(Cpu(n) for n in range(cpus))
        self.memory = DebugMemory(memory)
        self.notes: deque[str] = deque()
        self.last = Stop(0, 5)
        self.running = False
        self.did: list = []
        self.comes: list = []
        self.no_restart = ""
        self.points = SimpleNamespace(
            add=lambda p: self.did.append(("add", p)) or True,
            remove=lambda p: self.did.append(("remove", p)),
        )
        self.history = SimpleNamespace(changed=lambda: self.did.append("changed"))
        self.machine = SimpleNamespace(
            vcpus=self.vcpus, memory=memory, pio=(), mmio=(), devices={}, held_by="",
            phase=SimpleNamespace(value="paused"), last_result=None,
        )  # fmt: skip

    def go(self, how: Going) -> None:
        self.running = True
        self.did.append(how)

    def advance(self):
        came = self.comes.pop(0)
        self.running = came is None
        if isinstance(came, Stop):
            self.last = came
        return came

    def release(self) -> None:
        self.did.append("release")

    def kill(self) -> None:
        self.did.append("kill")

    def interrupt(self) -> None:
        self.did.append("interrupt")

    def restart(self) -> None:
        if self.no_restart:
            raise LifecycleError(self.no_restart)
        self.did.append("restart")


@pytest.fixture(scope="module")
def memory():
    made = GuestMemory(MemoryLayout.for_size(2 << 20))
    yield made
    made.close()


@pytest.fixture
def target(memory):
    memory.fill(0, 1 << 20)
    return FakeTarget(memory)


@pytest.fixture
def ask(target):
    sent: list[bytes] = []
    stub = Stub(target, sent.append)

    def ask(content: bytes) -> bytes | None:
        sent.clear()
        stub.packet(content)
        assert len(sent) <= 1 or content.startswith((b"qRcmd", b"D", b"vRun"))
        return sent[-1] if sent else None

    ask.stub, ask.sent = stub, sent
    return ask


def description(ask) -> ET.Element:
    whole = b""
    while True:
        piece = ask(b"qXfer:features:read:target.xml:%x,400" % len(whole))
        whole += piece[1:].replace(b"}\x03", b"#").replace(b"}\n", b"*")
        if piece[:1] == b"l":
            return ET.fromstring(whole.split(b">", 2)[2].decode())


def test_the_description_is_that_of_the_mode_and_g_fits_it(ask, target):
    for prepare, architecture, first in (
        (lambda cpu: None, "i8086", "eax"),
        (lambda cpu: (setattr(cpu.sregs, "cr0", 1), setattr(cpu.sregs.cs, "db", 1)), "i386", "eax"),
        (Cpu.go_long, "i386:x86-64", "rax"),
    ):
        prepare(target.vcpus[0])
        root = description(ask)
        assert root.findtext("architecture") == architecture
        found = [(reg.get("name"), int(reg.get("bitsize"))) for reg in root.iter("reg")]
        assert found[0][0] == first
        assert len(ask(b"g")) == sum(bits for _, bits in found) // 4
        assert len({name for name, _ in found}) == len(found)
        defined = {e.get("id") for e in root.iter() if e.get("id")}
        for reg in root.iter("reg"):
            kind = reg.get("type")
            assert kind in defined or kind in (
                "int", "int32", "int64", "data_ptr", "code_ptr", "i387_ext",
            )  # fmt: skip


def test_the_instruction_pointer_is_linear_and_can_be_set(ask, target):
    description(ask)
    assert ask(b"p8") == b"f0ff0f00"  # eip, register 8: F000:FFF0
    assert ask(b"P8=34120f00") == b"OK"
    assert target.vcpus[0].regs.rip == 0x1234
    assert read(target.vcpus[0])["ip"] == 0x1234


def test_what_does_not_fit_the_description_is_unavailable(ask, target):
    description(ask)
    target.vcpus[0].regs.rax = 1 << 40
    assert ask(b"p0") == b"xxxxxxxx"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=str)
def test_every_register_that_is_written_is_read_back(layout):
    cpu = Cpu()
    if layout.bits == 64:
        cpu.go_long()
    cpu.fpu.ftwx = 0xFF
    for register in layout.registers:
        value = 0x5A if "limit" in register.name or register.bits < 64 else 0x1234_5678
        if register.name in ("cr0", "cr4", "efer", "ftag"):
            continue  # they decide what the others are
        assert write(cpu, register.name, value), register
        assert read(cpu)[register.name] == value, register
    assert not write(cpu, "nothing", 1)


def test_the_full_tag_word():
    cpu = Cpu()
    one = (0x3FFF << 64 | 1 << 63).to_bytes(10, "little")
    infinity = (0x7FFF << 64 | 1 << 63).to_bytes(10, "little")
    cpu.fpu.fsw = 6 << 11  # TOP: ST0 is register 6
    cpu.fpu.ftwx = 0b1110_0000
    cpu.fpu.fpr[0][:10], cpu.fpu.fpr[7][:10] = list(one), list(infinity)
    # Spec: Intel SDM vol. 1, "x87 FPU Tag Word": 0 valid, 1 zero, 2 special, 3 empty.
    assert read(cpu)["ftag"] == 0b01_00_10_11_11_11_11_11


def test_memory_is_read_and_written_through_the_page_tables(ask, target, memory):
    cpu = target.vcpus[1]
    cpu.go_long()
    cpu.sregs.cr3 = 0x10000
    for table, entry in ((0x10000, 0x11003), (0x11000, 0x12003), (0x12000, 0x13003)):
        memory.write(table, entry.to_bytes(8, "little"))
    memory.write(0x13000 + 8 * 4, (0x20000 | 1).to_bytes(8, "little"))  # 0x4000, read-only
    memory.write(0x20000, b"\x11\x22")
    assert ask(b"m4000,2") == b"0000"  # vCPU 0 has no paging
    assert ask(b"Hg2") == b"OK"
    assert ask(b"m4000,2") == b"1122"
    assert ask(b"m3fff,2") == b"E0e"
    assert ask(b"M4ffe,2:3344") == b"OK"
    assert memory.read(0x20FFE, 2) == b"\x33\x44"
    assert ask(b"M4fff,2:5566") == b"E0e"  # the next page is not mapped: nothing is written
    assert memory.read(0x20FFF, 1) == b"\x44"
    assert ask(b"X4000,3:a\x00c") == b"OK"
    assert ask(b"Qqemu.PhyMemMode:1") == b"OK"
    assert ask(b"m20000,3") == b"610063"


def test_points(ask, target):
    assert ask(b"Z0,7c00,1") == b"OK"
    assert ask(b"Z2,8000,4") == b"OK"
    assert ask(b"z2,8000,4") == b"OK"
    assert target.did == [
        ("add", Point(0, 0x7C00, 1)), ("add", Point(2, 0x8000, 4)), ("remove", Point(2, 0x8000, 4)),
    ]  # fmt: skip
    assert ask(b"Z3,8000,4") == b""  # gdb then asks for accesses


@pytest.mark.parametrize(
    ("packet", "going"),
    [
        (b"c", Going()),
        (b"s", Going(0, True)),
        (b"vCont;c", Going()),
        (b"vCont;s:2;c", Going(1, True)),
        (b"vCont;s:1;c:-1", Going(0, True)),
        (b"vCont;c:2", Going(1)),
        (b"vCont;r1000,1010:2;c", Going(1, True, 0x1000, 0x1010)),
        (b"vCont;C05:1;c", Going()),
        (b"bs", Going(0, True, back=True)),
        (b"bc", Going(0, back=True)),
    ],
)
def test_how_the_guest_goes_on(ask, target, packet, going):
    assert ask(packet) is None
    assert target.did == [going]


def test_why_it_stopped_and_what_is_told_before(ask, target):
    ask(b"c")
    target.notes.append("a word")
    target.comes = [None, Stop(1, 5, Point(2, 0x8000, 4))]
    ask.stub.advance()
    assert ask.sent == [b"O" + b"vmm: a word\n".hex().encode()]
    ask.stub.interrupt()
    assert target.did[-1] == "interrupt"
    ask.sent.clear()
    ask.stub.advance()
    assert ask.sent[-1] == b"T05thread:2;watch:8000;"
    assert ask(b"qC") == b"QC2"
    assert ask(b"?") == b"T05thread:2;watch:8000;"
    ask(b"c")
    target.comes = [Ended(6)]
    ask.stub.advance()
    assert ask.sent == [b"W06"]


def test_where_the_way_back_begins(ask, target):
    assert b"ReverseStep+;ReverseContinue+" in ask(b"qSupported:swbreak+")
    ask(b"bc")
    target.notes.append("why")
    target.comes = [Stop(0, 5, begins=True)]
    ask.stub.advance()
    assert ask.sent[0] == b"O" + b"vmm: why\n".hex().encode()
    assert ask.sent[-1] == b"T05thread:1;replaylog:begin;"
    assert ask(b"bx") == b""


def test_what_changes_the_guest_changes_its_history(ask, target):
    description(ask)
    ask(b"X1000,0:")
    ask(b"m1000,4")
    assert target.did == []
    ask(b"P0=05000000")
    ask(b"M1000,1:41")
    assert target.did == ["changed", "changed"]
    before = ask(b"g")
    ask(b"G" + before)
    assert len(target.did) == 2  # all is as it was
    ask(b"G" + b"11" + before[2:])
    assert len(target.did) == 3


def test_threads(ask):
    assert ask(b"qfThreadInfo") == b"m1,2"
    assert ask(b"qsThreadInfo") == b"l"
    assert ask(b"T2") == b"OK"
    assert ask(b"T3") == b"E16"
    text = bytes.fromhex(ask(b"qThreadExtraInfo,2").decode()).decode()
    assert text == "vCPU 1, real mode, ring 0"


def test_leaving(ask, target):
    assert ask(b"D") == b"OK"
    assert (target.did, ask.stub.closing) == (["release"], True)
    ask(b"vKill;1")
    assert target.did[-1] == "kill"


def test_extended_mode_outlives_a_kill(ask, target):
    assert ask(b"!") == b"OK"
    assert ask(b"vKill;1") == b"OK"
    assert (target.did, ask.stub.closing) == ([], False)
    assert ask(b"vRun;61") == b"T05thread:1;"
    assert ask(b"R00") is None
    ask.stub.leave()
    assert target.did == ["restart", "restart"]
    ask(b"vKill;1")
    ask.stub.leave()
    assert target.did[-1] == "kill"
    target.no_restart = "it is over"
    assert ask(b"vRun;") == b"E16"
    assert ask.sent[0] == b"O" + b"vmm: it is over\n".hex().encode()


def test_unknown_packets_have_an_empty_answer(ask):
    for packet in (b"vMustReplyEmpty", b"qTStatus", b"QNonStop:1", b"y", b""):
        assert ask(packet) == b""


_HEADS = st.sampled_from(
    [b"g", b"G", b"b", b"p", b"P", b"m", b"M", b"X", b"Z0,", b"z1,", b"H", b"T", b"c", b"s",
     b"vCont;",
     b"qXfer:features:read:target.xml:", b"qRcmd,", b"qThreadExtraInfo,", b"Q", b"q", b"v", b"D",
     b"qSupported:", b"C", b"k", b"vKill", b"vRun;", b"R", b"!", b"?"]
)  # fmt: skip


@given(
    st.lists(st.tuples(_HEADS, st.binary(max_size=24) | st.from_regex(rb"[0-9a-f,:;=x-]{0,24}")))
)
@example([(b"m", b"ffffffffffffffff,10")])
@example([(b"P", b"0=zz")])
@example([(b"c", b"xyz")])
def test_no_packet_hurts(memory, packets):
    target = FakeTarget(memory)
    sent: list[bytes] = []
    stub = Stub(target, sent.append)
    for head, rest in packets:
        stub.packet(head + rest)
        assert sum(map(len, sent)) < 1 << 20
        sent.clear()
