"""The share: a small disk that takes the checkout in and brings the results out.

An ext4 image, written with `mke2fs -d` before the run and read with debugfs after it, so that
nothing is mounted on the host and no root is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmm.lab.rootfs import make_ext4
from vmm.lab.tools import LabError, Status, find_tool, run_tool

__all__ = ["ExtraFile", "Order", "Outcome", "bring_back", "checkout_files", "make_share"]

# Room for the results and for what the tests write beside their sources.
_FREE_MIB = 256

# Of no use inside; the environments of Python are found by what they hold.
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv"})

# What is built is no part of this project's checkout; of a user's folder it is what is tested.
_BUILT = frozenset({"build", "dist"})

_OURS = Path(__file__).resolve().parents[2]
"""The folder that glassvm is imported from: its checkout, or where it is installed."""

_PACKAGES = ("kvm_bindings", "devices", "firmware", "vmm")


@dataclass(frozen=True)
class ExtraFile:
    """A file for the inside's /files folder, under a name of its own."""

    source: Path
    name: str

    @classmethod
    def parse(cls, text: str) -> ExtraFile:
        """From HOST_PATH:INSIDE_NAME, or HOST_PATH alone.

        Raises:
            LabError: there is no such file, or the name is not a plain relative path.
        """
        path, _, name = text.rpartition(":")
        if not path:
            path, name = text, Path(text).name
        source = Path(path)
        if not source.is_file():
            raise LabError(f"--file {text}: {path} is not a file", Status.USAGE)
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
            raise LabError(
                f"--file {text}: {name!r} is not a name below the inside's /files", Status.USAGE
            )
        return cls(source, name)


@dataclass(frozen=True)
class Order:
    """What is to be done inside. `timeout_s` 0 is no limit; no `command` is a shell."""

    command: str | None
    timeout_s: int = 0

    def settings(self) -> str:
        """The text of control/settings, read by inside/init.sh."""
        size = shutil.get_terminal_size()
        shell = "" if self.command is not None else "yes"
        return (
            f"LAB_TIMEOUT={self.timeout_s}\nLAB_SHELL={shell}\n"
            f"LAB_ROWS={size.lines}\nLAB_COLUMNS={size.columns}\n"
        )


@dataclass(frozen=True)
class Outcome:
    """How the command ended: its exit status, None where the inside left none."""

    status: int | None
    timed_out: bool


def checkout_files(checkout: Path) -> list[Path]:
    """The project's files, relative to `checkout`: tracked, and untracked but not ignored.

    Where `checkout` is not the top of a git work tree (a source archive), or git is not there or
    will not look at it, all files but those of builds, environments and hidden folders.
    """
    listed = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if listed is None or top is None or Path(top.strip()).resolve() != checkout.resolve():
        return sorted(_walk(checkout, _SKIPPED | _BUILT))
    names = {Path(name) for name in listed.split("\0") if name}
    # A file that was removed but not yet committed is still listed; so is a submodule's folder.
    return sorted(
        name for name in names if (checkout / name).is_file() or (checkout / name).is_symlink()
    )


def _git(checkout: Path, *arguments: str) -> str | None:
    program = find_tool("git")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-C", checkout, *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _walk(checkout: Path, skipped: frozenset[str]) -> list[Path]:
    found: list[Path] = []
    for folder, names, files in os.walk(checkout):
        here = Path(folder)
        names[:] = [
            name
            for name in names
            if name not in skipped
            and not name.startswith(".")
            and not name.endswith(".egg-info")
            and not (here / name / "pyvenv.cfg").exists()
        ]
        found += [(here / name).relative_to(checkout) for name in files if name[-4:] != ".pyc"]
    return found


def make_share(work: Path, checkout: Path, files: Sequence[ExtraFile], order: Order) -> Path:
    """Make the share's image in the folder `work` and return its path.

    Of glassvm's own checkout it has the files of the project. Of another folder it has what is
    built there too, and glassvm is put beside it.

    Raises:
        LabError: a file cannot be read, or mke2fs failed.
    """
    tree = work / "share"
    for name in ("checkout", "files", "results", "control"):
        (tree / name).mkdir(parents=True)
    try:
        ours = checkout.resolve() == _OURS
        for relative in checkout_files(checkout) if ours else _walk(checkout, _SKIPPED):
            _copy(checkout / relative, tree / "checkout" / relative)
        for name in () if ours else _PACKAGES:
            for relative in _walk(_OURS / name, _SKIPPED):
                if relative.suffix == ".so":
                    continue  # was compiled for this machine's Python
                _copy(_OURS / name / relative, tree / "site" / name / relative)
        for file in files:
            _copy(file.source.resolve(), tree / "files" / file.name)
    except OSError as error:
        raise LabError(f"cannot copy {error.filename}: {error.strerror}") from error
    (tree / "control/settings").write_text(order.settings())
    (tree / "control/command").write_text(f"{order.command or ''}\n")
    image = work / "share.ext4"
    make_ext4(tree, image, free_mib=_FREE_MIB)
    shutil.rmtree(tree)
    return image


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def bring_back(image: Path, work: Path, results: Path) -> Outcome:
    """Read the share after the run: the outcome, and what the command left in /results.

    `results` is made only if there is something to put into it; a file of the same name that
    was there is replaced.

    Raises:
        LabError: debugfs failed, or `results` cannot be written.
    """
    back = work / "back"
    back.mkdir()
    for folder in ("control", "results"):
        # debugfs ends with status 0 whatever happens: what it brought is what counts.
        request = f'rdump {folder} "{back}"'
        run_tool(["debugfs", "-R", request, image], doing="read the share")
    left = back / "results"
    if left.is_dir() and any(left.iterdir()):
        try:
            shutil.copytree(left, results, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise LabError(f"cannot write the results to {results}: {error}") from error
    try:
        status: int | None = int((back / "control/status").read_text())
    except (OSError, ValueError):
        status = None
    return Outcome(status, (back / "control/timed-out").exists())
