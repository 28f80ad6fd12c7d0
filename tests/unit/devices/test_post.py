from __future__ import annotations

from devices.post import PORT, PostPort


def test_port():
    assert PORT == 0x80


def test_the_latch_reads_back():
    device = PostPort()
    assert device.read(0, 1) == 0
    device.write(0, 1, 0xA5)
    assert device.read(0, 1) == 0xA5


def test_codes_are_kept_oldest_first():
    device = PostPort()
    for code in (0x01, 0x02, 0x55):
        device.write(0, 1, code)
    assert device.codes == (0x01, 0x02, 0x55)


def test_a_repeat_is_not_kept_again():
    device = PostPort()
    for code in (0x00, 0x00, 0x11, 0x11, 0x00):
        device.write(0, 1, code)
    assert device.codes == (0x00, 0x11, 0x00)


def test_the_history_is_bounded():
    device = PostPort()
    for code in range(100):
        device.write(0, 1, code)
    assert device.codes == tuple(range(84, 100))


def test_the_sink_gets_each_write():
    seen: list[int] = []
    device = PostPort(sink=seen.append)
    device.write(0, 1, 3)
    device.write(0, 1, 3)
    assert seen == [3, 3]


def test_a_wide_write_leaves_only_its_low_byte():
    device = PostPort()
    device.write(0, 2, 0x1234)
    assert device.codes == (0x34,)


def test_reset_forgets():
    device = PostPort()
    device.write(0, 1, 9)
    device.reset()
    assert device.codes == ()
    assert device.read(0, 1) == 0
