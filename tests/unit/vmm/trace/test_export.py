"""What other programs are given: each format is read back by its own rules."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from contextlib import closing

import pytest

from devices.uart16550 import Uart16550
from vmm.errors import TraceError
from vmm.trace.export import export, format_of
from vmm.trace.reader import load
from vmm.trace.tables import table_to_data

HLT, MMIO = 5, 6
META = {
    "vmm": "0.1",
    "config": {"image": 'a "b"'},
    "devices": [
        {
            "name": "com1",
            "bus": "port",
            "start": 0x3F8,
            "end": 0x400,
            "base": 0x3F8,
            "registers": table_to_data(Uart16550.registers),
        }
    ],
}


@pytest.fixture
def trace(path, new_writer):
    writer = new_writer(path, vcpus=2)
    writer.trace.about = lambda: META
    writer.trace.describe()
    writer.text(b"Hi", handler_ns=1234)
    writer.exit(address=0x3FD, value=0x60, write=False, vcpu=1, irqs=2)
    writer.exit(MMIO, 0xFEE0_0000, (1 << 64) - 1, size=8, vcpu=1)
    writer.exit(HLT)
    writer.exit(data=b"a string of bytes", vcpu=1)
    # One that took longer than until the next: clocks of a host may say so.
    writer.exit(handler_ns=5000)
    writer.exit()
    writer.trace.note_irq(4, True)
    writer.trace.event(17, count=3)
    writer.close({"reason": "halt"})
    return load(path)


def test_chrome(trace, tmp_path, chrome_events):
    path = tmp_path / "out.json"
    export(trace, trace, str(path), "chrome")
    events = chrome_events(path)
    named = {e["tid"]: e["args"]["name"] for e in events["M"] if e["name"] == "thread_name"}
    assert named == {0: "machine", 1: "vCPU 0", 2: "vCPU 1"}
    (process,) = [e for e in events["M"] if e["name"] == "process_name"]
    assert process["args"] == {"name": 'glassvm a "b"'}
    slices = events["X"]
    assert len(slices) == len(trace)
    assert (slices[0]["ts"], slices[0]["dur"]) == (1.0, 1.234)
    assert slices[0]["name"] == "com1 out 0x3f8"
    (status,) = [e for e in slices if e["name"] == "com1 in 0x3fd"]
    assert status["args"] == {
        "guest_ns": 100, "value": "0x60", "size": 1, "meaning": "LSR = THRE|TEMT", "irqs": 2
    }  # fmt: skip
    assert [e["name"] for e in events["i"]] == ["irq 4 up", "input, 3 bytes"]


def test_csv(trace, tmp_path):
    path = tmp_path / "out.csv"
    export(trace, trace, str(path), "csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trace)
    assert [int(row["time_ns"]) for row in rows] == sorted(int(row["time_ns"]) for row in rows)
    assert rows[2] == {
        "time_ns": "3000", "vcpu": "1", "reason": "IO", "direction": "in", "address": "0x3fd",
        "size": "1", "elements": "1", "value": "0x60", "data": "", "device": "com1",
        "meaning": "LSR = THRE|TEMT", "guest_ns": "100", "handler_ns": "10", "irqs": "2", "rip": "",
    }  # fmt: skip
    assert rows[3]["value"] == "0xffffffffffffffff"
    assert bytes.fromhex(rows[5]["data"]) == b"a string of bytes"


def test_sqlite(trace, tmp_path):
    path = tmp_path / "out.sqlite"
    path.write_text("what was there before is replaced")
    export(trace, trace, str(path), "sqlite")
    with closing(sqlite3.connect(path)) as base:
        ask = lambda text: base.execute(text).fetchall()  # noqa: E731
        assert ask("select count(*) from exits") == [(len(trace),)]
        assert ask("select device, count(*) from exits group by device order by 2 desc") == [
            ("com1", 6), ("", 1), ("nobody", 1)
        ]  # fmt: skip
        assert ask("select value from exits where reason = 'MMIO'") == [(-1,)]
        assert ask("select data from exits where elements > 1") == [(b"a string of bytes",)]
        assert ask("select kind, address, count from events") == [("irq", 4, 0), ("input", 0, 3)]
        assert ask("select * from devices") == [("com1", "port", 0x3F8, 0x400, 0x3F8)]
        info = {key: json.loads(value) for key, value in ask("select * from info")}
    assert info["meta"] == META
    assert info["end"] == {"reason": "halt"}


def test_a_part_of_it(trace, tmp_path):
    path = tmp_path / "out.csv"
    export(trace, trace.where(device="com1", write=False), str(path), "csv")
    assert len(path.read_text().splitlines()) == 2


def test_standard_output(trace, capsys):
    export(trace, trace, "-", "csv")
    assert len(capsys.readouterr().out.splitlines()) == len(trace) + 1
    with pytest.raises(TraceError, match="database cannot be written to standard output"):
        export(trace, trace, "-", "sqlite")


@pytest.mark.parametrize("format", ["chrome", "csv", "sqlite"])
def test_where_it_cannot_be_written_nothing_is_left(trace, tmp_path, format):
    with pytest.raises(TraceError, match="cannot be written"):
        export(trace, trace, str(tmp_path / "no" / "out"), format)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match="cannot be written: Is a directory"):
        export(trace, trace, str(tmp_path / "folder"), format)
    assert sorted(os.listdir(tmp_path)) == ["folder", "t.vtrace"]


def test_formats_by_name():
    names = ("a.json", "a.CSV", "a.db", "x/a.sqlite", "a.txt", "json")
    assert [format_of(name) for name in names[:5]] == ["chrome", "csv", "sqlite", "sqlite", None]
