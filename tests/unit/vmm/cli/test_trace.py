"""`vmm trace`: what it prints, and what it says where there is nothing to print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.uart16550 import Uart16550
from vmm.cli.main import main
from vmm.trace.tables import table_to_data
from vmm.trace.trace import Trace

IO, HLT, EXIT = 2, 5, 1
META = {
    "backend": "kvm_amd",
    "config": {"image": "payload:x"},
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


def write(path: Path, text: bytes, *, close: bool = True) -> str:
    """A guest that waits for the transmitter, writes a byte, and halts in the end."""
    trace = Trace(1, str(path), 256)
    trace.about = lambda: META
    trace.describe()
    ring, now = trace.ring(0), int.from_bytes(trace.memory.memory[64:72], "little")
    for byte in text:
        for address, value, flags in ((0x3FD, 0x60, 0), (0x3F8, byte, 1)):
            now += 1_000_000
            times = (now, 5_000, address, value, 0, 2_000 + 100 * byte, 1)
            ring.add(*times, IO, 0, EXIT, 1, flags, 0)
    ring.add(now + 1_000_000, 10, 0, 0, 0, 500, 0, HLT, 0, EXIT, 0, 0, 0)
    ring.words[3] = ring.head
    if close:
        trace.close({"reason": "halt"})
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "t.vtrace", b"Hi")


def run(capsys, *arguments: str) -> str:
    assert main(["trace", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *arguments: str) -> str:
    assert main(["trace", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("vmm: ").rstrip("\n")


def test_summary(capsys, file):
    lines = run(capsys, "summary", file).splitlines()
    assert lines[0].split()[:4] == ["reason", "where", "device", "count"]
    assert lines[1].split()[:6] == ["IO", "0x3f8", "out", "com1", "2", "40.0%"]
    assert lines[3].split()[:3] == ["HLT", "1", "20.0%"]
    assert lines[4].split()[:2] == ["all", "5"]
    assert lines[5].startswith("5 exits in ")
    assert lines[6] == "the run ended: halt"


def test_summary_by_device_and_with_filters(capsys, file):
    lines = run(capsys, "summary", file, "--by", "device").splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["device", "count"], ["com1", "4"], ["HLT", "1"], ["all", "5"]
    ]  # fmt: skip
    lines = run(capsys, "summary", file, "--reason", "hlt").splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["HLT", "1"], ["all", "1"]]


def test_summary_of_many_rows(capsys, file):
    lines = run(capsys, "summary", file, "--top", "1").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["IO", "2", "all"]
    assert lines[2].split()[:4] == ["2", "more", "3", "60.0%"]


def test_summary_for_programs(capsys, file):
    facts = json.loads(run(capsys, "summary", file, "--json"))
    assert (facts["exits"], facts["backend"], facts["end"]) == (5, "kvm_amd", {"reason": "halt"})
    assert facts["rows"][0] | {"guest": 0, "handler": 0, "time_share": 0} == {
        "reason": "IO", "where": "0x3f8", "direction": "out", "device": "com1", "count": 2,
        "share": 0.4, "guest": 0, "handler": 0, "time_share": 0,
    }  # fmt: skip
    assert facts["rows"][0]["guest"]["p50_ns"] == pytest.approx(5000, rel=0.03)


def test_show(capsys, file):
    lines = run(capsys, "show", file).splitlines()
    assert len(lines) == 5
    assert lines[0].split()[0] == "0.001000"
    assert "vcpu0  IO in 0x3fd 1b 0x60 '`' com1  LSR = THRE|TEMT " in lines[0]
    assert lines[0].endswith("guest 5 µs, handled in 9.2 µs")
    assert "IO out 0x3f8 1b 0x48 'H' com1  THR = 0x48 " in lines[1]
    assert " HLT " in lines[4]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ("--port 0x3f8", 2),
        ("--port 0x3f8-0x3ff --read", 2),
        ("--device com1 --write --value 0x69", 1),
        ("--reason HLT", 1),
        ("--vcpu 0", 5),
        ("--slower 10us", 2),
        ("--since 2ms --until 4ms", 2),
        ("--last 2", 2),
        ("--first 1", 1),
        ("--port 0x3fd --last 9", 2),
    ],
)
def test_show_what_was_asked_for(capsys, file, filters, count):
    assert len(run(capsys, "show", file, *filters.split()).splitlines()) == count


def test_show_for_programs(capsys, file):
    lines = run(capsys, "show", file, "--json", "--write").splitlines()
    first, second = map(json.loads, lines)
    assert (first["value"], second["data"], first["meaning"]) == (0x48, "69", "THR = 0x48")
    assert (first["time_ns"], first["device"], first["write"]) == (2_000_000, "com1", True)


def test_export(capsys, file, tmp_path):
    run(capsys, "export", file, str(tmp_path / "a.json"))
    assert "traceEvents" in json.loads((tmp_path / "a.json").read_text())
    assert run(capsys, "export", file, "-", "--to", "csv", "--device", "com1").count("\n") == 5
    assert "format is wanted; give .json, .csv or .sqlite" in refused(
        capsys, "export", file, str(tmp_path / "a.txt")
    )
    assert "that is the trace itself" in refused(capsys, "export", file, file, "--to", "csv")


def test_plot(capsys, file, tmp_path):
    run(capsys, "plot", file, str(tmp_path / "a.svg"), "--kind", "ports")
    assert "0x3f8 com1" in (tmp_path / "a.svg").read_text()
    assert "ends in .png, .svg or .pdf" in refused(capsys, "plot", file, str(tmp_path / "a.gif"))


def test_diff(capsys, file, tmp_path):
    assert run(capsys, "diff", file, file) == "the same 5 exits in the same order\n"
    other = write(tmp_path / "u.vtrace", b"Ho!")
    assert main(["trace", "diff", file, other]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vcpu0: 3 exits are the same, then"
    assert lines[3].strip() == "IO in 0x3fd 1b 0x60 '`' com1  LSR = THRE|TEMT"
    assert lines[4] == "  A IO out 0x3f8 1b 0x69 'i' com1  THR = 0x69"
    assert "  B IO out 0x3f8 1b 0x6f 'o' com1  THR = 0x6f" in lines
    assert ["2", "3", "+1", "IO", "0x3f8", "out", "com1"] in [line.split() for line in lines]
    assert lines[-1].split() == ["5", "7", "+2", "all"]


def test_diff_for_programs(capsys, file, tmp_path):
    other = write(tmp_path / "u.vtrace", b"H")
    assert main(["trace", "diff", file, other, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["same"], facts["exits"], facts["partings"][0]["number"]) == (False, [5, 3], 2)
    assert facts["partings"][0]["b"] == ["HLT"]
    assert [count["address"] for count in facts["counts"]] == [0x3F8, 0x3FD]


def test_a_trace_that_was_not_closed_says_so(capsys, tmp_path):
    file = write(tmp_path / "t.vtrace", b"Hi", close=False)
    assert main(["trace", "show", file]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert captured.err == (
        f"vmm: {file}: the trace was not closed: the machine runs or was killed\n"
    )


def test_what_cannot_be_done_is_one_line(capsys, file, tmp_path):
    assert "no such file; 'vmm run IMAGE --trace" in refused(capsys, "show", "/no/such")
    assert "not a trace; 'vmm run IMAGE" in refused(capsys, "summary", __file__)
    assert refused(capsys, "show", file, "--device", "rtc") == (
        "no device rtc in the trace; there are com1"
    )
    assert "no exit reason FOO; the usual ones are IO, MMIO, HLT" in refused(
        capsys, "show", file, "--reason", "FOO"
    )
    assert refused(capsys, "show", file, "--port", "0x60") == (
        f"{file}: none of its 5 exits is as asked; 'vmm trace summary {file}' tells which there are"
    )
