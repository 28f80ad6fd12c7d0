"""The pictures hold what they promise, and are written as PNG and SVG."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vmm.errors import TraceError
from vmm.trace import plot
from vmm.trace.reader import load

HLT, MMIO = 5, 6
MS = 1_000_000


@pytest.fixture
def trace(path, new_writer):
    writer = new_writer(path)
    com1 = {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8}
    writer.trace.about = lambda: {"devices": [com1]}
    writer.trace.describe()
    for number in range(200):
        writer.exit(value=number, at_ns=number * MS, handler_ns=1000 + 50 * number)
    for number in range(50):
        writer.exit(MMIO, 0xFEE0_0000, at_ns=(200 + number) * MS)
    writer.exit(HLT, at_ns=300 * MS)
    writer.close()
    return load(path)


@pytest.mark.parametrize("kind", plot.KINDS)
@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_it_is_drawn(trace, tmp_path, kind, suffix, begins):
    path = tmp_path / f"picture.{suffix}"
    plot.save(plot.KINDS[kind](trace), str(path))
    data = path.read_bytes()
    assert data.startswith(begins)
    assert len(data) > 5000


def test_exits_over_time_add_up(trace):
    (axes,) = plot.exits_over_time(trace).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["com1", "nobody", "HLT"]
    (areas, _, _) = axes.collections
    heights = areas.get_paths()[0].vertices[:, 1]
    # The first 200 ms of 300 have an exit in each of them, of com1: 1000 a second.
    assert heights.max() == pytest.approx(1000, rel=0.5)


def test_every_exit_is_in_the_histogram(trace):
    (axes,) = plot.latency(trace).axes
    assert sum(patch.get_height() for patch in axes.patches) >= 251
    shown = {text.get_text().split()[0] for text in axes.texts}
    assert shown == {"p50", "p99"}


def test_the_heat_map_names_the_ports(trace):
    axes, _ = plot.ports(trace).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["0x3f8 com1", "0xfee00000 nobody"]
    (mesh,) = axes.collections
    assert np.ma.filled(mesh.get_array(), 0).sum(axis=1).tolist() == [200, 50]


def test_what_cannot_be_drawn_is_told_in_a_line(trace, tmp_path, monkeypatch):
    for kind in plot.KINDS.values():
        with pytest.raises(TraceError, match=r"no exits were selected|no port and no address"):
            kind(trace.where(port=5))
    with pytest.raises(TraceError, match="no port and no address"):
        plot.ports(trace.where(reason="HLT"))
    figure = plot.latency(trace)
    with pytest.raises(TraceError, match=r"ends in \.png, \.svg or \.pdf"):
        plot.save(figure, "picture.txt")
    with pytest.raises(TraceError, match="cannot be written: No such file"):
        plot.save(figure, str(tmp_path / "no" / "a.png"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TraceError, match=r"pip install 'glassvm\[plot\]'"):
        plot.latency(trace)


def test_one_exit_is_enough(path, new_writer):
    writer = new_writer(path)
    writer.exit(handler_ns=0)
    writer.close()
    trace = load(path)
    for kind in plot.KINDS.values():
        assert kind(trace).axes
