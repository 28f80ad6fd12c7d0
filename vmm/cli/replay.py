"""`vmm replay`: drive a recording's devices again and say where one does something else."""

from __future__ import annotations

import json
from dataclasses import asdict

from vmm.cli.options import Options
from vmm.playback import ReplayResult
from vmm.playback import replay as play

__all__ = ["replay"]

_DIFFERS = 1
"""As of cmp and diff: 0 is the same, 1 is not, 2 is trouble."""


def replay(options: Options) -> int:
    """Replay, report; returns 0 where all is as recorded, otherwise 1.

    Raises:
        VmmError: nothing can be replayed.
    """
    result = play(options.file, device=options.device)
    if options.json:
        print(json.dumps({"identical": result.identical, **asdict(result)}, indent=2))
    else:
        _report(result)
    return 0 if result.identical else _DIFFERS


def _report(result: ReplayResult) -> None:
    print(result)
    for name, count in result.skipped.items():
        print(f"not replayed: {name}, {count:,} accesses")
    if not result.complete:
        print("the recording was not closed: its last moments are missing")
