"""INT 16h and INT 09h."""

from __future__ import annotations

MS = 1_000_000


def test_read_returns_a_key_and_takes_it(pc):
    pc.typed.extend(b"ab")
    answer = pc.call(0x16, 0x0000)
    assert (answer.ax, answer.waits) == (0x1E61, False)
    assert pc.call(0x16, 0x0000).ax == 0x3062


def test_read_waits_in_the_stub_for_short_times_only(pc):
    answer = pc.call(0x16, 0x0000)
    assert answer.waits
    assert answer.ax == 0
    assert max(pc.get_waits) <= 0.02
    pc.typed.extend(b"x")
    answer = pc.call(0x16, 0x0000, repeat=True)
    assert (answer.ax, answer.waits) == (0x2D78, False)
    assert pc.bios.calls[0x16] == 1


def test_peek_sets_zero_without_a_key_and_leaves_one_there(pc):
    assert pc.call(0x16, 0x0100).zero
    pc.typed.extend(b"a")
    answer = pc.call(0x16, 0x0100)
    assert (answer.zero, answer.ax) == (False, 0x1E61)
    assert pc.call(0x16, 0x0000).ax == 0x1E61
    assert pc.call(0x16, 0x1100).zero


def test_keys_lie_in_the_data_area(pc):
    pc.typed.extend(b"hi")
    pc.call(0x16, 0x0100)
    assert pc.memory.word(0x41A) == 0x1E
    assert pc.memory.word(0x41C) == 0x22
    assert pc.memory.word(0x41E) == 0x2368
    # A program that takes a key itself moves the head.
    pc.memory.write(0x41A, b"\x20\x00")
    assert pc.call(0x16, 0x0000).ax == 0x1769


def test_a_timer_interrupt_fills_the_buffer(pc):
    pc.typed.extend(b"q")
    pc.call(0x08)
    assert pc.typed == b"q"  # nobody has asked for the keyboard yet
    pc.call(0x16, 0x0200)
    pc.call(0x08)
    assert pc.memory.word(0x41E) == 0x1071


def test_the_buffer_holds_15_keys_and_the_rest_waits(pc):
    pc.typed.extend(b"abcdefghijklmnopqrst")
    got = []
    while not pc.call(0x16, 0x0100).zero:
        assert (pc.memory.word(0x41C) - pc.memory.word(0x41A)) % 32 != 0
        got.append(pc.call(0x16, 0x0000).al)
    assert bytes(got) == b"abcdefghijklmnopqrst"


def test_grey_keys_look_plain_to_the_old_calls(pc):
    pc.typed.extend(b"\x1b[A\x1b[A")
    assert pc.call(0x16, 0x1000).ax == 0x48E0
    assert pc.call(0x16, 0x0000).ax == 0x4800


def test_the_old_calls_never_see_the_newer_keys(pc):
    pc.typed.extend(b"\x1b[23~a")
    assert pc.call(0x16, 0x0100).ax == 0x1E61
    pc.call(0x16, 0x0000)
    pc.typed.extend(b"\x1b[23~")
    assert pc.call(0x16, 0x1000).ax == 0x8500


def test_escape_alone_comes_after_a_delay(pc):
    pc.typed.extend(b"\x1b")
    assert pc.call(0x16, 0x0100).zero
    pc.now_ns += 10 * MS
    assert pc.call(0x16, 0x0100).zero
    pc.now_ns += 50 * MS
    assert pc.call(0x16, 0x0100).ax == 0x011B


def test_push(pc):
    assert pc.call(0x16, 0x0500, cx=0x1E61).al == 0
    for _ in range(14):
        assert pc.call(0x16, 0x0500, cx=0x3062).al == 0
    assert pc.call(0x16, 0x0500, cx=0x3062).al == 1
    assert pc.call(0x16, 0x0000).ax == 0x1E61


def test_corrupt_pointers_do_no_harm(pc):
    pc.memory.write(0x41A, b"\xff\xff\xff\xff")
    pc.typed.extend(b"a")
    assert pc.call(0x16, 0x0000).ax == 0x1E61


def test_scancodes_through_interrupt_9(pc):
    for code in (0x2A, 0x1E, 0x9E, 0xAA, 0x30, 0xB0, 0xE0, 0x48, 0xE0, 0xC8):
        pc.call(0x09, code)
    assert [pc.call(0x16, 0x0000).ax for _ in range(3)] == [0x1E41, 0x3062, 0x4800]


def test_shift_flags(pc):
    pc.call(0x09, 0x1D)
    pc.call(0x09, 0x38)
    assert pc.call(0x16, 0x0200).al == 0x0C
    pc.call(0x09, 0x9D)
    pc.call(0x09, 0xB8)
    pc.call(0x09, 0x3A)
    assert pc.call(0x16, 0x0200).al == 0x40
    pc.call(0x09, 0x1E)
    assert pc.call(0x16, 0x0000).ax == 0x1E41
    assert pc.call(0x16, 0x1200).al == 0x40


def test_a_program_with_its_own_int_9_gets_its_keys_there(pc):
    pc.host.interrupts = True
    pc.memory.write(0x24, b"\x00\x7c\x00\x00")
    pc.typed.extend(b"a")
    assert pc.call(0x16, 0x0100).zero
    answer = pc.call(0x16, 0x0000)
    assert answer.waits
    assert pc.typed == b"a"
    assert len(pc.pauses) == 1
    # The program's handler passes the interrupt on.
    pc.call(0x09, 0x1E)
    answer = pc.call(0x16, 0x0000, repeat=True)
    assert (answer.ax, answer.waits) == (0x1E61, False)


def test_without_interrupts_an_own_int_9_changes_nothing(pc):
    pc.memory.write(0x24, b"\x00\x7c\x00\x00")
    pc.typed.extend(b"a")
    assert pc.call(0x16, 0x0000).ax == 0x1E61
