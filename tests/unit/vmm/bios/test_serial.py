"""INT 14h on a UART's registers."""

from __future__ import annotations

SECOND = 1_000_000_000


def test_initialise_sets_divisor_and_format(pc):
    answer = pc.call(0x14, 0x00E3)  # 9600 8N1
    assert pc.uart.written == [(3, 0x80), (0, 12), (1, 0), (3, 0x03), (4, 0x03)]
    assert (answer.ah, answer.al) == (0x60, 0xB0)
    pc.uart.written.clear()
    pc.call(0x14, 0x001A)  # 110 baud, even parity, 7 bits
    assert pc.uart.written[1:4] == [(0, 0x17), (1, 0x04), (3, 0x1A)]


def test_send(pc):
    answer = pc.call(0x14, 0x0141)
    assert pc.uart.written == [(0, 0x41)]
    assert answer.ah & 0x80 == 0
    pc.uart.line_status = 0
    assert pc.call(0x14, 0x0142).ah & 0x80
    assert len(pc.uart.written) == 1


def test_receive(pc):
    pc.uart.received = b"k"
    answer = pc.call(0x14, 0x0200)
    assert (answer.ah, answer.al, answer.waits) == (0, ord("k"), False)


def test_receive_waits_and_times_out(pc):
    assert pc.call(0x14, 0x0200).waits
    pc.now_ns += SECOND // 2
    assert pc.call(0x14, 0x0200, repeat=True).waits
    pc.uart.received = b"z"
    answer = pc.call(0x14, 0x0200, repeat=True)
    assert (answer.al, answer.waits) == (ord("z"), False)
    assert pc.call(0x14, 0x0200).waits
    pc.now_ns += SECOND
    answer = pc.call(0x14, 0x0200, repeat=True)
    assert (answer.ah, answer.waits) == (0x80, False)


def test_absent_ports_time_out(pc):
    for function in range(4):
        assert pc.call(0x14, function << 8, dx=1).ah == 0x80


def test_status(pc):
    assert pc.call(0x14, 0x0300).ax == 0x60B0
