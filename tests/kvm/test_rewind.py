"""Going back by instructions that the guest has run already."""

from __future__ import annotations

import random

import pytest

import vmm
from vmm.rewind import CannotRewind, Rewind

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

# 0x1000  b1 05        mov cl, 5
# 0x1002  fe c0        inc al          <- again
# 0x1004  a2 00 20     mov [0x2000], al
# 0x1007  e6 10        out 0x10, al
# 0x1009  fe c9        dec cl
# 0x100b  75 f5        jnz again
# 0x100d  f4           hlt
LOOP = "b105 fec0 a20020 e610 fec9 75f5 f4"


@pytest.fixture
def loop(machine):
    def make(**options):
        m = machine(LOOP, **options)
        m.written = []
        m.on_out(0x10)(lambda value, size: m.written.append(value))
        return m

    return make


def moment(m):
    return bytes(m.regs.struct()), m.memory.read(0x2000, 1)


def test_step_by_step_back_to_the_beginning_and_forth_again(loop):
    m = loop()
    rewind = Rewind(m)
    moments = []
    for _ in range(20):
        moments.append(moment(m))
        m.step()
    for wanted in reversed(moments):
        rewind.step()
        assert moment(m) == wanted
    with pytest.raises(CannotRewind, match="where the way back begins"):
        rewind.step()
    assert moment(m) == moments[0]
    for wanted in moments:
        assert moment(m) == wanted
        m.step()
    rewind.close()


def test_back_from_behind_a_run_at_full_speed(loop):
    m = loop()
    rewind = Rewind(m)
    assert m.run(max_exits=4).reason == "max_exits"
    assert m.regs.rip == 0x1009
    rewind.step()
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1007, 4)
    rewind.step()
    assert (m.regs.rip, m.regs.rax & 0xFF, m.memory.read(0x2000, 1)) == (0x1004, 4, b"\3")
    assert m.run(timeout=60).reason == "halt"
    assert m.memory.read(0x2000, 1) == b"\5"


def test_back_to_what_is_wanted(loop):
    m = loop()
    rewind = Rewind(m)
    m.run(timeout=60)
    before = [m.memory.read(0x2000, 1)]
    assert rewind.go(lambda: m.regs.rip == 0x1004)
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1004, 5)
    assert rewind.go(lambda: m.regs.rip == 0x1004)
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1004, 4)
    assert rewind.go(lambda: m.memory.read(0x2000, 1) == b"\1")
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1004, 2)
    assert not rewind.go(lambda: m.regs.rip == 0xBAD)
    assert m.regs.rip == 0x1000
    assert before == [b"\5"]


def test_marks_on_the_way(loop):
    m = loop()
    rewind = Rewind(m)
    for _ in range(3):
        m.run(max_exits=1)
        rewind.mark()
    for rip, al in ((0x1007, 3), (0x1004, 3), (0x1002, 2), (0x100B, 2), (0x1009, 2), (0x1007, 2)):
        rewind.step()
        assert (m.regs.rip, m.regs.rax & 0xFF) == (rip, al)


def test_moments_that_differ_in_memory_alone(machine):
    # inc byte [0x2000]; jmp 0x1000: after each round registers and flags are as after the last
    m = machine("fe060020 ebfa")
    m.step()
    m.step()
    rewind = Rewind(m)
    for _ in range(9):
        m.step()
    assert (m.regs.rip, m.memory.read(0x2000, 1)) == (0x1004, b"\6")
    rewind.step()
    assert (m.regs.rip, m.memory.read(0x2000, 1)) == (0x1000, b"\5")
    rewind.step()
    assert (m.regs.rip, m.memory.read(0x2000, 1)) == (0x1004, b"\5")
    assert rewind.go(lambda: m.memory.read(0x2000, 1) == b"\3")
    assert (m.regs.rip, m.memory.read(0x2000, 1)) == (0x1000, b"\3")


def test_far_back_many_exits_and_more_marks_than_are_kept(machine):
    # mov [0x2000], cl; out 0x10, al; inc cx; jmp 0x1000
    m = machine("880e0020 e610 41 ebf7")
    m.on_out(0x10)(lambda value, size: None)
    rewind = Rewind(m)
    for _ in range(40):
        m.run(max_exits=5)
        rewind.mark()
    assert m.regs.rcx == 199
    for cl in (198, 150, 7):
        assert rewind.go(lambda cl=cl: (m.regs.rip, m.memory.read(0x2000, 1)[0]) == (0x1006, cl))
        assert m.regs.rcx == cl
    assert not rewind.go(lambda: m.regs.rcx == 8)
    assert (m.regs.rip, m.regs.rcx) == (0x1000, 0)


def test_states_are_kept_on_the_way_through_a_long_stretch(machine):
    # mov cx, 3000; dec cx (0x1003); jnz 0x1003; nop; nop; hlt
    m = machine("b9b80b 49 75fd 90 90 e680 f4")
    m.on_out(0x80)(lambda value, size: None)
    rewind = Rewind(m)
    m.run(max_exits=1)
    steps = []
    one = m.step
    m.step = lambda: steps.append(1) or one()
    rewind.step()
    assert m.regs.rip == 0x1008
    first = len(steps)
    assert first > 2 * 6000
    steps.clear()
    for rip in (0x1007, 0x1006, 0x1004):
        rewind.step()
        assert m.regs.rip == rip
    assert len(steps) < 3 * 2 * 1100


def test_what_the_guest_says_is_said_once():
    with vmm.boot("payload:hello16", irqchip=False) as m:
        rewind = Rewind(m)
        m.run(max_exits=20)
        output = m.console.output
        for _ in range(5):
            rewind.step()
        assert m.console.output == output


def test_a_guest_that_depends_on_something_else_is_left_where_it_was(machine):
    # in al, 0x11; mov [0x2000], al; out 0x10, al; hlt
    m = machine("e411 a20020 e610 f4")
    m.on_in(0x11)(lambda size: random.getrandbits(64) & 0xFF)
    m.on_out(0x10)(lambda value, size: None)
    rewind = Rewind(m)
    m.run(max_exits=2)
    m.regs.rbx = 0x1234  # as if it had been read from a clock
    here = moment(m)
    with pytest.raises(CannotRewind, match="went elsewhere"):
        rewind.step()
    assert moment(m) == here


def test_no_further_than_to_the_last_interrupt(boot):
    m = boot("payload:pit_ticks")
    rewind = Rewind(m)

    def interrupts():
        return m.kvm_stats()["vcpu0"]["irq_injections"]

    while interrupts() < 3:
        m.run(max_exits=1)
    with pytest.raises(CannotRewind, match="behind the last interrupt"):
        rewind.step()
    rewind.mark()
    here, count = bytes(m.regs.struct()), interrupts()
    m.step()
    assert interrupts() == count
    rewind.step()
    assert bytes(m.regs.struct()) == here
    assert m.run(timeout=60).reason == "debug_exit"


def test_controllers_without_interrupts_do_no_harm(loop):
    m = loop(irqchip=True)
    rewind = Rewind(m)
    m.run(max_exits=4)
    rewind.step()
    assert (m.regs.rip, m.regs.rax & 0xFF) == (0x1007, 4)
    assert rewind.go(lambda: m.regs.rip == 0x1004)
    assert m.memory.read(0x2000, 1) == b"\3"


def test_machines_that_do_not_do_the_same_twice(machine):
    with pytest.raises(CannotRewind, match="several vCPUs"):
        Rewind(machine(irqchip=True, cpus=2))
