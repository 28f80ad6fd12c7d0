"""A Debian archive of a few tiny packages, which apt takes for a real one."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vmm.lab.tools import find_tool

BASE = (
    *("apt", "busybox-static", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "login", "mount"),
    *("netbase", "passwd", "procps", "usr-is-merged", "util-linux"),
)
PASSWD = "root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
COMMON_AUTH = "# first\n$auth_primary\nauth\trequisite\tpam_deny.so\n$auth_additional\n"
VERSION = "6.1.0-1-cloud-amd64"

Deb = Callable[..., Path]


@pytest.fixture(autouse=True)
def _tools() -> None:
    missing = [t for t in ("dpkg-deb", "mke2fs", "debugfs", "e2fsck") if find_tool(t) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture
def deb(tmp_path: Path) -> Deb:
    """Make a package of some files; those whose names end in a slash are folders."""

    def make(
        name: str,
        files: Mapping[str, str] = {},
        fields: str = "",
        control: Mapping[str, str] = {},
    ) -> Path:
        tree = tmp_path / "packages" / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1:1.0-1\nArchitecture: amd64\nMaintainer: Nobody <a@b.c>\n"
            f"{fields}Description: for a test\n of unpacking\n"
        )
        for path, text in control.items():
            (tree / "DEBIAN" / path).write_text(text)
            (tree / "DEBIAN" / path).chmod(0o755)
        for path, text in files.items():
            target = tree / path
            if path.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                target.symlink_to(text.removeprefix("-> "))
            else:
                target.write_text(text)
        pool = tmp_path / "archive/pool"
        pool.mkdir(parents=True, exist_ok=True)
        made = pool / f"{name}_1%3a1.0-1_amd64.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, made],
            check=True,
            capture_output=True,
        )
        return made

    return make


@pytest.fixture
def archive(tmp_path: Path, deb: Deb, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every package of a disk, as small as can be; the call makes its lists, for `build`."""
    if find_tool("apt-get") is None:
        pytest.skip("needs apt")
    for name in BASE:
        deb(name, {f"usr/bin/{name}": "#!/bin/sh\n"})
    deb(
        "base-files",
        {"bin/true": "x", "etc/debian_version": "12\n", "var/run/": ""},
        "Essential: yes\n",
    )
    deb(
        "base-passwd",
        {
            "usr/share/base-passwd/passwd.master": PASSWD,
            "usr/share/base-passwd/group.master": "root:*:0:\nshadow:*:42:\n",
            "usr/share/pam/common-auth": COMMON_AUTH,
        },
        "Essential: yes\n",
    )
    deb("busybox", {"bin/busybox": "BUSYBOX"}, "Essential: yes\n")
    folder = f"lib/modules/{VERSION}"
    deb(
        f"linux-image-{VERSION}",
        {
            f"boot/vmlinuz-{VERSION}": "KERNEL",
            f"{folder}/modules.order": "",
            f"{folder}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
            f"{folder}/kernel/drivers/virtio_mmio.ko": "MMIO",
            f"{folder}/kernel/drivers/virtio_pci.ko": "PCI",
            f"{folder}/kernel/drivers/virtio_blk.ko": "BLK",
            f"{folder}/kernel/drivers/net/ethernet/big.ko": "BIG",
        },
        "Depends: nothing-of-this-is-there\n",
    )
    deb("linux-image-cloud-amd64", fields=f"Depends: linux-image-{VERSION}\n")
    deb("nothing-of-this-is-there")
    deb("extra", {"usr/bin/extra": "extra"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def ready() -> None:
        root = tmp_path / "archive"
        stanzas = []
        for path in sorted((root / "pool").glob("*.deb")):
            fields = subprocess.run(
                ["dpkg-deb", "-f", path], check=True, capture_output=True, text=True
            ).stdout
            data = path.read_bytes()
            stanzas.append(
                f"{fields}Filename: pool/{path.name}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
            )
        lists = root / "dists/test/main/binary-amd64"
        shutil.rmtree(lists, ignore_errors=True)
        lists.mkdir(parents=True)
        (lists / "Packages").write_text("".join(stanzas))
        (lists / "Packages.gz").write_bytes(gzip.compress("".join(stanzas).encode()))
        monkeypatch.setattr(
            "vmm.image.packages.sources_list",
            lambda source: f"deb [trusted=yes] copy:{root} test main\n",
        )

    return ready
