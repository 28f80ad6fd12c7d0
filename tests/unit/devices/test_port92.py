from __future__ import annotations

import pytest

from devices import StateError
from devices.port92 import PORT, Port92, Port92State

INIT, A20 = 0x01, 0x02


@pytest.fixture
def events():
    return []


@pytest.fixture
def port(events):
    return Port92(
        on_a20=lambda level: events.append(level), on_reset=lambda: events.append("reset")
    )


def test_starts_with_a20_open(port):
    assert PORT == 0x92
    assert port.read(0, 1) == A20
    assert port.a20


def test_a20_is_told_when_it_changes(port, events):
    port.write(0, 1, A20)
    assert events == []
    port.write(0, 1, 0)
    assert not port.a20
    port.write(0, 1, 0)
    port.write(0, 1, A20)
    assert events == [False, True]


def test_fast_a20_as_boot_loaders_do_it(port, events):
    port.write(0, 1, (port.read(0, 1) | A20) & ~INIT)
    assert port.read(0, 1) & A20
    assert events == []


def test_reset_on_the_rising_edge(port, events):
    port.write(0, 1, A20 | INIT)
    assert events == ["reset"]
    port.write(0, 1, A20 | INIT)
    assert events == ["reset"]
    port.write(0, 1, A20)
    port.write(0, 1, A20 | INIT)
    assert events == ["reset", "reset"]


def test_reset_opens_a20(port, events):
    port.write(0, 1, 0)
    port.reset()
    assert port.read(0, 1) == A20
    assert events == [False, True]


def test_load(port, events):
    port.load(Port92State(control=INIT))
    assert port.read(0, 1) == INIT
    assert events == [False], "the gate, and no reset"
    with pytest.raises(StateError):
        port.load(Port92State(control=256))
