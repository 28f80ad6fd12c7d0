"""Pictures of a trace: exits over time, how long they took, and which ports were busy when.

Each function makes a Matplotlib figure of a view; `save` writes it. Matplotlib is an optional
dependency: `pip install 'glassvm[plot]'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from vmm.errors import TraceError
from vmm.exits import exit_name
from vmm.trace.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "exits_over_time", "latency", "ports", "save"]

_BINS = 200
_MOST_SERIES = 6
_MOST_PLACES = 24
_OTHERS = "others"


def exits_over_time(view: View) -> Figure:
    """How many exits there were a second, by device or reason, over the time of the trace.

    Raises:
        TraceError: there are no exits, or Matplotlib is not installed.
    """
    figure, axes = _figure(view)
    edges, width = _time_edges(view)
    names, of_exit = _series(view)
    heights = [
        np.histogram(_seconds(view)[of_exit == index], edges)[0] / width
        for index in range(len(names))
    ]
    # The last bin as well has two ends.
    heights = [np.append(height, height[-1:]) for height in heights]
    colors = _colors(names)
    axes.stackplot(edges, heights, labels=names, colors=colors, step="post", linewidth=0)
    axes.set(xlabel="seconds", ylabel="exits a second", title="exits over time")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _legend(axes)
    return figure


def latency(view: View) -> Figure:
    """How long exits took to be handled, by device or reason: a histogram on a logarithmic axis.

    Raises:
        TraceError: there are no exits, or Matplotlib is not installed.
    """
    figure, axes = _figure(view)
    times = np.maximum(view.exits["handler_ns"].astype(float), 1) / 1000
    names, of_exit = _series(view)
    low, high = np.log10(times.min()), np.log10(times.max())
    edges = np.logspace(low - 0.05, high + 0.05, 80)
    axes.hist(
        [times[of_exit == index] for index in range(len(names))],
        edges,
        stacked=True,
        label=names,
        color=_colors(names),
    )
    for percent, line in ((50, ":"), (99, "--")):
        value = float(np.percentile(times, percent))
        axes.axvline(value, color="black", linestyle=line, linewidth=1)
        axes.annotate(
            f" p{percent} {value:.3g} µs",
            (value, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            rotation=90,
            ha="right",
            fontsize="small",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="µs in the handler", ylabel="exits", title="time to handle an exit")
    _legend(axes)
    return figure


def ports(view: View) -> Figure:
    """How busy each port and address was over time: a heat map, the busiest at the top.

    Raises:
        TraceError: no exit has an address, or Matplotlib is not installed.
    """
    addressed = view.exits[np.isin(view.exits["reason"], (KVM_EXIT_IO, KVM_EXIT_MMIO))]
    if not len(addressed):
        raise TraceError("no port and no address was used by the exits that were selected")
    figure, axes = _figure(view)
    edges, _ = _time_edges(view)
    keys = (addressed["address"] << np.uint64(3)) | addressed["reason"]
    found, counts = np.unique(keys, return_counts=True)
    busiest = found[np.argsort(-counts, kind="stable")][:_MOST_PLACES]
    seconds = view.seconds(addressed)
    rows = [np.histogram(seconds[keys == key], edges)[0] for key in busiest]
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_equal(np.array(rows), 0)
    picture = axes.pcolormesh(
        edges,
        np.arange(len(rows) + 1),
        shown,
        cmap="viridis",
        norm=LogNorm(vmin=1, vmax=max(int(shown.max()), 2)),
    )
    labels = [_place(view, int(key)) for key in busiest]
    axes.set_yticks(np.arange(len(rows)) + 0.5, labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_facecolor("0.96")
    axes.set(xlabel="seconds", title="ports and addresses over time")
    ms = (edges[1] - edges[0]) * 1000
    figure.colorbar(picture, ax=axes, label=f"exits in {ms:.3g} ms")
    return figure


KINDS = {"time": exits_over_time, "latency": latency, "ports": ports}
"""The pictures by name."""


def save(figure: Figure, path: str) -> None:
    """Write a figure as PNG, SVG or PDF, by the file's name.

    Raises:
        TraceError: it cannot be written.
    """
    if path.rpartition(".")[2].lower() not in ("png", "svg", "pdf"):
        raise TraceError(f"{path}: the name of a picture ends in .png, .svg or .pdf")
    from matplotlib import rc_context

    try:
        with rc_context({"svg.fonttype": "none"}):  # words stay words
            figure.savefig(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(f"{path}: cannot be written: {why}") from None


def _figure(view: View) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TraceError(
            "plots need Matplotlib, which is not installed: pip install 'glassvm[plot]'"
        ) from None
    if not len(view):
        raise TraceError("there is nothing to be drawn: no exits were selected")
    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colors(names: list[str]) -> list[str]:
    return ["0.6" if name == _OTHERS else f"C{place}" for place, name in enumerate(names)]


def _legend(axes: Any) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _seconds(view: View) -> NDArray[np.float64]:
    return view.seconds(view.exits)


def _time_edges(view: View) -> tuple[NDArray[np.float64], float]:
    """The bins of the time axis, and their width in seconds."""
    seconds = _seconds(view)
    low, high = float(seconds.min()), float(seconds.max())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return edges, float(edges[1] - edges[0])


def _series(view: View) -> tuple[list[str], NDArray[np.intp]]:
    """The names that exits are coloured by, and which of them each exit has: devices where exits
    have addresses, reasons elsewhere; the rarer ones together."""
    exits, devices = view.exits, view.devices
    addressed = np.isin(exits["reason"], (KVM_EXIT_IO, KVM_EXIT_MMIO))
    keys = np.where(addressed, exits["address"] << np.uint64(8), 0) | exits["reason"]
    found, which = np.unique(keys, return_inverse=True)
    names = [
        devices.name_at(int(key) & 0xFF, int(key) >> 8) or exit_name(int(key) & 0xFF)
        for key in found
    ]
    totals: dict[str, int] = {}
    for name, count in zip(names, np.bincount(which), strict=True):
        totals[name] = totals.get(name, 0) + int(count)
    order = sorted(totals, key=lambda name: -totals[name])
    kept = order if len(order) <= _MOST_SERIES else [*order[: _MOST_SERIES - 1], _OTHERS]
    places = {name: min(place, len(kept) - 1) for place, name in enumerate(order)}
    return kept, np.array([places[name] for name in names], np.intp)[which]


def _place(view: View, key: int) -> str:
    reason, address = key & 7, key >> 3
    name = view.devices.name_at(reason, address)
    return f"{address:#x} {name}".strip()
