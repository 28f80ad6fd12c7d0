"""The BIOS as a whole: what lies in memory, what is missing, what a hostile guest can do."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm.errors import BootError

word = st.integers(0, 0xFFFF)


def test_install_lays_out_the_machine(pc):
    assert pc.memory.word(0x40 * 4 + 2) == 0xF000  # any vector
    assert pc.memory.word(0x410) & 0x0001
    assert pc.memory.word(0x475, 1) == 1  # one hard disk
    assert pc.memory.word(0x400) == 0x3F8
    assert pc.memory.read(0xFFFFE, 1) == b"\xfc"
    assert pc.bios.screen == [""] * 25
    assert not pc.bios.drawn_directly


def test_install_needs_memory_up_to_1_mib(make_pc):
    with pytest.raises(BootError, match="--memory 1M"):
        make_pc(memory_size=640 << 10)


def test_an_address_outside_of_the_stubs_is_no_trap(pc):
    regs = pc.call(0x12).regs
    for linear in (0, 0xF7FFF, 0xFA000, 0xFFFF0, 0x1_000F_8000):
        assert pc.bios.handle(linear, regs, pc.sregs) is None


@pytest.mark.parametrize("offset", [1, 3])
def test_rip_may_be_at_the_out_instruction_or_behind_it(pc, offset):
    regs = pc.call(0x11).regs
    regs.rax = 0
    assert pc.bios.handle(0xF8000 + 0x12 * 32 + offset, regs, pc.sregs) is not None
    assert regs.rax == 639


def test_an_unknown_vector_is_counted(pc):
    for _ in range(3):
        assert pc.call(0x21, 0x0900).carry
    assert pc.bios.notes == ["INT 21h AX=0900h: no such service; called 3 times"]


def test_what_is_missing_is_not_counted_without_end(pc):
    for ax in range(1000):
        pc.call(0x21, ax)
    assert len(pc.bios.missing) == 64


def test_reboot_and_no_boot(pc):
    pc.call(0x19)
    assert pc.requests == ["reset"]
    pc.call(0x18)
    assert pc.requests == ["reset", "stop"]
    assert "No bootable device" in pc.text
    assert "INT 18h" in pc.bios.notes[0]


def test_there_is_no_printer(pc):
    assert pc.call(0x17, 0x0041).ah == 0x01


@pytest.mark.parametrize(
    ("vector", "name"), [(0x00, "#DE"), (0x06, "#UD"), (0x07, "#NM"), (0x0C, "#SS"), (0x0D, "#GP")]
)
def test_an_exception_without_a_handler_stops_the_guest(pc, vector, name):
    if vector >= 8:  # the stub has pushed AX; AL is what port 0x20 reads as with no PIC
        pc.memory.write(0x6FFE, b"\0\0")
        answer = pc.call(vector, 0x00FF)
        assert answer.waits  # no end-of-interrupt
    else:
        pc.call(vector)
    assert pc.requests == ["stop"]
    assert name in pc.bios.notes[0]


def test_the_fault_is_where_the_frame_says(pc):
    pc.call(0x06)
    assert "1000:1234" in pc.bios.notes[0]


def test_interrupts_on_shared_vectors_are_acknowledged(pc):
    answer = pc.call(0x0D, 0x0020)  # in service: IRQ 5
    assert not answer.waits
    assert pc.requests == []
    assert pc.call(0x0F, 0x0000).waits  # a spurious IRQ 7 gets no end-of-interrupt
    assert pc.requests == []


def test_registers_that_a_service_does_not_return_are_kept(pc):
    answer = pc.call(0x10, 0x0E41, bx=0x1234, cx=0x5678, dx=0x9ABC, si=1, di=2, bp=3)
    assert (answer.ax, answer.bx, answer.cx, answer.dx) == (0x0E41, 0x1234, 0x5678, 0x9ABC)
    assert (answer.si, answer.di, answer.bp, answer.regs.rsp) == (1, 2, 3, 0x7000)


def test_other_flags_on_the_stack_are_kept(pc):
    pc.call(0x13, 0x0000, dx=0x0080, flags=0xFED7)
    assert pc.memory.word(0x7004) == 0xFED6
    assert pc.memory.read(0x7000, 4) == b"\x34\x12\x00\x10"


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    vector=st.integers(0, 255),
    ax=word,
    values=st.fixed_dictionaries(dict.fromkeys(("bx", "cx", "dx", "si", "di", "bp"), word)),
    ds=word,
    es=word,
    stack=st.sampled_from([0x7000, 0xFFFF, 0x0000, 0xFFFE]),
    garbage=st.binary(max_size=64),
)
def test_nothing_raises(pc, vector, ax, values, ds, es, stack, garbage):
    pc.memory.write(0x410, garbage)
    regs = pc.call(vector, ax, ds=ds, es=es, **values).regs
    regs.rsp = stack
    pc.bios.handle(0xF8000 + vector * 32, regs, pc.sregs)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    function=st.sampled_from(
        [(v, f) for v in (0x10, 0x13, 0x14, 0x15, 0x16, 0x1A) for f in range(0x1D)]
        + [(0x13, f) for f in range(0x41, 0x4C)]
        + [(0x15, f) for f in (0x24, 0x53, 0x86, 0x87, 0x88, 0xC0, 0xE8)]
    ),
    al=st.integers(0, 255),
    values=st.fixed_dictionaries(dict.fromkeys(("bx", "cx", "dx", "si", "di", "bp"), word)),
)
def test_no_known_function_raises(pc, function, al, values):
    vector, ah = function
    pc.typed.extend(b"\x1b[")
    pc.call(vector, ah << 8 | al, **values)
    pc.call(vector, ah << 8 | al, **(values | {"dx": values["dx"] & 0xFF00 | 0x80}))
