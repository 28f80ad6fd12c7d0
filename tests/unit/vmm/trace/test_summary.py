"""A summary counts exactly, and knows percentiles to within 3 %."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.trace.records import DTYPE
from vmm.trace.summary import _MOST_KEYS, Key, Summary

IO, HLT, MMIO = 2, 5, 6


def records(count: int, **fields):
    made = np.zeros(count, DTYPE)
    made["kind"] = 1
    made["reason"] = IO
    made["time_ns"] = np.arange(count) * 1000 + 5000
    for name, value in fields.items():
        made[name] = value
    return made


def test_exits_are_counted_by_reason_address_and_direction():
    summary = Summary()
    made = records(10, address=[0x3F8] * 6 + [0xFEE0_0000] * 2 + [7, 8])
    made["flags"][:4] = 1
    made["reason"][6:8] = MMIO
    made["reason"][8:] = HLT
    summary.add(made[:5])
    summary.add(made[5:])
    assert [(row.key, row.count) for row in summary.rows()] == [
        (Key(IO, 0x3F8, True), 4),
        (Key(IO, 0x3F8, False), 2),
        (Key(MMIO, 0xFEE0_0000, False), 2),
        (Key(HLT), 2),
    ]
    assert [(row.key, row.count) for row in summary.rows(lambda key: key.name)] == [
        ("IO", 6),
        ("MMIO", 2),
        ("HLT", 2),
    ]
    assert summary.exits == summary.total().count == 10
    assert summary.rows()[0].share == 0.4


def test_what_is_no_complete_exit_does_not_count():
    summary = Summary()
    made = records(4, kind=[1, 2, 16, 1], flags=[0, 0, 0, 4])
    summary.add(made)
    summary.add(made[:0])
    assert summary.exits == 1


def test_times_and_rates():
    summary = Summary()
    summary.add(records(5, guest_ns=1000, handler_ns=[100, 200, 300, 400, 1000], irqs=2))
    row = summary.total()
    assert (row.handler.total, row.handler.max, row.guest.total) == (2000, 1000, 5000)
    assert (summary.first_ns, summary.last_ns) == (4000, 10000)
    assert summary.rate == pytest.approx(5 / 6e-6)
    assert summary.irqs == 10


def test_shares_of_time_are_of_the_handlers():
    summary = Summary()
    summary.add(records(2, address=[1, 2], handler_ns=[100, 300]))
    assert {row.key.address: row.time_share for row in summary.rows()} == {1: 0.25, 2: 0.75}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=200), st.integers(1, 4))
def test_percentiles_are_close(times, batches):
    summary = Summary()
    made = records(len(times), handler_ns=times)
    for part in np.array_split(made, batches):
        summary.add(part)
    spread = summary.total().handler
    ordered = sorted(times)
    for percent, found in ((50, spread.p50), (95, spread.p95), (99, spread.p99)):
        rank = -(-len(ordered) * percent // 100) - 1
        assert found == pytest.approx(ordered[rank], rel=0.035)
    assert spread.max == ordered[-1]


@pytest.mark.parametrize("time", [*range(20), 31, 32, 33, 1 << 32, 1 << 43])
def test_short_times_are_exact(time):
    summary = Summary()
    summary.add(records(3, guest_ns=time, time_ns=1 << 50))
    assert summary.total().guest.p50 == pytest.approx(time, rel=0.03 if time > 32 else 0)


def test_an_empty_summary():
    summary = Summary()
    assert summary.rows() == []
    assert (summary.rate, summary.seconds, summary.total().handler.p99) == (0, 0, 0)


def test_further_addresses_are_counted_together():
    summary = Summary()
    count = _MOST_KEYS + 500
    summary.add(records(count, address=np.arange(count), flags=1))
    summary.add(records(100, address=np.arange(count, count + 100)))
    rows = summary.rows()
    assert rows[0].key == Key(IO, None, True)
    assert rows[0].count == 500
    assert Key(IO, None, False) in [row.key for row in rows]
    assert sum(row.count for row in rows) == count + 100
    assert len(rows) == _MOST_KEYS + 2


def test_any_numbers_can_be_counted():
    rng = np.random.default_rng(7)
    made = np.frombuffer(rng.bytes(64 * 500), DTYPE).copy()
    made["kind"] = 1
    summary = Summary()
    summary.add(made)
    assert summary.exits == sum(row.count for row in summary.rows())
    summary.rows(lambda key: key.name)
