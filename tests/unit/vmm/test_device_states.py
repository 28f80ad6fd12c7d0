"""States of devices as values of JSON, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.records import Record
from devices.wiring import StateError
from vmm.device_states import load_state, rich_state, save_state
from vmm.errors import SnapshotError


class LampState(Record):
    kind: str = "lamp"
    version: int = 2
    level: int = 0
    data: bytes = b""
    items: tuple[object, ...] = ()
    name: str | None = None


class Lamp:
    name = "lamp0"

    def __init__(self, state: LampState | None = None) -> None:
        self.state = state or LampState()

    def save(self) -> LampState:
        return self.state

    def load(self, state: LampState) -> None:
        if state.level > 100:
            raise StateError("level is more than 100")
        self.state = state


_plain = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9)
_values = st.recursive(_plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=9)


@given(st.integers(0, 100), st.binary(max_size=40), st.lists(_values, max_size=4).map(tuple))
def test_what_is_saved_goes_through_json_and_is_loaded_again(level, data, items):
    state = LampState(level=level, data=data, items=items, name="x")
    saved = json.loads(json.dumps(save_state(Lamp(state))))
    other = Lamp()
    load_state(other, saved)
    assert other.state == state
    assert type(other.state.data) is bytes
    assert all(not isinstance(item, list) for item in other.state.items)


def test_the_layout_is_kept():
    assert save_state(Lamp(LampState(level=7, data=b"\x01\xff", items=(1, (b"a",))))) == {
        "kind": "lamp",
        "version": 2,
        "fields": {
            "level": 7,
            "data": {"hex": "01ff"},
            "items": [1, [{"hex": "61"}]],
            "name": None,
        },
    }


def test_a_dataclass_of_a_users_own_will_do():
    @dataclass
    class Mine:
        count: int
        kind: str = "mine"
        version: int = 1

    class Device:
        name = "mine"
        state = Mine(3)

        def save(self):
            return self.state

        def load(self, state):
            self.state = state

    saved = save_state(Device())
    assert saved == {"kind": "mine", "version": 1, "fields": {"count": 3}}
    device = Device()
    device.state = Mine(0)
    load_state(device, saved)
    assert device.state == Mine(3)


class CannotBeSaved:
    name = "fan"
    cannot_save = "it spins"


class Silent:
    name = "rock"


class Strange:
    name = "box"

    def save(self):
        return LampState(items=(object(),))


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (CannotBeSaved(), "fan cannot be saved: it spins"),
        (Silent(), "rock cannot be saved: Silent has neither save"),
        (Strange(), "a state holds a object"),
    ],
)
def test_what_cannot_be_saved_is_named(device, words):
    with pytest.raises(SnapshotError, match=words):
        save_state(device)


GOOD = {"kind": "lamp", "version": 2, "fields": {"level": 1}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "fan"}, "lamp0: the saved state is one of 'fan', this is a 'lamp'"),
        ({"kind": None}, "one of None"),
        ({"version": 3}, "lamp0: the saved state has version 3, this one takes 2"),
        ({"fields": {"level": 101}}, "lamp0: the saved state is damaged: level is more than 100"),
        ({"fields": {"levels": 1}}, "damaged"),
        ({"fields": {"data": {"hex": "0"}}}, "damaged"),
        ({"fields": {"data": {"bytes": ""}}}, "damaged"),
        ({"fields": {"level": "high"}}, "damaged"),
        ({"fields": None}, "damaged"),
        ({"fields": [1]}, "damaged"),
    ],
)
def test_a_state_that_is_none_of_the_device_is_refused_and_changes_nothing(change, words):
    device = Lamp(LampState(level=5))
    with pytest.raises(SnapshotError, match=words):
        load_state(device, GOOD | change)
    assert device.state.level == 5


def test_a_state_for_a_device_that_takes_none():
    with pytest.raises(SnapshotError, match="rock has a saved state, but no save"):
        load_state(Silent(), GOOD)


def test_a_state_can_be_made_ready_and_loaded_many_times():
    device = Lamp()
    state = rich_state(device, GOOD)
    assert state == LampState(level=1)
    assert device.state.level == 0
