"""The table of exits that `vmm run --stats` prints at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kvm_bindings import constants as c
from vmm.cli.messages import discard
from vmm.exits import exit_name

if TYPE_CHECKING:
    from vmm.counts import ExitCounts
    from vmm.machine import Machine
    from vmm.result import RunResult

__all__ = ["print_stats"]

_MOST_ROWS = 16


def print_stats(machine: Machine, counts: ExitCounts, result: RunResult) -> None:
    """Print exits by reason and address, most frequent first, to standard error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="exits", title_justify="left", box=None, pad_edge=False)
    for heading in ("reason", "where", "device", ""):
        table.add_column(heading, no_wrap=True)
    for heading in ("count", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = counts.by_address.most_common()
    for (reason, address, write), count in rows[:_MOST_ROWS]:
        where, owner, verb = "", "", ""
        if reason in (c.KVM_EXIT_IO, c.KVM_EXIT_MMIO):
            bus = machine.pio if reason == c.KVM_EXIT_IO else machine.mmio
            mapping = bus.find(address)
            where = f"{address:#x}"
            owner = mapping.name if mapping else "nobody"
            verb = "write" if write else "read"
        share = f"{100 * count / max(counts.total, 1):.1f}%"
        table.add_row(exit_name(reason), where, owner, verb, f"{count:,}", share)
    if len(rows) > _MOST_ROWS:
        rest = sum(count for _, count in rows[_MOST_ROWS:])
        table.add_row("others", "", "", "", f"{rest:,}", f"{100 * rest / counts.total:.1f}%")
    rate = f"{result.exits / result.seconds:,.0f}/s" if result.seconds else ""
    table.add_row("[bold]all[/]", "", "", "", f"[bold]{counts.total:,}[/]", rate)
    try:
        Console(file=sys.stderr, highlight=False).print(table)
    except OSError:
        discard(sys.stderr)
