"""The modules' order and their compression."""

from __future__ import annotations

import lzma
import shutil
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
