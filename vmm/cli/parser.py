"""The command line: what can be said, and one line for what cannot."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from vmm.cli import help as texts
from vmm.cli.values import address, close_to, count, one_of, seconds
from vmm.errors import ConfigError

__all__ = ["COMMANDS", "build_parser", "parse"]

COMMANDS = (
    *("run", "trace", "top", "ps", "stat", "pause", "resume", "stop"),
    *("replay", "doctor", "payloads"),
)
TRACE_COMMANDS = ("summary", "show", "export", "diff", "plot")

FORMATS = (
    *("auto", "bootsector", "flat16", "flat32", "flat64", "elf32", "elf64"),
    *("multiboot", "multiboot2", "firmware"),
)

_DEBUG_HELP = "show what is set up for a guest, and tracebacks of errors"

_TAKES_ANYTHING = ("--cpu", "--append")
"""Options whose value may begin with a dash: `--cpu -cx16,-xsave`."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse asks shutil how wide the terminal is, for every option that is added. To import
    that costs as much as a virtual machine."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns
        except (OSError, ValueError):
            columns = 0
        super().__init__(prog, width=min(max(columns or 80, 40), 100) - 2)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, and no usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            ConfigError: always.
        """
        message = message.removeprefix("argument ")
        if "arguments are required" in message:
            message = f"{message.rpartition(': ')[2]} is missing"
        raise ConfigError(f"{message}; see '{self.prog} --help'")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: it is wrong; the message says what would be right.
    """
    arguments = _join_values(arguments)
    words = (argument for argument in arguments if not argument.startswith("-"))
    first, second = next(words, None), next(words, None)
    parser = build_parser(first)
    if first is not None and first not in COMMANDS:
        raise ConfigError(_no_command(first))
    if first == "trace" and second is not None and second not in TRACE_COMMANDS:
        raise ConfigError(_no_trace_command(second))
    options, rest = parser.parse_known_args(arguments)
    if rest:
        raise ConfigError(_left_over(rest, parser, options))
    if options.command is None:
        raise ConfigError("no command given; see 'vmm --help'")
    if options.command == "trace" and options.trace_command is None:
        raise ConfigError("no command given; see 'vmm trace --help'")
    return options


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the whole command; where that is `run`, of this alone: a guest that says
    hello and ends is there as long as the options of the others take. The commands of `vmm trace`
    are there where it is that."""
    parser = _parser("vmm", "vmm COMMAND [options]", texts.DESCRIPTION, texts.EPILOG)
    parser.add_argument(
        "--version",
        action=_ShowVersion,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show the version",
    )
    parser.add_argument("--debug", action="store_true", help=_DEBUG_HELP)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="vmm", parser_class=_Parser
    )
    _add_run(commands)
    if command != "run":
        _add_others(commands, command)
    return parser


def _add_others(commands: argparse._SubParsersAction[_Parser], command: str | None) -> None:
    _add_trace(commands, command == "trace")
    _add_top(commands)
    _add_machines(commands)
    _add_replay(commands)
    _add_doctor(commands)
    payloads = _add(
        *(commands, "payloads", "", "list the built-in guests"),
        *(texts.PAYLOADS_DESCRIPTION, texts.PAYLOADS_EPILOG),
    )
    payloads.add_argument("--json", action="store_true", help="print JSON")


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = _add(commands, "run", "IMAGE", "boot an image", texts.RUN_DESCRIPTION, texts.RUN_EPILOG)
    run.add_argument("image", metavar="IMAGE", help="the file to boot, or payload:NAME")
    _add_machine_options(run.add_argument_group("machine"))
    _add_image_options(run.add_argument_group("image"))
    _add_run_options(run.add_argument_group("run"))


def _add_machine_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--memory", metavar="SIZE", help="RAM: 2M, 64M, 4G (default: 64M)")
    add("--cpus", metavar="N", type=count("--cpus"), help="virtual processors (default: 1)")
    add("--cpu", metavar="FEATURES", default="", help="hide CPU features: -cx16,-xsave")
    add(
        "--irqchip",
        metavar="on|off|auto",
        type=one_of("--irqchip", ("on", "off", "auto")),
        default="auto",
        help="interrupt controllers and timers, in KVM (default: on, but off for flat images)",
    )
    add(
        "--disk",
        metavar="FILE[:ro|:cow]",
        action="append",
        default=[],
        help="a disk for the BIOS services, after the image itself; ro: read-only, cow: what is "
        "written is thrown away at the end; may be given more than once",
    )
    add("--huge-pages", action="store_true", help="back RAM with the host's 2 MiB pages")
    add("--testdev", action="store_true", help="add QEMU's pc-testdev, for kvm-unit-tests")
    add(
        "--device",
        metavar="FILE:CLASS@pio:ADDR",
        action="append",
        default=[],
        help="a device of your own, from a Python file (see below); may be given more than once",
    )
    add("--strict", action="store_true", help="an access that no device claims ends the run")


def _add_image_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--format",
        metavar="FORMAT",
        type=one_of("--format", FORMATS),
        default="auto",
        help="what the image is (default: auto, find out); the list is below",
    )
    add("--append", metavar="TEXT", default="", help="the kernel's command line")
    add(
        "--module",
        metavar="'FILE [ARGS]'",
        action="append",
        default=[],
        help="a Multiboot module; may be given more than once",
    )
    add("--load-addr", metavar="ADDR", type=address("--load-addr"), help="where to put the image")
    add("--entry", metavar="ADDR", type=address("--entry"), help="where to enter it")
    add(
        "--cpl",
        metavar="0|3",
        type=one_of("--cpl", ("0", "3")),
        help="privilege level at the start of a flat image (default: 0)",
    )
    add(
        "--boot-drive",
        metavar="N",
        type=address("--boot-drive"),
        help="a boot sector's drive: 0x80 hard disk, 0 floppy (default: by the image's size)",
    )
    add(
        "--symbols",
        metavar="FILE",
        help="names for the guest's addresses: an ELF file, or lines as nm and System.map have "
        "them (default: the image, if it is an ELF file)",
    )


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tui", action="store_true", help="show the screen: exits, devices, registers, console")
    add("--name", metavar="NAME", help="what 'vmm ps' calls it (default: the image and a number)")
    add("--timeout", metavar="SECONDS", type=seconds("--timeout"), help="end the run after this")
    add("--max-exits", metavar="N", type=count("--max-exits"), help="end it after so many exits")
    add(
        "--input",
        metavar="auto|serial|keyboard",
        type=one_of("--input", ("auto", "serial", "keyboard")),
        default="auto",
        help="where typed input goes (default: auto, to whichever the guest reads)",
    )
    add("--trace", metavar="FILE", help="keep every exit in a file, for 'vmm trace'")
    add("--record", metavar="FILE", help="keep every exit, and all that devices got, in a file")
    add(
        "--shell",
        action="store_true",
        help="a Python prompt on the machine, before its first instruction; help() says more",
    )
    add(
        "--stop-at",
        metavar="CONDITION",
        action="append",
        default=[],
        help="end the run behind the first exit that meets this (the list is below), or pause it "
        "there where a screen shows it; may be given more than once",
    )
    add("--trace-only", metavar="CONDITION", help="keep in the file only exits that meet this")
    add("--rip", action="store_true", help="have RIP in the record of every exit")
    add(
        "--tracer",
        metavar="FILE.py:CLASS[,NAME=VALUE]",
        action="append",
        default=[],
        help="have the hooks of a Python class called as the guest runs; may be given more than "
        "once",
    )
    add("--stats", action="store_true", help="print a table of exits at the end")
    add("--json", metavar="FILE", help="write the result as JSON (- for standard error)")
    add(
        "--explain-json",
        metavar="FILE",
        help="write the explanation of a death or a timeout as JSON, null if there is none",
    )


def _add_trace(commands: argparse._SubParsersAction[_Parser], parts: bool) -> None:
    """Add `vmm trace`, and with `parts` its commands: 40 options, which others do not pay for."""
    summary = "look at what 'vmm run --trace FILE' kept"
    if not parts:
        _add(commands, "trace", "COMMAND", summary, "", "")
        return
    from functools import partial

    from vmm.cli import trace_help
    from vmm.cli.trace_options import add_trace_commands

    trace = _add(
        *(commands, "trace", "COMMAND", summary),
        *(trace_help.DESCRIPTION, trace_help.EPILOG),
    )
    of_trace = trace.add_subparsers(
        dest="trace_command", metavar="COMMAND", prog="vmm trace", parser_class=_Parser
    )
    add_trace_commands(partial(_add, of_trace))


def _add_top(commands: argparse._SubParsersAction[_Parser]) -> None:
    top = _add(
        *(commands, "top", "[NAME|FILE]", "watch and drive a machine, or a recording of one"),
        *(texts.TOP_DESCRIPTION, texts.TOP_EPILOG),
    )
    top.add_argument("what", metavar="NAME|FILE", nargs="?", help=texts.WHAT_TO_WATCH)
    # The screen of `vmm run --tui`, which may end the guest.
    top.add_argument("--owner", action="store_true", help=argparse.SUPPRESS)


def _add_machines(commands: argparse._SubParsersAction[_Parser]) -> None:
    ps = _add(
        *(commands, "ps", "", "list the machines that run"),
        *(texts.PS_DESCRIPTION, texts.PS_EPILOG),
    )
    ps.add_argument("--json", action="store_true", help="print JSON")
    stat = _add(
        *(commands, "stat", "[NAME|FILE]", "the figures of a machine or a recording"),
        *(texts.STAT_DESCRIPTION, texts.STAT_EPILOG),
    )
    stat.add_argument("name", metavar="NAME|FILE", nargs="?", help=texts.WHICH_MACHINE)
    stat.add_argument("--json", action="store_true", help="print JSON; with -n, a line each")
    stat.add_argument(
        "-n",
        dest="every",
        metavar="SECONDS",
        type=seconds("-n"),
        help="again and again, each time for what came meanwhile",
    )
    stat.add_argument("--count", metavar="N", type=count("--count"), help="end after so many")
    for name, summary, description in (
        ("pause", "hold a machine between two instructions", texts.PAUSE_DESCRIPTION),
        ("resume", "let a machine that is held go on", texts.RESUME_DESCRIPTION),
        ("stop", "end a machine's run", texts.STOP_DESCRIPTION),
    ):
        epilog = texts.PAUSE_EPILOG if name == "pause" else ""
        one = _add(commands, name, "[NAME]", summary, description, epilog)
        one.add_argument("name", metavar="NAME", nargs="?", help=texts.WHICH_MACHINE)
        if name == "pause":
            one.add_argument("--at", metavar="CONDITION", help=texts.PAUSE_AT)


def _add_replay(commands: argparse._SubParsersAction[_Parser]) -> None:
    replay = _add(
        *(commands, "replay", "FILE", "drive the devices of a recording again, without KVM"),
        *(texts.REPLAY_DESCRIPTION, texts.REPLAY_EPILOG),
    )
    replay.add_argument("file", metavar="FILE", help="what 'vmm run --record FILE' wrote")
    replay.add_argument("--device", metavar="NAME", help="replay this device alone")
    replay.add_argument("--json", action="store_true", help="print JSON")


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    doctor = _add(
        *(commands, "doctor", "", "say what this host can do"),
        *(texts.DOCTOR_DESCRIPTION, texts.DOCTOR_EPILOG),
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--no-probe", action="store_true", help="do not run the speed probes")


def _add(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    takes: str,
    summary: str,
    description: str,
    epilog: str,
) -> _Parser:
    usage = " ".join(filter(None, (commands._prog_prefix, name, takes, "[options]")))
    parser = commands.add_parser(name, help=summary, **_looks(usage, description, epilog))
    # Without a default of its own, which would undo the one before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG_HELP)
    return parser


def _parser(name: str, usage: str, description: str, epilog: str) -> _Parser:
    return _Parser(prog=name, **_looks(usage, description, epilog))


def _looks(usage: str, description: str, epilog: str) -> dict[str, Any]:
    return {
        "usage": usage,
        "description": description,
        "epilog": epilog,
        "formatter_class": _HelpFormatter,
        "allow_abbrev": False,
    }


def _join_values(arguments: Sequence[str]) -> list[str]:
    """Join options to their values where argparse would take the value for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _TAKES_ANYTHING:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _no_command(word: str) -> str:
    if word.startswith("payload:") or os.path.exists(word):
        return f"{word} is no command; to boot it: vmm run {word}"
    hint = close_to(word, COMMANDS) or f"there are {', '.join(COMMANDS)} (see 'vmm --help')"
    return f"no command {word}; {hint}"


