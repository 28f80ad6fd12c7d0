"""A bootable Debian disk: packages fetched, unpacked, settled, and written as one file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmm.image import disk, initrd, packages
from vmm.image.packages import Source
from vmm.image.settle import Looks, settle
from vmm.image.unpack import Tree
from vmm.lab.tools import check_host, run_tool

__all__ = ["Looks", "Made", "Source", "build"]

_TOOLS = ("apt-get", "dpkg-deb", "mke2fs", "debugfs", "depmod")
_MODULES_UNWANTED = ("/drivers/net/ethernet/", "/drivers/infiniband/", "/drivers/gpu/")


@dataclass(frozen=True)
class Made:
    """The files that were made, and the packages in the disk by name, with their versions."""

    image: Path
    kernel: Path
    initrd: Path
    config: Path
    packages: dict[str, str]


def build(
    image: Path,
    *,
    size: int,
    extra: Sequence[str] = (),
    source: Source = Source(),  # noqa: B008
    looks: Looks = Looks(),  # noqa: B008
    told: Callable[[str], None] = lambda text: None,
) -> Made:
    """Make a disk of `size` bytes, and beside it its kernel, its initramfs and a configuration for
    `vmm run --config`.

    They get their names when all are complete; files of these names are replaced.

    Args:
        image: the disk's file.
        extra: Debian packages beyond the usual.
        told: hears what is being done, often.

    Raises:
        LabError: a program is missing, a package is not to be had, or it does not fit.
        OSError: a file cannot be written.
    """
    check_host(_TOOLS)
    cache = _cache_folder()
    stem = image.with_suffix("")
    made = Made(
        image,
        stem.with_suffix(".vmlinuz"),
        stem.with_suffix(".initrd"),
        stem.with_suffix(".toml"),
        {},
    )
    with _turn(cache, told) as work, _complete(image.parent) as new:
        told("looking for packages")
        fetched = packages.fetch(extra, source, cache)
        tree = Tree(work / "root")
        count = len(fetched.debs)
        tree.add(fetched.debs, lambda n, name: told(f"unpacking {n + 1} of {count}: {name}"))
        told("unpacking the kernel")
        tree.add_files(fetched.kernel, _of_kernel)
        tree.write_database()
        settle(tree, looks, fetched.sources)
        modules = next((tree.root / "usr/lib/modules").iterdir())
        run_tool(["depmod", "-b", tree.root, modules.name], doing="list the kernel modules")
        told("writing the initramfs and the disk")
        new(made.initrd).write_bytes(initrd.build(tree.root))
        shutil.move(next((tree.root / "boot").glob("vmlinuz-*")), new(made.kernel))
        disk.make_disk(tree.root, new(made.image), size, tree.owners)
        new(made.config).write_text(_config(made))
    made.packages.update(_version(deb) for deb in [*fetched.debs, fetched.kernel])
    return made


def _of_kernel(path: str) -> bool:
    """What is wanted of the kernel's package: it, and modules that a virtual machine may need."""
    modules = path.startswith(("lib/modules/", "usr/lib/modules/"))
    unwanted = any(part in path for part in _MODULES_UNWANTED)
    return path.startswith("boot/vmlinuz-") or (modules and not unwanted)


def _config(made: Made) -> str:
    return f"""\
# vmm run --config {made.config.name}
image = "{made.kernel.name}"
initrd = "{made.initrd.name}"
disk = ["{made.image.name}"]
append = "console=ttyS0 root=/dev/vda rw"
memory = "512M"
# net = ["user"]       # a network that needs no privileges, but the program passt
"""


def _version(deb: Path) -> tuple[str, str]:
    name, version, _ = deb.name.split("_")
    return name, version.replace("%3a", ":")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glassvm" / "image"


@contextlib.contextmanager
def _turn(cache: Path, told: Callable[[str], None]) -> Iterator[Path]:
    """An empty folder to work in, which is one build's alone, and gone behind it."""
    cache.mkdir(parents=True, exist_ok=True)
    work = cache / "building"
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told("waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)  # what a killed build left
        (work / "root").mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _complete(folder: Path) -> Iterator[Callable[[Path], Path]]:
    """Names for files that are being made: they get their own at the end, if it is a good one."""
    new: dict[Path, Path] = {}

    def begin(path: Path) -> Path:
        new[path] = folder / f".{path.name}.{os.getpid()}"
        return new[path]

    try:
        yield begin
        for path, early in new.items():
            early.replace(path)
    finally:
        for early in new.values():
            early.unlink(missing_ok=True)
