"""The figures of `vmm stat`: the data, and the text that is made of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vmm.cli.figures import exit_figures, kvm_figures, lines
from vmm.trace.devicemap import DeviceMap
from vmm.trace.records import DTYPE
from vmm.trace.summary import Summary

IO, HLT, MMIO = 2, 5, 6
LSR = {"name": "LSR", "offset": 5, "size": 1, "access": "r", "reset": 0x60}
DEVICES = DeviceMap.from_meta(
    {
        "devices": [
            {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8},
            {"name": "sensor", "bus": "MMIO", "start": 0xD000_0000, "end": 0xD000_1000,
             "base": 0xD000_0000},
        ],
        "registers": {"com1": [LSR]},
    }
)  # fmt: skip


def _summary(*exits: tuple[int, int, bool, int, int], vcpu: int = 0) -> Summary:
    """Exits given as reason, address, write, guest_ns, handler_ns."""
    records = np.zeros(len(exits), DTYPE)
    for number, (reason, address, write, guest, handler) in enumerate(exits):
        record = records[number]
        record["time_ns"] = 1_000_000 + 1000 * number
        record["reason"], record["address"], record["flags"] = reason, address, int(write)
        record["guest_ns"], record["handler_ns"] = guest, handler
        record["kind"], record["size"], record["count"], record["vcpu"] = 1, 1, 1, vcpu
    summary = Summary()
    summary.add(records)
    return summary


@pytest.fixture
def figures() -> dict[str, Any]:
    summary = _summary(
        *[(IO, 0x3FD, False, 100, 40_000_000)] * 6,
        *[(IO, 0x3F8, True, 300, 2_000)] * 2,
        (MMIO, 0xD000_0010, True, 5_000, 500),
        (HLT, 0, False, 1_000_000_000, 0),
    )
    return exit_figures(summary, DEVICES, 2.0)


def test_what_is_counted(figures: dict[str, Any]) -> None:
    assert (figures["exits"], figures["rate"], figures["vcpus"]) == (10, 5.0, {"0": 10})
    assert [(row["reason"], row["count"], row["rate"]) for row in figures["reasons"]] == [
        ("IO", 8, 4.0),
        ("MMIO", 1, 0.5),
        ("HLT", 1, 0.5),
    ]
    assert figures["reasons"][0]["share"] == 0.8
    assert figures["reasons"][0]["busy"] == pytest.approx(0.12, rel=1e-4)  # 6 * 40 ms of 2 s
    assert figures["reasons"][0]["handler_ns"]["max"] == 40_000_000
    assert figures["reasons"][2]["guest_ns"]["total"] == 1_000_000_000


def test_by_device_and_by_address(figures: dict[str, Any]) -> None:
    assert [(row["device"], row["count"]) for row in figures["devices"]] == [
        ("com1", 8),
        ("sensor", 1),
    ]
    assert [
        (row["bus"], row["address"], row["write"], row["device"], row["count"])
        for row in figures["addresses"]
    ] == [
        ("port", 0x3FD, False, "com1", 6),
        ("port", 0x3F8, True, "com1", 2),
        ("MMIO", 0xD000_0010, True, "sensor", 1),
    ]


def test_the_figures_are_json(figures: dict[str, Any]) -> None:
    assert json.loads(json.dumps(figures)) == figures


def test_no_exits_and_no_time() -> None:
    figures = exit_figures(Summary(), DeviceMap(), 0.0)
    assert (figures["exits"], figures["rate"], figures["busy"]) == (0, 0.0, 0.0)
    assert lines(figures) == [
        "0 exits in 0.000 s, 0/s; 0.0% of a processor to handle them; 0 interrupt lines raised"
    ]


def test_the_text(figures: dict[str, Any]) -> None:
    text = "\n".join(lines(figures))
    assert "10 exits in 2.000 s, 5/s; 12.0% of a processor" in text
    rows = [line.split() for line in text.splitlines()]
    assert rows[3][:5] == ["IO", "8", "4", "80.0%", "12.0%"]
    assert rows[5][:5] == ["HLT", "1", "0", "10.0%", "0.0%"]
    assert rows[5][-1] == "0"
    assert ["com1", "8", "4", "80.0%"] in [row[:4] for row in rows]
    assert "port 0x3fd read com1" in text
    assert "MMIO 0xd0000010 write sensor" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_great_many_addresses_are_told_together() -> None:
    exits = [(IO, port, True, 1, 1) for port in range(200)]
    figures = exit_figures(_summary(*exits), DeviceMap(), 1.0)
    assert len(figures["addresses"]) == 200
    text = lines(figures)
    assert sum("port 0x" in line for line in text) == 12
    (rest,) = (line.split() for line in text if "more" in line)
    assert rest[:3] == ["188", "more", "188"]


def test_records_that_were_missed_are_told(figures: dict[str, Any]) -> None:
    figures["missed"] = 1234
    assert "1,234 records were overwritten before they were read" in lines(figures)


COUNTERS = {
    "vcpu0": {
        "exits": {"kind": "cumulative", "unit": ""},
        "halts": {"kind": "logarithmic histogram", "unit": "ns"},
        "now": {"kind": "instant", "unit": "boolean"},
        "most": {"kind": "peak", "unit": ""},
    }
}


def test_counters_that_grow_are_told_since_the_last_look() -> None:
    before = {"vcpu0": {"exits": 10, "halts": [1, 2], "now": 7, "most": 9}}
    now = {"vcpu0": {"exits": 25, "halts": [4, 2], "now": 5, "most": 9, "unheard_of": 1}}
    assert kvm_figures(now, COUNTERS, before) == {
        "vcpu0": {
            "exits": {"value": 15, "kind": "cumulative", "unit": ""},
            "halts": {"value": [3, 0], "kind": "logarithmic histogram", "unit": "ns"},
            "now": {"value": 5, "kind": "instant", "unit": "boolean"},
            "most": {"value": 9, "kind": "peak", "unit": ""},
        }
    }
    values = {
        name: counter["value"] for name, counter in kvm_figures(now, COUNTERS)["vcpu0"].items()
    }
    assert values == {"exits": 25, "halts": [4, 2], "now": 5, "most": 9}


def _counter(value: Any, kind: str = "cumulative", unit: str = "") -> dict[str, Any]:
    return {"value": value, "kind": kind, "unit": unit}


def test_kvm_counters_as_text(figures: dict[str, Any]) -> None:
    figures["kvm"] = {
        "vm": {"pages": _counter(3, "instant"), "none": _counter(0)},
        "vcpu0": {"halt_wait_ns": _counter(12345, unit="ns"), "hist": _counter([1, 2])},
    }
    text = lines(figures)
    assert "KVM, vm" in text
    assert [line.split() for line in text if "halt_wait" in line] == [
        ["halt_wait_ns", "12,345", "ns"]
    ]
    assert not any("none" in line or "hist" in line for line in text)


def test_hardware_exits_as_text(figures: dict[str, Any]) -> None:
    figures["hardware"] = {
        "total": 30, "entries": 31, "lost": 4, "reasons": {"NPF": 6, "IOIO": 20},
    }  # fmt: skip
    text = lines(figures)
    at = text.index("30 hardware exits, 31 entries; 4 came too fast to be told by reason")
    assert [line.split() for line in text[at + 1 :]] == [["IOIO", "20"], ["NPF", "6"]]
    figures["hardware"] = {"unavailable": "tracefs is not mounted"}
    assert lines(figures)[-1] == "hardware exits are not counted: tracefs is not mounted"
