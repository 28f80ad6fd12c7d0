"""The same tests in the lab: pytest runs again, inside an AMD-V host that QEMU emulates."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from kvm_bindings import System
from vmm.lab.run import parse, run_with_retries
from vmm.lab.tools import LabError

__all__ = ["command_inside", "keep_a_vm", "run_in_the_lab"]

_INSIDE = PurePosixPath("/share/checkout")
_RESULTS = PurePosixPath("/results")

# QEMU's software AMD-V hangs now and then; then the host says nothing more.
_PATIENCE = ("--silence", "150", "--retries", "2")


def run_in_the_lab(config: pytest.Config) -> int:
    """Run this run's tests in the lab; return pytest's exit status in there.

    What is below the root folder goes inside. The JUnit file and the recordings come back to where
    they were asked for.

    Raises:
        pytest.UsageError: the lab cannot be built or started, or its host died.
    """
    with tempfile.TemporaryDirectory(prefix="glassvm-results-") as folder:
        results = Path(folder)
        options = ["--folder", str(config.rootpath), "--results", folder, *_PATIENCE]
        for name in config.getini("kvm_lab_packages"):
            options += ["--package", name]
        for name in config.getini("kvm_lab_wheels"):
            options += ["--wheel", name]
        try:
            return run_with_retries(parse([*options, "--", "sh", "-c", command_inside(config)]))
        except LabError as error:
            raise pytest.UsageError(f"--kvm-lab: {error}") from None
        except KeyboardInterrupt:
            return pytest.ExitCode.INTERRUPTED
        finally:
            _bring(results / "junit.xml", _junit(config))
            _bring(results / "recordings", config.getoption("--kvm-trace"))


def command_inside(config: pytest.Config) -> str:
    """The command that runs the same tests, for the shell in the lab.

    Raises:
        pytest.UsageError: pytest was started outside of the root folder.
    """
    root, here = config.rootpath, config.invocation_params.dir
    if not here.is_relative_to(root):
        raise pytest.UsageError(f"--kvm-lab: start pytest in {root} or below; that goes inside")
    given = [_moved(str(each), root) for each in config.invocation_params.args]
    # Behind what was given, where the last one of an option counts.
    more = ["--kvm=require"]
    if _junit(config) is not None:
        more.append(f"--junitxml={_RESULTS / 'junit.xml'}")
    if config.getoption("--kvm-trace") is not None:
        more.append(f"--kvm-trace={_RESULTS / 'recordings'}")
    if sys.stdout.isatty() and config.getoption("color") == "auto":
        more.append("--color=yes")
    inside = _INSIDE / here.relative_to(root)
    return f"cd {shlex.quote(str(inside))} && exec " + shlex.join(
        ["python3", "-m", "pytest", *given, *more]
    )


def keep_a_vm(config: pytest.Config) -> None:
    """Keep one VM with a vCPU open from the first test to the last.

    Linux patches its scheduler's code when the first VM comes and when the last one goes
    (static keys: preempt notifiers, vCPUs without a local APIC). QEMU's software CPU now and then
    goes on with its old translation of the patched place, a breakpoint, and then all processors of
    the emulated host are in that exception for ever.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        system = stack.enter_context(System())
        stack.enter_context(system.create_vm()).create_vcpu(0)
        config.add_cleanup(stack.pop_all().close)


def _junit(config: pytest.Config) -> Path | None:
    given = config.getoption("xmlpath", None)
    return Path(given).absolute() if given else None


def _moved(argument: str, root: Path) -> str:
    """An argument with the root folder at its new place."""
    front, equals, path = argument.rpartition("=")
    if path == str(root) or path.startswith(f"{root}/"):
        return f"{front}{equals}{_INSIDE}{path.removeprefix(str(root))}"
    return argument


def _bring(found: Path, target: Path | None) -> None:
    if target is None or not found.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if found.is_dir():
        shutil.copytree(found, target, dirs_exist_ok=True)
    else:
        shutil.copy(found, target)
