"""Fetch kernels of different ages and widths, and a busybox for those of 32 bits:

    python tests/guest/fetch_kernels.py FOLDER

Debian's, by apt, without being installed. Each becomes FOLDER/NAME.vmlinuz.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from vmm.image.packages import Source, sources_list
from vmm.lab.packages import Apt, Deb
from vmm.lab.tools import LabError, run_tool

KERNELS = {
    "bookworm-backports": ("bookworm-backports", "amd64", "linux-image-cloud-amd64"),
    "bookworm-686": ("bookworm", "i386", "linux-image-686"),
    "bookworm-686-pae": ("bookworm", "i386", "linux-image-686-pae"),
    "bullseye": ("bullseye", "amd64", "linux-image-cloud-amd64"),
}
"""A release, an architecture and the package that needs the newest kernel, by name."""
BUSYBOX = ("bookworm", "i386", "busybox-static")


def fetch(release: str, architecture: str, package: str, wanted: str, path: Path) -> str:
    """Fetch the one file that matches `wanted` to `path`; the name of its package."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apt = Apt(
            folder / "apt",
            own_lists=True,
            # What is in the backports needs what is in the release.
            sources="".join(
                sources_list(Source(one)) for one in {release, release.removesuffix("-backports")}
            ),
            architecture=architecture,
        )
        trouble = apt.update()
        try:
            planned = apt.plan([f"{package}/{release}"])
            (deb,) = [one for one in planned if is_the_one(one, package)]
            (file,) = apt.download([deb], folder)
        except LabError as error:
            raise (trouble or error) from None
        run_tool(["dpkg-deb", "-x", file, folder / "all"], doing=f"unpack {file.name}")
        (found,) = (folder / "all").glob(wanted)
        shutil.copy(found, path)
        return f"{deb.name} {deb.version}"


def is_the_one(deb: Deb, package: str) -> bool:
    """Whether a package is the one itself, and not one that is only needed to install it."""
    if package.startswith("linux-image"):
        return re.match(r"linux-image-\d+\.", deb.name) is not None
    return deb.name == package


def main() -> int:
    """Fetch all; returns the exit status."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, (release, architecture, package) in KERNELS.items():
            path = folder / f"{name}.vmlinuz"
            print(
                f"{path}: {fetch(release, architecture, package, 'boot/vmlinuz-*', path)}",
                flush=True,
            )
        path = folder / "busybox-i386"
        print(f"{path}: {fetch(*BUSYBOX, 'bin/busybox', path)}")
    except LabError as error:
        print(error, file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
