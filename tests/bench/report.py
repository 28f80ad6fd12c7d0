"""What a run of the benchmarks says: a table to read and JSON to keep."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure
from rich.console import Console
from rich.table import Table
from sampling import Comparison

import kvm_bindings

__all__ = ["Measured", "describe_host", "keep", "print_table", "to_json"]


@dataclass(frozen=True)
class Measured:
    """A figure and its rounds."""

    figure: Figure
    found: Comparison

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        target = self.figure.target
        return None if target is None else target.met(self.found.ratio)


def describe_host() -> dict[str, str]:
    """Name what the figures depend on."""
    modules = [name for name in ("kvm_amd", "kvm_intel", "kvm_pvm") if _module(name).is_dir()]
    return {
        "backend": "+".join(modules) or "unknown",
        "runner": kvm_bindings.runner_kind(),
        "cpu": _cpu_model(),
        "processors": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def print_table(host: dict[str, str], measured: list[Measured], left_out: dict[str, str]) -> None:
    """Print the figures, one a line, and what was left out."""
    console = Console(highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in host.items()), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    for heading in ("ours", "peer", "unit"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    table.add_column("ratio", justify="right")
    table.add_column("quartiles", justify="right")
    table.add_column("min..max", justify="right")
    table.add_column("target", justify="right")
    table.add_column("met")
    table.add_column("what, against what")
    for one in measured:
        figure, found = one.figure, one.found
        table.add_row(
            figure.name,
            _number(statistics.median(found.ours)),
            _number(statistics.median(found.peer)),
            figure.unit,
            f"{found.ratio:.2f}",
            _span(found.quartiles),
            _span(found.extremes),
            str(figure.target or ""),
            {None: "", True: "yes", False: "no"}[one.met],
            f"{figure.what} / {figure.peer}",
        )
    if measured:
        # A table that is cut to the width of a pipe says nothing.
        if not console.is_terminal:
            console.width = 200
        console.print(table)
    for name, reason in left_out.items():
        console.print(f"{name} is left out: {reason}", soft_wrap=True, markup=False)


def to_json(
    host: dict[str, str], measured: list[Measured], left_out: dict[str, str]
) -> dict[str, Any]:
    """Everything that was measured, every round of it."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": host,
        "figures": [
            {
                "name": one.figure.name,
                "what": one.figure.what,
                "peer": one.figure.peer,
                "unit": one.figure.unit,
                "ratio": one.found.ratio,
                "quartiles": one.found.quartiles,
                "extremes": one.found.extremes,
                "target": str(one.figure.target) if one.figure.target else None,
                "met": one.met,
                "rounds": {"ours": one.found.ours, "peer": one.found.peer},
            }
            for one in measured
        ],
        "left_out": left_out,
    }


def keep(result: dict[str, Any], folder: Path) -> Path:
    """Write a result to a file of its own in `folder`."""
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def _module(name: str) -> Path:
    return Path("/sys/module") / name


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f}..{ends[1]:.2f}"
