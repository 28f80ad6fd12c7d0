"""Rates, histories and the words of the last access."""

from __future__ import annotations

import numpy as np
import pytest

from devices.uart16550 import Uart16550
from vmm.trace.decoder import Decoder
from vmm.trace.devicemap import DeviceMap, Place
from vmm.trace.records import DTYPE
from vmm.tui.tally import Tally

SECOND = 1_000_000_000


@pytest.fixture
def tally() -> Tally:
    place = Place("port", 0x3F8, 0x400, 0x3F8, "com1", Uart16550.registers)
    return Tally(Decoder(DeviceMap([place]), np.empty(0, DTYPE), from_start=True))


def test_rates_are_those_of_the_last_full_second(tally, make_records):
    tally.at(10 * SECOND)
    tally.add(make_records(100))
    assert tally.rate == 0
    tally.at(11 * SECOND + 5)
    assert tally.rate == 100
    tally.add(make_records(40))
    tally.at(13 * SECOND)  # two seconds later
    assert tally.rate == 20
    (row,) = tally.reasons
    assert (row.count, row.rate) == (140, 20)
    assert list(row.history) == [100, 20, 20]


def test_a_minute_is_remembered(tally, make_records):
    for second in range(100):
        tally.at(second * SECOND)
        tally.add(make_records(second))
    (row,) = tally.reasons
    assert len(row.history) == 60
    assert row.history[-1] == 98


def test_places_tell_their_last_access(tally, make_records):
    tally.add(make_records(10))
    told = {row.where: row for row in tally.places}
    assert told.keys() == {"out 0x3f8", "in 0x3fd"}
    assert told["out 0x3f8"].what == "THR = 0x45"  # the fifth letter
    assert told["in 0x3fd"].what == "LSR = THRE|TEMT"
    assert {row.name for row in told.values()} == {"com1"}
    assert sum(row.share for row in told.values()) == pytest.approx(1.0)


def test_a_copy_is_counted_on_by_itself(tally, make_records):
    tally.add(make_records(10))
    other = tally.copy()
    other.add(make_records(5))
    assert (tally.summary.exits, other.summary.exits) == (10, 15)
    assert other.devices is tally.devices


def test_totals_name_reasons_places_and_times(tally, make_records):
    tally.add(make_records(10))
    totals = tally.totals()
    assert totals["exits: IO"] == 10
    assert totals["places: com1 out 0x3f8"] == 5
    assert totals["time: IO, guest"] == 50_000


def test_tables_of_thousands_of_addresses_are_made_seldom(tally, make_records, monkeypatch):
    clock = [0.0]

    def monotonic():
        clock[0] += 0.05  # as long as it takes
        return clock[0]

    monkeypatch.setattr("vmm.tui.tally.time.monotonic", monotonic)
    tally.add(make_records(10))
    assert tally.reasons[0].count == 10
    tally.add(make_records(10))
    assert tally.reasons[0].count == 10
    clock[0] += 2.0
    assert tally.reasons[0].count == 20
