"""The archive's format, the modules' order and their compression."""

from __future__ import annotations

import lzma
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from vmm.lab import initramfs
from vmm.lab.tools import LabError

DEPENDENCIES = """\
kernel/virtio/virtio_pci.ko.xz: kernel/virtio/virtio_ring.ko.xz kernel/virtio/virtio.ko.xz
kernel/virtio/virtio.ko.xz: kernel/virtio/virtio_ring.ko.xz
kernel/virtio/virtio_ring.ko.xz:
kernel/block/virtio-blk.ko.xz: kernel/virtio/virtio.ko.xz kernel/virtio/virtio_ring.ko.xz
"""


def test_each_module_comes_after_what_it_needs() -> None:
    order = initramfs.load_order(("virtio_pci", "virtio_blk"), DEPENDENCIES, "")
    names = [path.rsplit("/", 1)[1] for path in order]
    assert names == ["virtio_ring.ko.xz", "virtio.ko.xz", "virtio_pci.ko.xz", "virtio-blk.ko.xz"]


def test_what_is_built_in_is_left_out() -> None:
    assert initramfs.load_order(("ext4",), DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n") == []


def test_a_module_that_is_nowhere_is_named() -> None:
    with pytest.raises(LabError, match="no module btrfs"):
        initramfs.load_order(("btrfs",), DEPENDENCIES, "")


def test_archive_is_read_by_cpio() -> None:
    archive = initramfs.Archive()
    archive.add("bin", stat.S_IFDIR | 0o755)
    archive.add("bin/tool", stat.S_IFREG | 0o755, b"12345")
    archive.add("dev", stat.S_IFCHR | 0o600, device=(5, 1))
    data = archive.finish()
    assert data[:6] == b"070701"
    assert data.count(b"070701") == 4
    assert len(data) % 4 == 0
    program = shutil.which("cpio")
    busybox = shutil.which("busybox")
    if not (program or busybox):
        pytest.skip("neither cpio nor busybox is installed")
    argv = [program] if program else [str(busybox), "cpio"]
    listing = subprocess.run([*argv, "-t"], input=data, capture_output=True, check=True).stdout
    assert listing.decode().split() == ["bin", "bin/tool", "dev"]


def test_header_fields_are_where_newc_has_them() -> None:
    archive = initramfs.Archive()
    archive.add("c", stat.S_IFCHR | 0o600, device=(5, 1))
    data = archive.finish()
    fields = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert fields[1] == 0o20600  # c_mode
    assert fields[6] == 0  # c_filesize
    assert fields[9:11] == [5, 1]  # c_rdevmajor, c_rdevminor
    assert fields[11] == 2  # c_namesize, with its NUL


def test_modules_are_decompressed(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(b"plain")
    (tmp_path / "b.ko.xz").write_bytes(lzma.compress(b"packed"))
    assert initramfs.read_module(tmp_path / "a.ko") == b"plain"
    assert initramfs.read_module(tmp_path / "b.ko.xz") == b"packed"


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
def test_modules_packed_with_zstd(tmp_path: Path) -> None:
    (tmp_path / "c.ko").write_bytes(b"also packed")
    subprocess.run(["zstd", "-q", "--rm", tmp_path / "c.ko"], check=True)
    assert initramfs.read_module(tmp_path / "c.ko.zst") == b"also packed"
    assert not (tmp_path / "c.ko").exists()
