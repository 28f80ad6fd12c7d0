"""Run a command inside the lab: an emulated AMD-V host, with a folder of tests and /dev/kvm.

The exit status is the command's own. Where there is none: 2 wrong usage, 4 the lab cannot be
built or started here, 8 the emulated host died, 124 timed out, 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from vmm.lab import boot, cache, share
from vmm.lab.tools import LabError, Status, check_host

_DEFAULT = (
    *("python3", "-m", "pytest", "-q", "tests/kvm", "tests/unit/kvm_bindings"),
    *("--kvm=require", "-m", "not command", "--durations=10", "--junitxml=/results/junit.xml"),
)

# How much longer than its command a host may take: to boot, and to write back and power off.
_GRACE_S = 120

_EXAMPLES = """\
examples:
  python -m vmm.lab                                  the KVM tests
  python -m vmm.lab -- python3 -m vmm doctor
  python -m vmm.lab -- sh -c 'dmesg | grep -i svm'
  python -m vmm.lab --package seabios -- ls /usr/share/seabios
  python -m vmm.lab --file disk.img -- python3 -m vmm run /files/disk.img
  python -m vmm.lab --shell
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m vmm.lab",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="*", metavar="COMMAND", help="what to run; by default the KVM tests")
    add("--shell", action="store_true", help="a shell on this terminal instead of a command")
    add("--timeout", type=_positive, default=1500, metavar="S", help="end the command after S s")
    add("--cpus", type=_positive, default=2, metavar="N", help="processors of the host (2)")
    add("--memory", type=_positive, default=3072, metavar="MIB", help="its memory in MiB (3072)")
    add("--package", action="append", default=[], metavar="NAME", help="a Debian package to add")
    add("--file", action="append", default=[], metavar="PATH[:NAME]", help="copy it to /files/NAME")
    add(
        "--results",
        type=Path,
        default=Path("build/lab-results"),
        metavar="FOLDER",
        help="where to put what the command leaves in /results (build/lab-results)",
    )
    add(
        "--folder",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="what goes inside, and where the command is run (the current folder)",
    )
    add("--wheel", action="append", default=[], metavar="NAME", help="a Python package to add")
    add(
        "--silence", type=_positive, metavar="S", help="take a host without output for S s for hung"
    )
    add(
        "--retries",
        type=int,
        choices=range(4),
        default=0,
        help="how often to start again where the emulated host hangs or dies (0); a command that "
        "fails is never run again",
    )
    add("--rebuild", action="store_true", help="build the cached host anew")
    add("--keep", action="store_true", help="keep the share's image and the logs of this run")
    options = parser.parse_args(arguments)
    if options.shell and options.command:
        parser.error("--shell takes no command")
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _say(message: str) -> None:
    print(f"lab: {message}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace, say: Callable[[str], None] = _say) -> int:
    """Do what `options` ask and return the exit status.

    Raises:
        LabError: there is no command's exit status to return.
    """
    if options.shell and not sys.stdin.isatty():
        raise LabError("--shell needs a terminal", Status.USAGE)
    check_host()
    files = [share.ExtraFile.parse(text) for text in options.file]
    image = cache.lab_image(options.package, say, wheels=options.wheel, rebuild=options.rebuild)
    command = None if options.shell else shlex.join(options.command or _DEFAULT)
    order = share.Order(command, 0 if options.shell else options.timeout)
    work = Path(tempfile.mkdtemp(prefix="glassvm-lab-"))
    try:
        return _run_in(work, image, files, order, options, say)
    finally:
        if options.keep:
            say(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def _run_in(
    work: Path,
    image: cache.Image,
    files: Sequence[share.ExtraFile],
    order: share.Order,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> int:
    disk = share.make_share(work, options.folder, files, order)
    host = boot.Host(image, disk, work, options.cpus, options.memory)
    say(f"booting: {order.command or 'a shell'}")
    started = time.monotonic()
    failure: LabError | None = None
    try:
        if order.command is None:
            boot.run_shell(host)
        else:
            limit_s = order.timeout_s + _GRACE_S
            boot.run_command(host, sys.stdout.buffer, limit_s, options.silence)
    except LabError as error:
        failure = error
    # Results are worth having from a host that died as well.
    outcome = share.bring_back(disk, work, options.results)
    if failure:
        raise failure
    if outcome.timed_out:
        raise LabError(
            f"the command ran longer than {order.timeout_s} s and was ended (see --timeout)",
            Status.TIMEOUT,
        )
    if outcome.status is None:
        raise LabError(
            "the emulated host ended without the command's status" + boot.last_words(host),
            Status.BROKEN,
        )
    say(f"exit status {outcome.status} after {time.monotonic() - started:.0f} s")
    return outcome.status


def run_with_retries(options: argparse.Namespace) -> int:
    """Run, and again where the host itself broke down: a fault of the emulator, not of a test.

    Raises:
        LabError: there is no command's exit status to return.
    """
    for left in range(options.retries, -1, -1):
        try:
            return run(options)
        except LabError as error:
            if error.status != Status.BROKEN or not left:
                raise
            _say(f"{error}; starting it again")
    raise AssertionError("unreachable")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """The command. Returns the exit status."""
    options = parse(sys.argv[1:])
    # An end by SIGTERM (a CI runner's) cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run_with_retries(options)
    except LabError as error:
        _say(str(error))
        return error.status
    except BrokenPipeError:
        _say("nobody reads the command's output any more")
        sys.stdout = None  # not to be flushed at exit
        return Status.BROKEN
    except OSError as error:
        _say(f"{error.filename or 'the lab'}: {error.strerror}")
        return Status.UNAVAILABLE
    except KeyboardInterrupt:
        _say("interrupted")
        return Status.INTERRUPTED
