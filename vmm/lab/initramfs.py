"""The initramfs: a static busybox, the modules that reach the root file system, one script.

The archive is made by us instead of by a cpio program, so that it can hold a device node
without root. It is not compressed: unpacking would be emulated.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from firmware.cpio import Archive
from vmm.lab.tools import LabError, run_tool

__all__ = ["build", "load_order", "read_module"]

_HERE = Path(__file__).resolve().parent

# The root disk, the root file system and the port for the command's output.
MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtio_console")


def _module_name(path: str) -> str:
    """The module's name by its path: "kernel/.../virtio-rng.ko.xz" is virtio_rng."""
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def load_order(wanted: Iterable[str], dependencies: str, builtin: str) -> list[str]:
    """The paths of the modules `wanted` and all that they need, each after what it needs.

    `dependencies` is the text of modules.dep and `builtin` of modules.builtin; what is built into
    the kernel is left out.

    Raises:
        LabError: the kernel has one of `wanted` neither as a module nor built in.
    """
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        paths[_module_name(path)] = path
        needs[path] = rest.split()
    present = {_module_name(path) for path in builtin.split()}
    order: list[str] = []

    def visit(path: str) -> None:
        for needed in needs[path]:
            visit(needed)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in present:
            continue
        if name not in paths:
            raise LabError(f"the lab's kernel has no module {name}")
        visit(paths[name])
    return order


def read_module(path: Path) -> bytes:
    """A module's bytes, decompressed: busybox loads no compressed ones.

    Raises:
        LabError: it is compressed with zstd and there is no zstd program.
    """
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".zst":
            plain = path.with_suffix("")
            run_tool(["zstd", "-d", "-q", "-f", path, "-o", plain], doing=f"unpack {path.name}")
            data = plain.read_bytes()
            plain.unlink()
    return data


def build(root: Path) -> bytes:
    """The initramfs for the root file system in the folder `root`.

    Raises:
        LabError: a module is missing or cannot be read.
    """
    modules = next((root / "lib/modules").iterdir())
    order = load_order(
        MODULES, (modules / "modules.dep").read_text(), (modules / "modules.builtin").read_text()
    )
    archive = Archive()
    for folder in ("bin", "dev", "modules", "root"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes())
    for number, path in enumerate(order):
        # Numbered, so that the script loads them in this order by their names' order.
        name = f"modules/{number:02}-{_module_name(path)}.ko"
        archive.add(name, stat.S_IFREG | 0o644, read_module(modules / path))
    archive.add("init", stat.S_IFREG | 0o755, (_HERE / "inside/initramfs.sh").read_bytes())
    return archive.finish()
