"""Which Debian packages a disk is made of, and where they come from.

apt resolves them as if for an empty x86-64 system, from this machine's sources or, for another
release, from a mirror that it is told of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmm.lab.packages import KERNELS, Apt, Deb, parse_plan
from vmm.lab.tools import LabError, run_tool

__all__ = ["BASE", "Fetched", "Source", "fetch", "sources_list"]

BASE = (
    *("?essential", "usr-is-merged", "apt", "busybox-static", "e2fsprogs", "iproute2"),
    *("iputils-ping", "kmod", "login", "mount", "netbase", "passwd", "procps", "util-linux"),
)
"""What every disk has: what Debian takes for granted, and a system to log in to."""

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_URI = re.compile(r"^'(?P<base>[^']+?)/pool/[^']+\.deb' ", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """Where packages come from: this machine's own sources where there is no `release`.

    `mirror` is the address of a Debian archive, for a release; one of this machine's if empty.
    """

    release: str = ""
    mirror: str = ""


@dataclass(frozen=True)
class Fetched:
    """The files of the packages, the kernel's file, and sources for the guest's apt."""

    debs: list[Path]
    kernel: Path
    sources: str


class _Apt(Apt):
    """apt that tells what it would download from where."""

    def resolve(self, names: Sequence[str]) -> tuple[list[Deb], list[str]]:
        """The packages that `names` come to, and the archives that they are in."""
        out = self._run(f"resolve {' '.join(names)}", "--print-uris", "--yes", "install", *names)
        return parse_plan(out), list(dict.fromkeys(_URI.findall(out)))


def fetch(extra: Sequence[str], source: Source, cache: Path) -> Fetched:
    """Fetch the newest kernel, `BASE`, the packages `extra` and all that they need into `cache`.

    Raises:
        LabError: apt knows no such package or release, or cannot download it.
    """
    sources = sources_list(source)
    apt = _Apt(cache / f"apt-{source.release or 'host'}", own_lists=True, sources=sources)
    trouble = apt.update()
    try:
        debs, archives = apt.resolve([*BASE, *extra])
        kernel = _kernel(apt)
        files = apt.download([*debs, kernel], cache / "debs")
    except LabError as error:
        raise (trouble or error) from None
    guests = sources.replace(f"[signed-by={_KEYRING}] ", "") or _sources_of(archives)
    return Fetched(files[:-1], files[-1], guests)


def _kernel(apt: _Apt) -> Deb:
    """The package that has the kernel itself; what it needs is needed to install it only."""
    for name in KERNELS:
        try:
            debs, _ = apt.resolve([name])
        except LabError:
            continue
        return next(d for d in debs if re.match(r"linux-image-\d", d.name))
    raise LabError(f"apt's sources for amd64 have none of the kernels {', '.join(KERNELS)}")


def sources_list(source: Source) -> str:
    """What a sources.list says of a source; nothing for this machine's own.

    Raises:
        LabError: a mirror is needed, and this machine's sources name none.
    """
    if not source.release:
        return ""
    mirror = source.mirror or _own_mirror()
    return f"deb [signed-by={_KEYRING}] {mirror} {source.release} main\n"


def _own_mirror() -> str:
    """The first Debian archive among this machine's sources.

    Raises:
        LabError: it has none.
    """
    form = ("--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    for line in run_tool(["apt-get", "indextargets", *form], doing="list sources").splitlines():
        uri, _, release = line.partition(" ")
        if "security" not in release and uri.rstrip("/").endswith("debian"):
            return uri
    raise LabError("this machine's sources name no Debian archive: give one with --mirror")


def _sources_of(archives: Sequence[str]) -> str:
    """Sources for the guest of the archives that its packages were in, for this host's release."""
    import platform

    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    return "".join(
        f"deb {archive} {codename}{'-security' if 'security' in archive else ''} main\n"
        for archive in archives
    )
