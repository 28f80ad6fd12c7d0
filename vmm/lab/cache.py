"""The cache of built labs, each under a hash of what goes into it.

`~/.cache/glassvm/lab`, or `$GLASSVM_LAB_CACHE`. Builds take turns by a lock, and a lab appears
under its name only when it is whole, so that several runs can start at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmm.lab import initramfs, packages, rootfs

__all__ = ["Image", "cache_folder", "key", "lab_image"]

_HERE = Path(__file__).resolve().parent

# What decides how a lab is made, beside the names of the packages.
_RECIPE = (
    *("cache.py", "packages.py", "rootfs.py", "initramfs.py", "../../firmware/cpio.py"),
    *("inside/initramfs.sh", "inside/init.sh", "inside/steady.py"),
)

_UNUSED_S = 30 * 24 * 3600


@dataclass(frozen=True)
class Image:
    """A built lab: the folder with its kernel, its initramfs and its root file system."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, a bzImage."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """The cpio archive."""
        return self.folder / "initramfs"

    @property
    def root(self) -> Path:
        """The ext4 image; nothing may write to it."""
        return self.folder / "root.ext4"


def cache_folder() -> Path:
    """Where labs are kept."""
    if own := os.environ.get("GLASSVM_LAB_CACHE"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glassvm" / "lab"


def key(extra: Sequence[str], wheels: Sequence[str]) -> str:
    """The name of the lab with the Debian packages `extra` and the Python packages `wheels`."""
    recipe = {name: (_HERE / name).read_text() for name in _RECIPE}
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    system = [release.get("ID"), release.get("VERSION_ID")]
    text = json.dumps([recipe, sorted(set(extra)), sorted(wheels), system])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lab_image(
    extra: Sequence[str],
    say: Callable[[str], None],
    *,
    wheels: Sequence[str] = (),
    rebuild: bool = False,
) -> Image:
    """The lab, built where the cache has none.

    `extra` are Debian packages that go inside as well, `wheels` Python packages; `say` is told
    of what takes long; `rebuild` makes a cached lab anew, with the packages of today.

    Raises:
        LabError: it cannot be built.
    """
    wheels = [*rootfs.requirements(), *wheels]
    cache = cache_folder()
    folder = cache / "images" / key(extra, wheels)
    if rebuild or not folder.is_dir():
        with _lock(cache, say):
            if rebuild or not folder.is_dir():
                say("building the emulated host; this is done once")
                started = time.monotonic()
                _build(cache, folder, extra, wheels)
                say(f"built in {time.monotonic() - started:.0f} s: {folder}")
    os.utime(folder)  # what is not used for long is removed by the next build
    return Image(folder)


@contextmanager
def _lock(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that is building the emulated host")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(cache: Path, folder: Path, extra: Sequence[str], wheels: Sequence[str]) -> None:
    """Build under a name of its own, then rename. Called under the lock."""
    work = cache / "building"
    shutil.rmtree(work, ignore_errors=True)  # what a killed build left
    new = work / "image"
    root = work / "root"
    new.mkdir(parents=True)
    root.mkdir()
    try:
        debs = packages.fetch(extra, cache)
        rootfs.populate(root, debs, wheels)
        (new / "initramfs").write_bytes(initramfs.build(root))
        # The host keeps it as well: it is what guests are tested with.
        shutil.copy(next(root.glob("boot/vmlinuz-*")), new / "vmlinuz")
        rootfs.make_ext4(root, new / "root.ext4", free_mib=256)
        (new / "packages.txt").write_text("".join(f"{deb.name}\n" for deb in sorted(debs)))
        folder.parent.mkdir(exist_ok=True)
        if folder.is_dir():
            folder.rename(work / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for deb in debs:
        os.utime(deb)
    for kept in (*folder.parent.iterdir(), *(cache / "debs").iterdir()):
        if kept.stat().st_mtime < time.time() - _UNUSED_S:
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
