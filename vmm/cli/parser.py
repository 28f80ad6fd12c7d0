"""The command line: what can be said, and one line for what cannot."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from vmm.cli import help as texts
from vmm.cli.options import Options
from vmm.cli.run_options import RUN_OPTIONS, TAKES_ANYTHING, RunOption
from vmm.cli.values import close_to, count, one_of, seconds
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["COMMANDS", "build_parser", "parse"]

COMMANDS = (
    *("run", "restore", "trace", "top", "ps", "console", "stat", "pause", "resume", "stop", "kill"),
    *("balloon", "snapshot", "gdb", "replay", "image", "cpu", "doctor", "payloads"),
)
TRACE_COMMANDS = ("summary", "show", "export", "diff", "plot")

_OF_RESTORE = (
    *("--tui", "--name", "--timeout", "--max-exits", "--trace", "--shell", "--stop-at"),
    *("--trace-only", "--rip", "--tracer", "--stats", "--json", "--explain-json"),
    *("--gdb", "--gdb-nowait", "--detach", "--log"),
)
"""The options of `vmm run` that a machine out of a snapshot takes as well."""

_DEBUG_HELP = "show what is set up for a guest, all about its end, and tracebacks of errors"


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


def parse(arguments: Sequence[str], *, defaults: Mapping[str, object] | None = None) -> Options:
    """Read the command line. `defaults` are values of `run`'s options where it has none, or, for
    those that may be given more than once, before those that it has.

    Raises:
        ConfigError: it is wrong; the message says what would be right.
    """
    arguments = _join_values(arguments)
    words = (argument for argument in arguments if not argument.startswith("-"))
    first, second = next(words, None), next(words, None)
    configured = first == "run" and _names(arguments, "--config")
    parser = build_parser(first, image=not configured, defaults=defaults)
    if first is not None and first not in COMMANDS:
        raise ConfigError(_no_command(first))
    if first == "trace" and second is not None and second not in TRACE_COMMANDS:
        raise ConfigError(_no_trace_command(second))
    options, rest = parser.parse_known_args(arguments, Options())
    if configured and rest and not rest[0].startswith("-"):
        options.image = rest.pop(0)
    if rest:
        raise ConfigError(_left_over(rest, parser, options))
    if options.command is None:
        raise ConfigError("no command given; see 'vmm --help'")
    if options.command == "trace" and options.trace_command is None:
        raise ConfigError("no command given; see 'vmm trace --help'")
    return options


def build_parser(
    command: str | None = None,
    *,
    image: bool = True,
    defaults: Mapping[str, object] | None = None,
) -> argparse.ArgumentParser:
    """Build the parser of the whole command; where that is `run`, of this alone: a guest that says
    hello and ends is there as long as the options of the others take. The commands of `vmm trace`
    are there where it is that.

    Without `image`, `run` does not insist on one. `defaults` are as for `parse`.
    """
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
    _add_run(commands, image, defaults or {})
    if command != "run":
        _add_others(commands, command)
    return parser


def _add_others(commands: argparse._SubParsersAction[_Parser], command: str | None) -> None:
    _add_restore(commands)
    _add_trace(commands, command == "trace")
    _add_top(commands)
    _add_machines(commands)
    _add_gdb(commands)
    _add_replay(commands)
    _add_image(commands)
    _add_cpu(commands)
    _add_doctor(commands)
    payloads = _add(
        *(commands, "payloads", "", "list the built-in guests"),
        *(texts.PAYLOADS_DESCRIPTION, texts.PAYLOADS_EPILOG),
    )
    payloads.add_argument("--json", action="store_true", help="print JSON")


def _add_run(
    commands: argparse._SubParsersAction[_Parser], image: bool, defaults: Mapping[str, object]
) -> None:
    run = _add(commands, "run", "IMAGE", "boot an image", texts.RUN_DESCRIPTION, texts.RUN_EPILOG)
    if image:
        run.add_argument("image", metavar="IMAGE", help="the file to boot, or payload:NAME")
    else:
        # One that may be left out is not found behind options: it is what nothing takes.
        run.set_defaults(image=None)
    _add_options(run, RUN_OPTIONS)
    run.set_defaults(**defaults)


def _add_restore(commands: argparse._SubParsersAction[_Parser]) -> None:
    restore = _add(
        *(commands, "restore", "FILE", "let the machine of a snapshot run on"),
        *(texts.RESTORE_DESCRIPTION, texts.RESTORE_EPILOG),
    )
    restore.add_argument("image", metavar="FILE", help="what 'vmm snapshot NAME FILE' wrote")
    restore.add_argument(
        "--disks",
        metavar="private|shared",
        type=one_of("--disks", ("private", "shared")),
        default="private",
        help="whose the guest's writes to its disks are: this machine's alone, gone with it "
        "(default), or the files'",
    )
    restore.add_argument(
        "--net",
        metavar="user|tap=NAME[,KEY=VALUE...]",
        action="append",
        default=[],
        help="where the cable of a network card leads now, in the words of 'vmm run --net'; once "
        "for each card, in their order",
    )
    restore.add_argument(
        "--vsock",
        metavar="CID[,unix=PATH]",
        help="the guest's address for sockets now",
    )
    restore.add_argument(
        "--new-identity",
        action="store_true",
        help="draw MAC addresses and serial numbers of disks anew, so that the machine can be told "
        "from others of the same snapshot",
    )
    restore.add_argument(
        "--trust",
        action="store_true",
        help="use what the snapshot names of this host: devices (Python files, which are run), "
        "networks, folders, and with --disks shared the disks",
    )
    of_run = [option for option in RUN_OPTIONS if option.flag in _OF_RESTORE]
    _add_options(restore, of_run)
    restore.set_defaults(**{o.dest: o.initial for o in RUN_OPTIONS if o not in of_run})


def _add_options(parser: _Parser, options: Sequence[RunOption]) -> None:
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        more: dict[str, Any] = {"action": "store_true"}
        if option.takes:
            more = {
                "action": "append" if option.repeated else "store",
                "metavar": option.takes,
                "type": option.reader(),
                "default": option.initial,
            }
        groups[option.group].add_argument(option.flag, help=option.help, **more)


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
    top.add_argument("--symbols", metavar="FILE", help=texts.TOP_SYMBOLS)
    # The screen of `vmm run --tui`, which may end the guest; a descriptor for what it showed.
    top.add_argument("--owner", metavar="FD", type=int, help=argparse.SUPPRESS)


def _add_machines(commands: argparse._SubParsersAction[_Parser]) -> None:
    ps = _add(
        *(commands, "ps", "", "list the machines that run"),
        *(texts.PS_DESCRIPTION, texts.PS_EPILOG),
    )
    ps.add_argument("--json", action="store_true", help="print JSON")
    console = _add(
        *(commands, "console", "[NAME]", "attach this terminal to a machine's console"),
        *(texts.CONSOLE_DESCRIPTION, texts.CONSOLE_EPILOG),
    )
    console.add_argument("name", metavar="NAME", nargs="?", help=texts.WHICH_MACHINE)
    console.add_argument("--all", action="store_true", help=texts.CONSOLE_ALL)
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
        ("stop", "have a guest shut itself down, or end it", texts.STOP_DESCRIPTION),
        ("kill", "end a machine's run at once", texts.KILL_DESCRIPTION),
    ):
        epilog = texts.PAUSE_EPILOG if name == "pause" else ""
        one = _add(commands, name, "[NAME]", summary, description, epilog)
        one.add_argument("name", metavar="NAME", nargs="?", help=texts.WHICH_MACHINE)
        if name == "pause":
            one.add_argument("--at", metavar="CONDITION", help=texts.PAUSE_AT)
        if name == "stop":
            one.add_argument(
                "--timeout",
                metavar="SECONDS",
                type=seconds("--timeout"),
                default=60.0,
                help="how long the guest may take (default: 60)",
            )
    balloon = _add(
        *(commands, "balloon", "NAME [SIZE]", "memory that a guest gives back"),
        *(texts.BALLOON_DESCRIPTION, texts.BALLOON_EPILOG),
    )
    balloon.add_argument("name", metavar="NAME", help="as 'vmm ps' lists it")
    balloon.add_argument(
        "size", metavar="SIZE", nargs="?", help="what it is to give in all: 512M, 0"
    )
    balloon.add_argument("--json", action="store_true", help="print JSON")
    snapshot = _add(
        *(commands, "snapshot", "NAME FILE", "save a machine's whole state to a file"),
        *(texts.SNAPSHOT_DESCRIPTION, texts.SNAPSHOT_EPILOG),
    )
    snapshot.add_argument("name", metavar="NAME", help=texts.WHICH_MACHINE)
    snapshot.add_argument("file", metavar="FILE", help="where to; replaced when all is written")
    snapshot.add_argument(
        "--base",
        metavar="FILE",
        help="an earlier snapshot of the machine: only what changed since is written, and both "
        "files are needed to restore",
    )


def _add_gdb(commands: argparse._SubParsersAction[_Parser]) -> None:
    gdb = _add(
        *(commands, "gdb", "[NAME]", "attach gdb to a machine that runs"),
        *(texts.GDB_DESCRIPTION, texts.GDB_EPILOG),
    )
    gdb.add_argument("name", metavar="NAME", nargs="?", help=texts.WHICH_MACHINE)
    gdb.add_argument(
        "--listen",
        metavar="[HOST:]PORT|unix:PATH",
        help="have the machine listen here (default: a socket that only you can reach)",
    )
    gdb.add_argument("--print", action="store_true", help="print the command, and start nothing")
    gdb.add_argument(
        "--ex",
        metavar="COMMAND",
        action="append",
        default=[],
        help="have gdb carry out this command; may be given more than once",
    )
    gdb.add_argument("--batch", action="store_true", help="leave gdb behind these commands")


def _add_replay(commands: argparse._SubParsersAction[_Parser]) -> None:
    replay = _add(
        *(commands, "replay", "FILE", "drive the devices of a recording again, without KVM"),
        *(texts.REPLAY_DESCRIPTION, texts.REPLAY_EPILOG),
    )
    replay.add_argument("file", metavar="FILE", help="what 'vmm run --record FILE' wrote")
    replay.add_argument("--device", metavar="NAME", help="replay this device alone")
    replay.add_argument("--json", action="store_true", help="print JSON")


def _add_cpu(commands: argparse._SubParsersAction[_Parser]) -> None:
    cpu = _add(
        *(commands, "cpu", "list|dump|diff", "what guests may see of the processor"),
        *(texts.CPU_DESCRIPTION, texts.CPU_EPILOG),
    )
    of_cpu = cpu.add_subparsers(
        dest="cpu_command", metavar="COMMAND", prog="vmm cpu", parser_class=_Parser, required=True
    )
    listed = _add(of_cpu, "list", "", "the templates, and whether this host fulfils them", "", "")
    dump = _add(of_cpu, "dump", "[CPU]", "what a guest sees: features and leaves", "", "")
    dump.add_argument("what", metavar="CPU", nargs="?", default="host", help=texts.WHICH_CPU)
    diff = _add(
        of_cpu, "diff", "A B", "what differs; the exit status is 1 where something does", "", ""
    )
    diff.add_argument("first", metavar="A", help=f"{texts.WHICH_CPU}; or FILE.json of a dump")
    diff.add_argument("second", metavar="B", help="the same")
    for one in (listed, dump, diff):
        one.add_argument("--json", action="store_true", help="print JSON")


def _add_image(commands: argparse._SubParsersAction[_Parser]) -> None:
    image = _add(
        *(commands, "image", "debian FILE", "make a disk that boots, of Debian's packages"),
        *(texts.IMAGE_DESCRIPTION, texts.IMAGE_EPILOG),
    )
    add = image.add_argument
    add("kind", metavar="debian", type=one_of("image", ("debian",)), help="what it is made of")
    add("file", metavar="FILE", help="the disk's file, a raw image")
    add("--size", metavar="SIZE", default="1G", help="of the disk (default: 1G; sparse)")
    add(
        "--package",
        metavar="NAME",
        action="append",
        default=[],
        help="a Debian package beyond the usual; may be given more than once",
    )
    add("--release", metavar="NAME", default="", help="Debian's, as trixie (default: this host's)")
    add("--mirror", metavar="URL", default="", help="an archive of Debian's, for --release")
    add("--hostname", metavar="NAME", default="debian", help="what the guest calls itself")
    add(
        "--password",
        metavar="TEXT",
        help="root's; without one, root is logged in on every console",
    )
    add("--json", action="store_true", help="print JSON: the files and the packages")


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


def _names(arguments: Sequence[str], flag: str) -> bool:
    """Whether an option is among arguments whose values are joined."""
    return any(argument.partition("=")[0] == flag for argument in arguments)


def _join_values(arguments: Sequence[str]) -> list[str]:
    """Join options to their values where argparse would take the value for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in TAKES_ANYTHING:
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


def _left_over(rest: Sequence[str], parser: argparse.ArgumentParser, options: Options) -> str:
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
