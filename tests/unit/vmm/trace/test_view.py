"""Exits are selected by what they are, and by when and how long."""

from __future__ import annotations

import numpy as np
import pytest

from vmm.errors import TraceError
from vmm.trace.reader import load

HLT, MMIO = 5, 6
COM1 = {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8}
MS = 1_000_000


@pytest.fixture
def trace(path, new_writer):
    """Ten exits, one each millisecond."""
    writer = new_writer(path, vcpus=2)
    writer.trace.about = lambda: {"devices": [COM1]}
    writer.trace.describe()
    exits = (
        {"value": 0x41},
        {"value": 0x42, "handler_ns": 500},
        {"address": 0x3FD, "value": 0x60, "write": False},
        {"address": 0x3FE, "value": 0, "write": False, "vcpu": 1},
        {"reason": MMIO, "address": 0x3F8, "value": 0x1234, "size": 2},
        {"reason": MMIO, "address": 0xFEE0_0000, "value": 7, "size": 4, "write": False},
        {"reason": HLT, "vcpu": 1, "address": 0x3F8},
        {"address": 0x80, "value": 0x41, "handler_ns": 9000},
        {"data": b"string of bytes"},
        {"reason": HLT, "address": 0},
    )
    for number, options in enumerate(exits):
        writer.exit(**options, at_ns=number * MS)
    writer.close()
    return load(path)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, range(10)),
        ({"reason": "IO"}, [0, 1, 2, 3, 7, 8]),
        ({"reason": "kvm_exit_hlt"}, [6, 9]),
        ({"reason": 6}, [4, 5]),
        ({"port": 0x3F8}, [0, 1, 8]),
        ({"port": range(0x3F8, 0x3FE)}, [0, 1, 2, 8]),
        ({"port": {0x80, 0x3FD, -1, 1 << 70}}, [2, 7]),
        ({"port": range(-5, 3)}, []),
        ({"mmio": 0x3F8}, [4]),
        ({"mmio": range(0xFEE0_0000, 0xFEE0_1000)}, [5]),
        ({"port": 0x3F8, "mmio": 0x3F8}, []),
        ({"device": "com1"}, [0, 1, 2, 3, 8]),
        ({"device": "nobody"}, [4, 5, 7]),
        ({"write": True}, [0, 1, 4, 7, 8]),
        ({"write": False}, [2, 3, 5]),
        ({"size": 2}, [4]),
        ({"value": 0x41}, [0, 7]),
        ({"value": -1}, []),
        ({"value": 1 << 64}, []),
        ({"vcpu": 1}, [3, 6]),
        ({"vcpu": 9}, []),
        ({"since": 0.007}, [7, 8, 9]),
        ({"until": 0.002}, [0, 1]),
        ({"since": 0.002, "until": 0.004}, [2, 3]),
        ({"since": -5.0}, range(10)),
        ({"slower_than_ns": 499}, [1, 7]),
        ({"slower_than_ns": 500}, [7]),
        ({"device": "com1", "write": True, "value": 0x42}, [1]),
    ],
)
def test_where(trace, filters, expected):
    view = trace.where(**filters)
    assert [round((e.time_ns - trace.begun_ns) / MS) for e in view] == list(expected)
    assert len(view) == len(expected)
    # A selection can be selected from.
    assert len(view.where(**filters)) == len(expected)


def test_values(trace):
    assert trace.where(port=0x3F8, write=True).values == b"ABstring of bytes"
    assert trace.where(port=0x3FD).values == b"\x60"
    assert trace.where(vcpu=7).values == b""
    assert trace.where(mmio=range(1 << 52)).values.tolist() == [0x1234, 7]
    wide = trace.where(size=1).where(port=0x3F8).values
    assert isinstance(wide, bytes)


def test_percentiles_are_exact(trace):
    times = [10, 500, 10, 10, 10, 10, 10, 9000, 10, 10]
    for percent in (0, 50, 95, 100):
        assert trace.percentile("handler_ns", percent) == np.percentile(times, percent)
    with pytest.raises(TraceError, match="choose guest_ns or handler_ns"):
        trace.percentile("value", 5)
    with pytest.raises(TraceError, match="no exits were selected"):
        trace.where(vcpu=7).percentile("guest_ns", 5)


def test_what_is_not_there_is_said(trace):
    with pytest.raises(TraceError, match="no device rtc in the trace; there are com1"):
        trace.where(device="rtc")
    with pytest.raises(TraceError, match="no exit reason IOO; the usual ones are IO, MMIO, HLT"):
        trace.where(reason="IOO")


def test_it_is_an_array(trace):
    assert trace.exits["address"].max() == 0xFEE0_0000
    assert trace.seconds(trace.exits).tolist() == pytest.approx([n / 1000 for n in range(10)])
    assert repr(trace.where(vcpu=1)) == "<View: 2 exits: IO in 0x3fe 1b 0x0; HLT>"
