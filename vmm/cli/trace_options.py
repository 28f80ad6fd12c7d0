"""The options of `vmm trace`, which are read only where they are wanted."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from vmm.cli import trace_help as texts
from vmm.cli.values import addresses, count, duration_ns, one_of
from vmm.errors import ConfigError

__all__ = ["add_trace_commands"]

Add = Callable[[str, str, str, str, str], argparse.ArgumentParser]
"""Makes a command's parser: name, what it takes, summary, description, epilog."""

_GROUPS = ("address", "device", "reason")


def add_trace_commands(add: Add) -> None:
    """Declare `summary`, `show`, `export`, `diff` and `plot`."""
    summary = add("summary", "FILE", "count exits, with their times", *texts.SUMMARY)
    _file(summary)
    summary.add_argument(
        "--by",
        metavar="|".join(_GROUPS),
        type=one_of("--by", _GROUPS),
        default="address",
        help="what to count by (default: address)",
    )
    summary.add_argument(
        "--top", metavar="N", type=count("--top"), help="so many rows (default: 30)"
    )
    summary.add_argument("--json", action="store_true", help="print JSON")
    _filters(summary)

    show = add("show", "FILE", "print exits, one a line", *texts.SHOW)
    _file(show)
    show.add_argument("--first", metavar="N", type=count("--first"), help="only the first N")
    show.add_argument("--last", metavar="N", type=count("--last"), help="only the last N")
    show.add_argument("--json", action="store_true", help="print JSON, one object a line")
    _filters(show)

    export = add("export", "FILE OUTPUT", "write it for other programs", *texts.EXPORT)
    _file(export)
    export.add_argument("output", metavar="OUTPUT", help="the file to write; - for standard output")
    export.add_argument(
        "--to",
        metavar="chrome|csv|sqlite",
        type=one_of("--to", ("chrome", "csv", "sqlite")),
        help="the format (default: by the name: .json, .csv, .sqlite)",
    )
    _filters(export)

    diff = add("diff", "A B", "say where two runs part", *texts.DIFF)
    diff.add_argument("a", metavar="A", help="a trace")
    diff.add_argument("b", metavar="B", help="another one")
    diff.add_argument("--json", action="store_true", help="print JSON")

    plot = add("plot", "FILE PICTURE", "draw it", *texts.PLOT)
    _file(plot)
    plot.add_argument("picture", metavar="PICTURE", help="the picture to write: .png, .svg or .pdf")
    plot.add_argument(
        "--kind",
        metavar="time|latency|ports",
        type=one_of("--kind", ("time", "latency", "ports")),
        default="time",
        help="exits over time, how long they took, or a heat map of ports (default: time)",
    )
    _filters(plot)


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what 'vmm run --trace FILE' wrote")


def _filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which exits (all, unless given)").add_argument
    add("--reason", metavar="NAME", help="IO, MMIO, HLT ...")
    add("--port", metavar="PORT", type=addresses("--port"), help="0x3f8, or 0x3f8-0x3ff")
    add(
        "--mmio", metavar="ADDR", type=addresses("--mmio"), help="a guest-physical address or range"
    )
    add("--device", metavar="NAME", help="com1, rtc ...; nobody: what no device claims")
    add("--write", action="store_const", const=True, help="what the guest wrote")
    add("--read", action="store_const", const=False, dest="write", help="what it read")
    add("--value", metavar="N", type=_number("--value"), help="what was written or answered")
    add("--vcpu", metavar="N", type=_number("--vcpu"), help="the number of the processor")
    add(
        "--since", metavar="TIME", type=duration_ns("--since"), help="from 1.5s on, as 'show' tells"
    )
    add("--until", metavar="TIME", type=duration_ns("--until"), help="before 200ms")
    add("--slower", metavar="TIME", type=duration_ns("--slower"), help="took longer than 10us")


def _number(option: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            return int(text, 0)
        except ValueError:
            raise ConfigError(f"{option} {text}: not a number; write 65 or 0x41") from None

    return read
