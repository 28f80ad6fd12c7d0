"""Whatever a guest reads and writes, a device answers within the width and never raises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = (1, 2, 4, 8)
VALUES = (0, 1, 0x5A, -1, 0x8000_0000_0000_0000)


def ones(size: int) -> int:
    return (1 << 8 * size) - 1


def offsets(model):
    """Every offset and some behind the end; of a large device the two ends."""
    if model.span <= 256:
        return range(model.span + 9)
    return [*range(16), *range(model.span - 16, model.span + 9)]


def test_every_offset_answers_every_width(model):
    device = model.build()
    for offset in offsets(model):
        for size in SIZES:
            for value in VALUES:
                device.write(offset, size, value & ones(size))
            answer = device.read(offset, size)
            assert type(answer) is int
            assert 0 <= answer <= ones(size), (offset, size)


def test_nothing_answers_behind_the_end(model):
    device, surroundings = model.connected()
    before = device.save()
    for size in SIZES:
        device.write(model.span, size, 0)
        assert device.read(model.span, size) == ones(size)
    assert device.save() == before
    assert surroundings.events == []


def test_holes_read_as_ones_and_take_no_writes(model):
    device = model.build()
    if not len(device.registers):
        return
    before = device.save()
    for offset in range(model.span):
        for write in (False, True):
            whole = device.registers.at(offset, write=write, values={}, size=1)
            if whole or device.registers.candidates(offset, write=write):
                continue
            if write:
                device.write(offset, 1, 0xFF)
            else:
                assert device.read(offset, 1) == 0xFF, offset
            assert device.save() == before, offset


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_accesses_never_raise(model, data):
    device = model.build()
    for _ in range(data.draw(st.integers(1, 40))):
        offset = data.draw(st.integers(0, model.span + 8))
        size = data.draw(st.sampled_from(SIZES))
        if data.draw(st.booleans()):
            device.write(offset, size, data.draw(st.integers(0, ones(size))))
        else:
            assert 0 <= device.read(offset, size) <= ones(size)
