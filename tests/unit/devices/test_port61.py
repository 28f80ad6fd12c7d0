from __future__ import annotations

import pytest

from devices import StateError
from devices.port61 import PORT, Port61, Port61State

GATE2, SPEAKER, REFRESH, OUT2 = 0x01, 0x02, 0x10, 0x20


class Surroundings:
    def __init__(self):
        self.now = 0
        self.gates = []
        self.output = False
        self.port = Port61(
            clock=lambda: self.now, pit_gate=self.gates.append, pit_output=lambda: self.output
        )


@pytest.fixture
def pc():
    return Surroundings()


def test_four_bits_are_kept(pc):
    assert PORT == 0x61
    pc.port.write(0, 1, 0xFF)
    assert pc.port.read(0, 1) == 0x0F
    pc.port.write(0, 1, 0x00)
    assert pc.port.read(0, 1) == 0x00


def test_the_refresh_bit_toggles_every_15_microseconds(pc):
    toggles = 0
    last = pc.port.read(0, 1) & REFRESH
    for pc.now in range(0, 1_000_000, 1000):
        now = pc.port.read(0, 1) & REFRESH
        toggles += now != last
        last = now
    assert toggles == 1_000_000 // 15_085


def test_the_timer_behind_it(pc):
    pc.port.write(0, 1, GATE2)
    pc.port.write(0, 1, GATE2 | SPEAKER)
    assert pc.gates == [True]
    assert not pc.port.read(0, 1) & OUT2
    pc.output = True
    assert pc.port.read(0, 1) & OUT2
    pc.port.write(0, 1, 0)
    assert pc.gates == [True, False]


def test_without_a_timer_its_output_is_high():
    """SeaBIOS waits for it to rise."""
    port = Port61(clock=lambda: 0)
    port.write(0, 1, GATE2)
    assert port.read(0, 1) == GATE2 | OUT2


def test_reset_and_load(pc):
    pc.port.write(0, 1, 0x0F)
    state = pc.port.save()
    pc.port.reset()
    assert pc.port.read(0, 1) == 0
    assert pc.gates == [True, False]
    pc.port.load(state)
    assert pc.port.read(0, 1) == 0x0F
    assert pc.gates == [True, False, True]
    with pytest.raises(StateError):
        pc.port.load(Port61State(control=0x10))
