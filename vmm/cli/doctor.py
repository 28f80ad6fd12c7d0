"""`vmm doctor`: what this host can do, and the fix for each problem."""

from __future__ import annotations

import json
import sys

from vmm.cli.options import Options
from vmm.doctor import diagnose

__all__ = ["doctor"]

_STYLES = {"! ": "bold red", "- ": "yellow"}


def doctor(options: Options) -> int:
    """Print the diagnosis; returns 0 where guests can run, otherwise 4."""
    diagnosis = diagnose(probe=not options.no_probe)
    if options.json:
        print(json.dumps(diagnosis.to_dict(), indent=2))
        return diagnosis.status
    if not sys.stdout.isatty():
        print("\n".join(diagnosis.lines()))
        return diagnosis.status
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in diagnosis.lines():
        console.print(line, style=_STYLES.get(line[:2], ""), markup=False)
    return diagnosis.status
