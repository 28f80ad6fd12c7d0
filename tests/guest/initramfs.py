"""An initial file system for Linux guests: a static busybox, a script as /init, and other files.

    python tests/guest/initramfs.py OUT [SCRIPT]

The script is that of the user, or one that prints a line and powers off.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.cpio import Archive

__all__ = ["BUSYBOX", "make_initramfs"]

BUSYBOX = Path("/bin/busybox")

PRELUDE = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
"""
"""What every script begins with: busybox's commands, /proc, /sys and /dev."""

HELLO = "echo init is here\npoweroff -f\n"


def make_initramfs(
    script: str, files: Mapping[str, bytes] | None = None, *, busybox: Path = BUSYBOX
) -> bytes:
    """Return the archive: /bin/busybox, `script` as /init behind `PRELUDE`, and `files` by path."""
    archive = Archive()
    folders = {str(up): None for name in files or {} for up in [*Path(name).parents][-2::-1]}
    for folder in ("bin", "dev", "proc", "sys", "root", "tmp", *folders):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, (PRELUDE + script).encode())
    for name, content in (files or {}).items():
        archive.add(name, stat.S_IFREG | 0o755, content)
    return archive.finish()


if __name__ == "__main__":
    text = Path(sys.argv[2]).read_text() if len(sys.argv) > 2 else HELLO
    Path(sys.argv[1]).write_bytes(make_initramfs(text))
