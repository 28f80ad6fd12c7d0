"""Archives for Linux, by their specification and by a program that reads them."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest

from firmware.cpio import Archive


def test_archive_is_read_by_cpio() -> None:
    archive = Archive()
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
    archive = Archive()
    archive.add("c", stat.S_IFCHR | 0o600, device=(5, 1))
    data = archive.finish()
    fields = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert fields[1] == 0o20600  # c_mode
    assert fields[6] == 0  # c_filesize
    assert fields[9:11] == [5, 1]  # c_rdevmajor, c_rdevminor
    assert fields[11] == 2  # c_namesize, with its NUL
