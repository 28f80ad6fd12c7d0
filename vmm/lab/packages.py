"""The Debian packages inside the lab: which they are, and how they are fetched.

apt works out and downloads what is needed as if for an empty x86-64 system, so that neither root
nor an x86-64 host is needed, and nothing is installed. The host's package lists are used where
they will do; where they are missing, stale or for another architecture, apt makes lists of its
own in the lab's cache, from the host's sources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmm.lab.tools import LabError, run_tool

__all__ = ["BASE", "KERNELS", "Apt", "Deb", "fetch", "parse_plan"]

# What every lab has: the tests' Python, an assembler, a shell with its programs, and modprobe.
BASE = ("binutils", "busybox-static", "kmod", "libstdc++6", "python3")

# The kernel's package, by the name it has in Debian, then by the one in Ubuntu.
KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual")

# One line of `apt-get --print-uris`: 'URI' FILE SIZE HASH.
_PLAN_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+\.deb) (?P<size>\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Deb:
    """One package to fetch. `filename` is what apt calls it, NAME_VERSION_ARCH.deb."""

    filename: str

    @property
    def name(self) -> str:
        """The package's name."""
        return self.filename.split("_")[0]

    @property
    def version(self) -> str:
        """The package's version; apt writes the epoch's colon as %3a in file names."""
        return self.filename.split("_")[1].replace("%3a", ":")


def parse_plan(text: str) -> list[Deb]:
    """The packages in what `apt-get --print-uris install` printed, in its order."""
    return [Deb(match["file"]) for match in _PLAN_LINE.finditer(text)]


class Apt:
    """apt for an imaginary empty system.

    Args:
        state: a folder for its own files.
        own_lists: whether it has package lists of its own, and not this machine's.
        sources: the text of a sources.list; this machine's sources where it is empty.
        architecture: Debian's name of it.
    """

    def __init__(
        self, state: Path, *, own_lists: bool, sources: str = "", architecture: str = "amd64"
    ) -> None:
        state.mkdir(parents=True, exist_ok=True)
        status = state / "status"
        status.touch()
        options: dict[str, str | Path] = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            # As root, apt would fetch as a user who may not write here.
            "APT::Sandbox::User": "root",
            "Dir::State::status": status,
            "Dir::Cache": state / "cache",
        }
        if own_lists:
            lists = state / "lists"
            (lists / "partial").mkdir(parents=True, exist_ok=True)
            options["Dir::State::lists"] = lists
            options["Acquire::Languages"] = "none"
        if sources:
            (state / "sources.list").write_text(sources)
            options["Dir::Etc::sourcelist"] = state / "sources.list"
            options["Dir::Etc::sourceparts"] = "/dev/null"
        (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        self._options = [f"-o{name}={value}" for name, value in options.items()]

    def update(self) -> LabError | None:
        """Fetch the package lists; one source of several may fail, so a failure is returned."""
        try:
            self._run("fetch the package lists", "update")
        except LabError as error:
            return error
        return None

    def plan(self, names: Sequence[str]) -> list[Deb]:
        """The packages that `names` and what they depend on come to."""
        out = self._run(f"resolve {' '.join(names)}", "--print-uris", "--yes", "install", *names)
        return parse_plan(out)

    def download(self, debs: Sequence[Deb], folder: Path) -> list[Path]:
        """Fetch `debs` into `folder`; those that are there and whole are not fetched again."""
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{deb.name}={deb.version}" for deb in debs]
        self._run("download packages", "download", *wanted, cwd=folder)
        return [folder / deb.filename for deb in debs]

    def _run(self, doing: str, *arguments: str, cwd: Path | None = None) -> str:
        argv = ["apt-get", "-q", *self._options, *arguments]
        return run_tool(argv, doing=f"{doing} with apt", cwd=cwd)


def fetch(extra: Sequence[str], cache: Path) -> list[Path]:
    """Fetch a kernel, `BASE`, the packages `extra`, and what they depend on, into `cache`.

    Returns the .deb files.

    Raises:
        LabError: apt knows no such package, or cannot download it.
    """
    try:
        return _fetch(Apt(cache / "apt", own_lists=False), extra, cache)
    except LabError:
        apt = Apt(cache / "apt", own_lists=True)
        trouble = apt.update()
        try:
            return _fetch(apt, extra, cache)
        except LabError as error:
            raise (trouble or error) from None


def _fetch(apt: Apt, extra: Sequence[str], cache: Path) -> list[Path]:
    for kernel in KERNELS:
        try:
            apt.plan([kernel])
        except LabError:
            continue
        return apt.download(apt.plan([kernel, *BASE, *extra]), cache / "debs")
    raise LabError(f"apt's sources for amd64 have none of the kernels {', '.join(KERNELS)}")
