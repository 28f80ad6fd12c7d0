"""Reset, save, load and go on: what a snapshot relies on."""

from __future__ import annotations

import ast
import dataclasses
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import StateError
from devices.records import Record

SIZES = (1, 2, 4, 8)
VALUES = (2**64 - 1, 0x8000_0000, 0x8000_0058, 0x3333_3333, 0x0008_0000)
"""All ones, and what opens a door: an enable bit, a PCI register, an address, byte-swapped."""


def steps(model):
    """Lists of accesses, and of bytes from outside where the device takes any.

    Half of the accesses are those that a driver makes: a register at its own width.
    """
    anywhere = st.tuples(st.integers(0, model.span + 4), st.sampled_from(SIZES))
    table = [(register.offset, register.size) for register in model.cls().registers]
    where = anywhere | st.sampled_from(table) if table else anywhere
    value = st.integers(0, 255) | st.sampled_from(VALUES) | st.integers(0, 2**64 - 1)
    kinds = [st.tuples(st.just("r"), where), st.tuples(st.just("w"), where, value)]
    if model.feed is not None:
        kinds.append(st.tuples(st.just("feed"), st.binary(min_size=1, max_size=20)))
    return st.lists(st.one_of(kinds), max_size=40)


def inside(thing, path="", seen=None):
    """The plain values that a device holds, its parts included, by their path."""
    values = {}
    seen = [] if seen is None else seen
    seen.append(thing)
    for name, value in vars(thing).items():
        where = f"{path}.{name}"
        if isinstance(value, dict):
            values |= {f"{where}[{key!r}]": v for key, v in value.items() if plain(v)}
        elif plain(value):
            values[where] = value
        elif isinstance(value, (deque, bytearray)):
            values[where] = tuple(value)
        elif any(value is one for one in seen):
            pass  # parts may know each other
        elif type(value).__module__.startswith("devices.") and hasattr(value, "__dict__"):
            values |= inside(value, where, seen)
    return values


def saved_parts(model, device):
    return {where: v for where, v in inside(device).items() if where not in model.not_saved}


def drive(model, device, script):
    """Carry out a script; return what the device answered."""
    answers = []
    for kind, *step in script:
        if kind == "feed":
            answers.append(model.feed(device, *step))
            continue
        offset, size = step[0]
        if kind == "r":
            answers.append(device.read(offset, size))
        else:
            device.write(offset, size, step[1] & ((1 << 8 * size) - 1))
    return answers


def test_work_leaves_its_marks(model):
    """A device that was used differs from a fresh one, so the tests below compare something."""
    device, _ = model.used()
    assert (device.save() != model.build().save()) == bool(model.writes)
    assert bool(model.writes) == bool(dataclasses.fields(device.save()))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reset_leaves_a_fresh_device(model, data):
    device, _ = model.used()
    drive(model, device, data.draw(steps(model)))
    kept = {name: getattr(device.save(), name) for name in model.survives_reset}
    device.reset()
    assert device.save() == dataclasses.replace(model.build().save(), **kept)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_loaded_device_goes_on_as_the_saved_one(model, data):
    device, mine = model.used() if data.draw(st.booleans()) else model.connected()
    drive(model, device, data.draw(steps(model), label="before"))
    state = device.save()
    assert device.save() == state, "saving changes nothing"

    twin, theirs = model.connected()
    theirs.memory[:] = mine.memory
    twin.load(state)
    assert twin.save() == state
    assert saved_parts(model, twin) == saved_parts(model, device), "something is not saved"
    mine.events.clear()
    mine.levels.clear()
    theirs.events.clear()
    theirs.levels.clear()

    after = data.draw(steps(model), label="after")
    assert drive(model, twin, after) == drive(model, device, after)
    assert twin.save() == device.save()
    assert theirs.events == mine.events
    both = theirs.levels.keys() & mine.levels.keys()
    assert all(theirs.levels[line] == mine.levels[line] for line in both)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_state_is_plain_data(model, data):
    device = model.build()
    drive(model, device, data.draw(steps(model)))
    state = device.save()
    assert dataclasses.is_dataclass(state)
    assert isinstance(state, Record)
    assert isinstance(type(state).kind, str)
    assert isinstance(type(state).version, int)
    fields = {part.name: getattr(state, part.name) for part in dataclasses.fields(state)}
    assert all(plain(value) for value in fields.values()), fields
    again = type(state)(**ast.literal_eval(repr(fields)))
    assert again == state
    twin = model.build()
    twin.load(again)
    assert twin.save() == state


def plain(value):
    if type(value) is tuple:
        return all(plain(part) for part in value)
    return type(value) in (int, bool, str, bytes)


def refuses(device, state):
    before = device.save()
    with pytest.raises(StateError) as caught:
        device.load(state)
    assert device.save() == before
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_another_kind_is_refused(model, catalogue):
    for other in catalogue:
        if other.path != model.path:
            refuses(model.used()[0], other.build().save())


def test_another_version_is_refused(model):
    state = model.build().save()
    cls = type(state)
    later = type("Later", (cls,), {"version": cls.version + 1, "__slots__": ()})
    fields = {part.name: getattr(state, part.name) for part in dataclasses.fields(state)}
    refuses(model.used()[0], later(**fields))


def test_fields_out_of_range_are_refused(model):
    state = model.build().save()
    for part in dataclasses.fields(state):
        value = getattr(state, part.name)
        wrong = [1j, object()]
        if type(value) is int:
            wrong += [1 << 80, "1"]
        elif type(value) is bytes:
            wrong += [value + b"x" * 70_000, "x", 1]
        elif type(value) is tuple:
            wrong += [(*value, 1j), 1]
        else:
            wrong += [b"", -1]
        for bad in wrong:
            refuses(model.used()[0], dataclasses.replace(state, **{part.name: bad}))