def _no_trace_command(word: str) -> str:
    if os.path.exists(word):
        return f"{word} is no command; to look at it: vmm trace summary {word}"
    known = f"there are {', '.join(TRACE_COMMANDS)} (see 'vmm trace --help')"
    return f"no command trace {word}; {close_to(word, TRACE_COMMANDS) or known}"


def _left_over(
    rest: Sequence[str], parser: argparse.ArgumentParser, options: argparse.Namespace
) -> str:
    """Say what is wrong with arguments that nothing took."""
    words = [options.command, getattr(options, "trace_command", None)]
    command = " ".join(filter(None, words))
    for word in filter(None, words):
        parser = _commands_parser(parser, word)
    odd = next((word for word in rest if word.startswith("-")), None)
    if odd is None:
        return f"{rest[0]}: one argument too many; see 'vmm {command} --help'"
    option = odd.partition("=")[0]
    known = [flag for one in parser._actions for flag in one.option_strings]
    hint = close_to(option, known) or f"see 'vmm {command} --help'"
    return f"no option {option}; {hint}"


def _commands_parser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and command in action.choices:
            found: argparse.ArgumentParser = action.choices[command]
            return found
    return parser


class _ShowVersion(argparse.Action):
    """Look the version up only when it is asked for: the look-up costs as much as a start."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from importlib import metadata

        try:
            version = metadata.version("glassvm")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"vmm {version}")
        parser.exit(0)
