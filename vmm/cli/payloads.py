"""`vmm payloads`: the guests that come with the package."""

from __future__ import annotations

import json

from firmware.payloads import PAYLOADS
from vmm.cli.options import Options

__all__ = ["payloads"]


def payloads(options: Options) -> int:
    """Print name and summary of each built-in guest."""
    if options.json:
        rows = [{"name": name, "summary": one.summary} for name, one in PAYLOADS.items()]
        print(json.dumps(rows, indent=2))
        return 0
    width = max(len(name) for name in PAYLOADS)
    for name, one in PAYLOADS.items():
        print(f"payload:{name:<{width}}  {one.summary}")
    return 0
