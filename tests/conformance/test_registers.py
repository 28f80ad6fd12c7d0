"""Each device's register table is sound: it drives the model, the trace and these tests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st


def test_registers_fit_their_device(model):
    table = model.cls().registers
    names = [register.name for register in table]
    assert len(names) == len(set(names))
    for register in table:
        assert register.size in (1, 2, 4, 8), register.name
        assert 0 <= register.offset <= register.offset + register.size <= model.span
        assert set(register.access) <= {"r", "w"}, register.name
        assert register.access, register.name
        limit = 1 << (8 * register.size)
        assert 0 <= register.reset < limit, register.name
        assert register.writable is None or 0 <= register.writable < limit, register.name
        assert 0 <= register.w1c < limit, register.name
        assert not (register.writable or 0) & register.w1c, register.name


def test_fields_do_not_overlap(model):
    for register in model.cls().registers:
        taken = 0
        names = [part.name for part in register.fields]
        assert len(names) == len(set(names)), register.name
        for part in register.fields:
            assert part.mask < 1 << (8 * register.size), (register.name, part.name)
            assert not taken & part.mask, (register.name, part.name)
            assert all(0 <= value < 1 << part.width for value in part.values), part.name
            taken |= part.mask


def test_conditions_name_registers_of_the_table(model):
    table = model.cls().registers
    for register in table:
        if register.when is not None:
            assert register.when.register in table, register.name
            assert not register.when.equals & ~register.when.mask, register.name


def test_access_modes_are_served(model):
    device = model.build()
    for register in device.registers:
        at = register.offset
        if "r" in register.access:
            assert 0 <= device.read(at, register.size) < 1 << (8 * register.size)
        if "w" in register.access:
            device.write(at, register.size, register.reset)


@settings(max_examples=50, deadline=None)
@given(value=st.integers(0, (1 << 64) - 1))
def test_any_value_can_be_put_into_words(model, value):
    for register in model.cls().registers:
        words = register.decode(value & ((1 << 8 * register.size) - 1))
        assert words
        assert "\n" not in words
