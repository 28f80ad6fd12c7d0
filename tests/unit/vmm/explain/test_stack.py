"""Who called: frames by frame pointers and by guesses, on stacks that lie."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState, Segment
from vmm.explain import Death, explain
from vmm.explain.stack import Frame, frame_lines, stack_trace
from vmm.symbols import Symbols

pytest.importorskip("capstone")

NAMES = Symbols.load(b"1000 T inner\n1100 T middle\n1200 T outer\n1300 T leaf\n")
CALL = bytes.fromhex("e8 00 00 00 00")
INNER, MIDDLE, OUTER = 0x1010, 0x1125, 0x1245


@pytest.fixture
def called(guest: Any) -> Any:
    """outer called middle called inner; the returns are behind CALLs at 0x1120 and 0x1240."""
    guest.write(MIDDLE - 5, CALL)
    guest.write(OUTER - 5, CALL)
    return guest


def frames(guest: Any, state: CpuState, names: Symbols | None = NAMES) -> list[Frame]:
    return stack_trace(state, guest.read, names)


def test_frame_pointers_are_followed(called: Any) -> None:
    called.u64(0x7F00, 0x7F40, MIDDLE)
    called.u64(0x7F40, 0, OUTER)
    state = called.long(rip=INNER, rsp=0x7EE0, rbp=0x7F00)
    assert frames(called, state) == [
        Frame(INNER, "inner+0x10"),
        Frame(MIDDLE, "middle+0x25"),
        Frame(OUTER, "outer+0x45"),
    ]


def test_in_32_bits(called: Any) -> None:
    for at, *values in ((0x7F00, 0x7F40, MIDDLE), (0x7F40, 0, OUTER)):
        called.u32(at, values[0])
        called.u32(at + 4, values[1])
    state = called.protected(rip=INNER, rsp=0x7EE0, rbp=0x7F00)
    assert [frame.address for frame in frames(called, state)] == [INNER, MIDDLE, OUTER]


def test_a_return_address_on_top_comes_first(called: Any) -> None:
    """In front of a function's PUSH RBP the frame pointer is still its caller's."""
    called.u64(0x7EF8, MIDDLE)
    called.u64(0x7F40, 0, OUTER)
    state = called.long(rip=0x1000, rsp=0x7EF8, rbp=0x7F40)
    assert [frame.address for frame in frames(called, state)] == [0x1000, MIDDLE, OUTER]


def test_without_frame_pointers_there_are_guesses(called: Any) -> None:
    called.u64(0x7F00, 0x1234, MIDDLE, 0x7F00, OUTER, 0x1000)
    state = called.long(rip=INNER, rsp=0x7F00, rbp=1)
    assert frames(called, state)[1:] == [
        Frame(MIDDLE, "middle+0x25", guess=True),
        Frame(OUTER, "outer+0x45", guess=True),
    ]
    assert frame_lines(frames(called, state), 8)[1] == (
        "00001125  middle+0x25  (a guess: found on the stack)"
    )


def test_what_is_not_behind_a_call_is_no_return_address(called: Any) -> None:
    called.u64(0x7F00, MIDDLE + 1, OUTER - 1, 3, 0xFFFF_FFFF_FFFF_FFFF, 0x4000_0000)
    state = called.long(rip=INNER, rsp=0x7F00, rbp=0)
    assert len(frames(called, state)) == 1


def test_a_loop_of_frames_ends(called: Any) -> None:
    called.u64(0x7F00, 0x7F00, MIDDLE)  # a frame that is its own caller
    state = called.long(rip=INNER, rsp=0x7EE0, rbp=0x7F00)
    assert len(frames(called, state)) == 2
    for n in range(200):
        called.u64(0x4000 + 16 * n, 0x4010 + 16 * n, MIDDLE)
    state = called.long(rip=INNER, rsp=0x4000, rbp=0x4000)
    assert len(frames(called, state)) == 65


def test_recursion_is_told_in_one_line(called: Any) -> None:
    called.u64(0x6000, *[MIDDLE] * 300)
    state = called.long(rip=INNER, rsp=0x6000, rbp=0)
    lines = frame_lines(frames(called, state), 8)
    assert len(lines) == 2
    assert lines[1].endswith("(300 times)")


def test_sixteen_bits_are_left_out(called: Any) -> None:
    assert len(frames(called, called.real(rip=INNER))) == 1


def test_the_report_has_names(called: Any) -> None:
    called.write(INNER, bytes.fromhex("e8 eb 02 00 00 0f 0b"))  # call leaf; ud2
    called.u64(0x7F00, MIDDLE)
    state = called.long(rip=INNER + 5, rsp=0x7F00, rbp=0)
    death = Death(kind="shutdown", cpu=state, read=called.read, symbols=NAMES)
    explanation = explain(death)
    assert " at 0000000000001015 inner+0x15 (long 64-bit mode)" in explanation.headline
    text = explanation.text()
    assert "call 0x1300 <leaf>" in text
    assert "  inner+0x10:\n" in text
    assert (
        "stack, innermost first:\n  0000000000001015  inner+0x15\n  0000000000001125  middle+0x25"
        in text
    )
    facts = explanation.to_dict()
    assert facts["symbol"] == "inner+0x15"
    assert facts["stack"][1] == {"address": MIDDLE, "symbol": "middle+0x25", "guess": True}
    assert facts["code"][0]["symbol"] == "inner+0x10"
    assert facts["registers"]["rip"] == INNER + 5
    assert max(map(len, text.splitlines())) <= 100


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=4, max_size=4), st.binary(min_size=1))
@settings(max_examples=100, deadline=None)
def test_no_stack_makes_it_raise(numbers: list[int], fill: bytes) -> None:
    rip, rsp, rbp, hole = numbers

    def read(gpa: int, size: int) -> bytes:
        if gpa == hole:
            raise GuestAddressError("nothing")
        return (fill * (size // len(fill) + 2))[gpa % len(fill) :][:size]

    for l, db in ((1, 0), (0, 1)):  # noqa: E741
        cs = Segment(8, 0, 0xFFFF_FFFF, type=0xB, l=l, db=db, g=1)
        state = CpuState(cr0=0x11, efer=0x500 if l else 0, cs=cs, rip=rip, rsp=rsp, rbp=rbp)
        assert len(stack_trace(state, read, NAMES)) <= 1 + 512
