"""A folder as an ext4 file system in a file, with the owners that its files should have.

mke2fs copies the owners that files have on this machine, where only root may give them others; so
they are set in the image.

Spec: mke2fs(8), "-d"; debugfs(8), "set_inode_field".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vmm.lab.rootfs import tree_size
from vmm.lab.tools import LabError, run_tool

__all__ = ["make_disk"]

_SPARE = 48 << 20
"""What a disk has to have beyond its files: the journal, tables of inodes, and a little room."""


def make_disk(root: Path, image: Path, size: int, owners: Mapping[str, tuple[int, int]]) -> None:
    """Write the folder `root` as an ext4 file system of `size` bytes, all of its files root's but
    those in `owners`.

    Raises:
        LabError: it does not fit, or mke2fs failed.
    """
    needed = tree_size(root) + _SPARE
    if needed > size:
        raise LabError(
            f"{needed >> 20} MiB are needed and {size >> 20} MiB given: use a larger --size"
        )
    run_tool(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "1", "-b", "4096", "-L", "root"),
            *("-E", "root_owner=0:0", "-d", root, image, f"{size >> 10}k"),
        ],
        doing=f"make the file system {image.name}",
    )
    if os.geteuid() != 0:
        _give_away(root, image, owners)


def _give_away(root: Path, image: Path, owners: Mapping[str, tuple[int, int]]) -> None:
    """Set the owner of every file in the image."""
    requests = []
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.relpath(os.path.join(folder, name), root)
            uid, gid = owners.get(path, (0, 0))
            quoted = '"/' + path.replace('"', '""') + '"'
            requests += [f"sif {quoted} uid {uid}\n", f"sif {quoted} gid {gid}\n"]
    script = image.with_name(f"{image.name}.owners")
    script.write_text("".join(requests))
    try:
        run_tool(["debugfs", "-w", "-f", script, image], doing=f"set owners in {image.name}")
    finally:
        script.unlink()
