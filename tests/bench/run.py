"""Measure the monitor beside a VMM in C and beside QEMU.

Nothing passes or fails here: the figures are printed with their targets, and kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from figures import FIGURES, Bench, Figure
from peers import Unavailable
from report import Measured, describe_host, keep, print_table, to_json
from sampling import compare

from vmm.errors import VmmError
from vmm.kvm import open_kvm

_RESULTS = Path(__file__).resolve().parents[2] / "bench-results"
_FEWEST_ROUNDS = 7

_EPILOG = """\
A ratio is ours to the peer's, and the median over the rounds; in each round both sides are
measured one right after the other. Where both sides are one thread they share one processor.
Every round is kept as JSON in bench-results/. The exit status is 0 unless nothing could be
measured.

figures:
"""


def main() -> int:
    """Measure, print, keep; returns the exit status."""
    options = _parser().parse_args()
    try:
        open_kvm().close()
    except VmmError as error:
        print(f"bench: nothing can be measured: {error}", file=sys.stderr)
        return int(error.status)
    host = describe_host()
    bench = Bench(exits=4_000, machines=25) if options.quick else Bench(exits=20_000, machines=200)
    rounds = options.rounds or (_FEWEST_ROUNDS if options.quick else 15)
    measured: list[Measured] = []
    left_out: dict[str, str] = {}
    try:
        for figure in FIGURES:
            if options.only and figure.name not in options.only:
                continue
            try:
                measured.append(_measure(figure, bench, rounds))
            except (Unavailable, VmmError) as error:
                left_out[figure.name] = str(error)
    finally:
        shutil.rmtree(bench.folder)
    result = to_json(host, measured, left_out)
    path = keep(result, _RESULTS)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(host, measured, left_out)
        print(f"{rounds} rounds each; kept in {path.relative_to(_RESULTS.parent)}")
    return 0 if measured else 1


def _measure(figure: Figure, bench: Bench, rounds: int) -> Measured:
    began = time.monotonic()
    print(f"{figure.name} ...", end=" ", flush=True, file=sys.stderr)
    try:
        slices = figure.slices
        part = replace(bench, exits=bench.exits // slices, open=ExitStack())
        with part.open, figure.where():
            ours, peer = figure.prepare(part)
            return Measured(figure, compare(ours, peer, rounds * slices))
    finally:
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    width = max(len(figure.name) for figure in FIGURES)
    lines = [f"  {f.name:<{width}}  {f.what}, against: {f.peer}" for f in FIGURES]
    parser = argparse.ArgumentParser(
        prog="bench",
        description=__doc__,
        epilog=_EPILOG + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=[figure.name for figure in FIGURES],
        help="measure this figure alone; may be given more than once",
    )
    parser.add_argument("--rounds", metavar="N", type=_rounds, help="rounds (default: 15)")
    parser.add_argument("--quick", action="store_true", help="7 rounds with a fifth of the work")
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    return parser


def _rounds(text: str) -> int:
    count = int(text)
    if count < _FEWEST_ROUNDS:
        raise argparse.ArgumentTypeError(f"a spread needs {_FEWEST_ROUNDS} rounds or more")
    return count


if __name__ == "__main__":
    sys.exit(main())
