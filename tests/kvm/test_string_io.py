"""`rep outs` and `rep ins`: every element once, in order, however KVM delivers them."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kvm

PORT = 0x10
BUFFER = 0x2000
DIRECTION = 1 << 10
OUTS, INS = "6e", "6c"
COUNTS = [1, 2, 3, 64, 129]
LONG_COUNT = 4097
"""More bytes than the page through which KVM hands them over."""


def rep(opcode, size, mode):
    """The instruction for elements of `size` bytes; the prefix 66 chooses the other width."""
    if size == 1:
        return f"f3{opcode}"
    other = size != (2 if mode == "real" else 4)
    return f"{'66' if other else ''}f3{int(opcode, 16) + 1:02x}"


def elements(size, count):
    return [(n * 0x01050309 + 7) & ((1 << 8 * size) - 1) for n in range(count)]


def pack(values, size):
    return b"".join(value.to_bytes(size, "little") for value in values)


@pytest.fixture
def sender(machine):
    """A guest that sends `count` elements from BUFFER; what came is in `seen`."""

    def make(size, count, *, down=False, mode="real", cpl=0):
        # The instruction, and the end of the run in a way that ring 3 has too.
        m = machine(rep(OUTS, size, mode) + "e6f4 ebfe", mode, cpl=cpl)
        values = elements(size, count)
        m.memory.write(BUFFER, pack(values, size))
        m.regs.rcx, m.regs.rdx = count, PORT
        m.regs.rsi = BUFFER + (count - 1) * size if down else BUFFER
        m.regs.rflags |= DIRECTION if down else 0
        seen = []
        m.on_out(PORT)(lambda value, width: seen.append((value, width)))
        expected = [(value, size) for value in (reversed(values) if down else values)]
        return m, seen, expected

    return make


@pytest.fixture
def receiver(machine):
    """A guest that reads `count` elements to BUFFER."""

    def make(size, count, *, down=False, mode="real", cpl=0):
        m = machine(rep(INS, size, mode) + "e6f4 ebfe", mode, cpl=cpl)
        m.regs.rcx, m.regs.rdx = count, PORT
        m.regs.rdi = BUFFER + (count - 1) * size if down else BUFFER
        m.regs.rflags |= DIRECTION if down else 0
        values = elements(size, count)
        source = iter(values)
        widths = set()
        m.on_in(PORT)(lambda width: widths.add(width) or next(source))
        return m, values[::-1] if down else values, source, widths

    return make


def check_sent(m, seen, expected, size, count, down):
    result = m.run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert seen == expected
    step = -size if down else size
    first = BUFFER + (count - 1) * size if down else BUFFER
    assert (m.regs.rcx, m.regs.rsi) == (0, first + count * step)


def check_received(m, values, source, widths, size, count, down):
    result = m.run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    # Nothing was read ahead and thrown away.
    assert next(source, None) is None
    assert widths == {size}
    assert m.memory.read(BUFFER, size * count) == pack(values, size)
    assert m.memory.read(BUFFER - size, size) == bytes(size)
    assert m.memory.read(BUFFER + size * count, size) == bytes(size)
    step = -size if down else size
    first = BUFFER + (count - 1) * size if down else BUFFER
    assert (m.regs.rcx, m.regs.rdi) == (0, first + count * step)


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sending(sender, size, count, down):
    m, seen, expected = sender(size, count, down=down)
    check_sent(m, seen, expected, size, count, down)


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_receiving(receiver, size, count, down):
    m, values, source, widths = receiver(size, count, down=down)
    check_received(m, values, source, widths, size, count, down)


@pytest.mark.parametrize("size", [1, 4])
def test_sending_more_than_a_page(sender, size):
    m, seen, expected = sender(size, LONG_COUNT)
    check_sent(m, seen, expected, size, LONG_COUNT, False)


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("size", [1, 4])
def test_receiving_more_than_a_page(receiver, size, down):
    m, values, source, widths = receiver(size, LONG_COUNT, down=down)
    check_received(m, values, source, widths, size, LONG_COUNT, down)


@pytest.mark.parametrize(("mode", "cpl"), [("protected", 0), ("long", 0), ("long", 3)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_in_every_mode(sender, receiver, mode, cpl, size):
    m, seen, expected = sender(size, 100, mode=mode, cpl=cpl)
    check_sent(m, seen, expected, size, 100, False)
    m, values, source, widths = receiver(size, 100, mode=mode, cpl=cpl)
    check_received(m, values, source, widths, size, 100, False)


@pytest.mark.parametrize("make", ["sender", "receiver"])
def test_a_count_of_zero_does_nothing(request, make):
    m, *_ = request.getfixturevalue(make)(1, 1)
    m.regs.rcx = 0
    assert m.run(timeout=30).exits == 1


def test_one_exit_at_a_time(receiver):
    """Stopped and looked at after every exit, it comes to the same."""
    m, values, _, _ = receiver(1, 64)
    while (result := m.run(timeout=30, max_exits=1)).reason == "max_exits":
        done = m.regs.rdi - BUFFER
        assert m.regs.rcx == 64 - done
        assert m.memory.read(BUFFER, done) == pack(values[:done], 1)
    assert result.reason == "debug_exit"


def test_the_exits_carry_the_data(sender):
    m, _, expected = sender(2, 64)
    data = b"".join(exit.data for exit in m.exits(timeout=30) if exit.address == PORT)
    assert data == pack([value for value, _ in expected], 2)


def test_a_string_to_and_from_nobody(machine):
    m = machine("f36f b90800 f36d f4")  # rep outsw; mov cx, 8; rep insw
    m.regs.rcx, m.regs.rdx, m.regs.rdi = 8, 0x99, BUFFER
    assert m.run(timeout=30).reason == "halt"
    assert m.pio.unclaimed == {(0x99, True): 8, (0x99, False): 8}
    assert m.memory.read(BUFFER, 17) == b"\xff" * 16 + b"\0"
