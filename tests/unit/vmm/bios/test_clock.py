"""INT 1Ah and the tick count of INT 08h."""

from __future__ import annotations

SECOND = 1_000_000_000
DAY = 0x1800B0  # ticks
START = (12 * 3600 + 5 * 60 + 6) * DAY // 86400


def ticks(pc):
    answer = pc.call(0x1A, 0x0000)
    return answer.cx << 16 | answer.dx


def test_ticks_start_at_the_time_of_day(pc):
    assert ticks(pc) == START
    assert pc.memory.word(0x46C, 4) == START


def test_ticks_follow_the_clock_without_a_timer(pc):
    pc.now_ns += 1000 * SECOND
    assert ticks(pc) - START == 18206


def test_a_timer_interrupt_is_a_tick(pc):
    for _ in range(5):
        pc.call(0x08)
    assert pc.memory.word(0x46C, 4) == START + 5


def test_timer_and_clock_do_not_add_up(pc):
    for _ in range(182):
        pc.now_ns += 54_925_494
        pc.call(0x08)
        ticks(pc)
    assert abs(ticks(pc) - START - 182) <= 1


def test_midnight(pc):
    pc.call(0x1A, 0x0100, cx=0x18, dx=0x00AF)
    pc.call(0x08)
    answer = pc.call(0x1A, 0x0000)
    assert (answer.cx, answer.dx, answer.al) == (0, 0, 1)
    assert pc.call(0x1A, 0x0000).al == 0


def test_a_program_may_set_the_count(pc):
    pc.call(0x1A, 0x0100, cx=1, dx=2)
    assert ticks(pc) == 0x10002
    pc.memory.write(0x46C, bytes(4))
    assert ticks(pc) == 0
    pc.now_ns += SECOND
    assert ticks(pc) == 18


def test_a_count_beyond_a_day_does_no_harm(pc):
    pc.memory.write(0x46C, b"\xff" * 4)
    assert ticks(pc) < DAY
    pc.call(0x08)


def test_time_and_date(pc):
    answer = pc.call(0x1A, 0x0200)
    assert (answer.ch, answer.cl, answer.dh, answer.carry) == (0x12, 0x05, 0x06, False)
    answer = pc.call(0x1A, 0x0400)
    assert (answer.cx, answer.dx, answer.carry) == (0x2026, 0x0802, False)


def test_setting_time_and_date(pc):
    assert not pc.call(0x1A, 0x0300, cx=0x2359, dx=0x5800).carry
    assert not pc.call(0x1A, 0x0500, cx=0x1999, dx=0x1231).carry
    answer = pc.call(0x1A, 0x0200)
    assert (answer.ch, answer.cl, answer.dh) == (0x23, 0x59, 0x58)
    pc.wall_ns += 2 * SECOND
    assert pc.call(0x1A, 0x0400).cx == 0x2000
    assert pc.call(0x1A, 0x0400).dx == 0x0101


def test_what_is_no_time_or_date_is_refused(pc):
    assert pc.call(0x1A, 0x0300, cx=0x2400).carry
    assert pc.call(0x1A, 0x0500, cx=0x2026, dx=0x0230).carry
    assert pc.call(0x1A, 0x0500, cx=0xFFFF, dx=0xFFFF).carry
    assert pc.call(0x1A, 0x0200).ch == 0x12


def test_there_is_no_pci_bios(pc):
    answer = pc.call(0x1A, 0xB101)
    assert answer.carry
    assert answer.ah != 0
    assert pc.bios.missing == {}
    assert pc.call(0x1A, 0x0600).carry
    assert pc.bios.missing == {(0x1A, 0x0600): 1}
