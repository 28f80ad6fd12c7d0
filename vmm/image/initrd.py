"""The initramfs of a disk: a static busybox, the modules that reach the disk, one script."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

from firmware.cpio import Archive
from vmm.lab.initramfs import load_order, read_module

__all__ = ["MODULES", "build"]

MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "ext4")
"""The way to the root file system; what else the kernel has devices for is loaded from there."""

_SCRIPT = Path(__file__).resolve().parent / "inside/initrd.sh"


def build(root: Path) -> bytes:
    """The initramfs for the root file system in the folder `root`, with its kernel's modules.

    Raises:
        LabError: a module is missing or cannot be read.
    """
    modules = next((root / "usr/lib/modules").iterdir())
    order = load_order(
        MODULES, (modules / "modules.dep").read_text(), (modules / "modules.builtin").read_text()
    )
    archive = Archive()
    for folder in ("bin", "dev", "modules", "proc", "root"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, (root / "usr/bin/busybox").read_bytes())
    for number, path in enumerate(order):
        # Numbered, so that the script loads them in this order by their names' order.
        name = f"modules/{number:02}-{Path(path).name.split('.ko')[0]}.ko"
        archive.add(name, stat.S_IFREG | 0o644, read_module(modules / path))
    archive.add("init", stat.S_IFREG | 0o755, _SCRIPT.read_bytes())
    return gzip.compress(archive.finish(), 6, mtime=0)
