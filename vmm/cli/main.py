"""Where the command starts: parse, call, turn errors into one line and a status."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vmm.cli.messages import discard, open_standard_files, say
from vmm.cli.options import Options
from vmm.errors import ExitStatus, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["command", "main"]

_HOMES = dict.fromkeys(("kill", "pause", "ps", "resume", "snapshot", "stop"), "machines")
"""The modules of commands that are not called as they are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    open_standard_files()
    try:
        status = _run(arguments)
        _flush()
    except VmmError as error:
        return _failed(error, str(error), error.status, arguments)
    except KeyboardInterrupt:
        return int(ExitStatus.INTERRUPTED)
    except BrokenPipeError:
        discard(sys.stdout)  # nobody reads any more, and nobody is told
        return int(ExitStatus.OK)
    except Exception as error:
        return _failed(error, *_explain(error), arguments)
    return status


def command() -> NoReturn:
    """The program `vmm`: run the command and leave at once.

    Everything is flushed and closed by then. What an interpreter does at its end, to take apart
    module by module what the process gives back anyway, costs a fifth of a short run.
    """
    # A start makes many objects and no garbage: looking for some costs it 3 %.
    gc.set_threshold(20_000)
    status = main()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def _run(arguments: Sequence[str]) -> int:
    from vmm.cli.run_options import read_plainly

    options = read_plainly(arguments) or _parsed(arguments)
    if isinstance(options, int):
        return options
    if options.command == "run" and (options.config is not None or options.print_config):
        from vmm.cli.config_file import configured, to_toml

        options = configured(arguments, options)
        if options.print_config:
            print(to_toml(options), end="")
            return int(ExitStatus.OK)
    module = import_module(f"vmm.cli.{_HOMES.get(options.command, options.command)}")
    status: int = getattr(module, options.command)(options)
    return status


def _parsed(arguments: Sequence[str]) -> Options | int:
    """Read the command line with all that a parser can; the status where that was all."""
    from vmm.cli.parser import build_parser, parse

    if not arguments:
        build_parser().print_help()
        return int(ExitStatus.USAGE)
    try:
        return parse(arguments)
    except SystemExit as ended:  # --help and --version
        return int(ended.code or 0)


def _explain(error: Exception) -> tuple[str, ExitStatus]:
    """Say what an error means that nobody expected."""
    from kvm_bindings import KvmError

    if isinstance(error, KvmError):
        return f"{error}; 'vmm doctor' looks for the cause", ExitStatus.NO_KVM
    if isinstance(error, OSError):
        # Only a print fails for these reasons without naming its file.
        printed = error.errno in (errno.ENOSPC, errno.EIO)
        where = error.filename or ("standard output" if printed else "the host refuses")
        return f"{where}: {error.strerror or error}", ExitStatus.USAGE
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --memory", ExitStatus.USAGE
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = "" if trace is None else os.path.basename(trace.tb_frame.f_code.co_filename)
    where = "" if trace is None else f" at {file}:{trace.tb_lineno}"
    what = f"{type(error).__name__}: {error}"
    return f"a fault of vmm itself{where}: {what} (see --debug)", ExitStatus.VMM_FAULT


def _failed(error: Exception, text: str, status: ExitStatus, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    say(text)
    try:
        _flush()
    except OSError:
        discard(sys.stdout)
    return int(status)


def _flush() -> None:
    """Write out what was printed.

    Raises:
        OSError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        raise type(error)(error.errno, error.strerror, "standard output") from None
