"""A folder as a file system, and whose the files in it are."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from vmm.image import disk
from vmm.image.disk import make_disk
from vmm.lab.tools import LabError, find_tool

SIZE = 64 << 20


def owner(image, path):
    shown = subprocess.run(
        [find_tool("debugfs"), "-R", f'stat "{path}"', image],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"User: +(\d+) +Group: +(\d+)", shown)
    assert found, shown
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("as_root", [True, False])
def test_files_are_roots_but_those_that_are_not(tmp_path, monkeypatch, as_root):
    root, image = tmp_path / "root", tmp_path / "disk.img"
    for name in ("etc/shadow", 'a "b" c', "plain"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link").symlink_to("plain")
    owners = {"etc/shadow": (0, 42), "plain": (7, 8)}
    if os.geteuid() == 0:
        for path in root.rglob("*"):
            uid, gid = owners.get(str(path.relative_to(root)), (0, 0)) if as_root else (12, 34)
            os.chown(path, uid, gid, follow_symlinks=False)
    elif as_root:
        pytest.skip("only root can give files away beforehand")
    monkeypatch.setattr(disk.os, "geteuid", lambda: 0 if as_root else 1000)
    make_disk(root, image, SIZE, owners)
    assert owner(image, "/etc/shadow") == (0, 42)
    assert owner(image, "/plain") == (7, 8)
    for path in ("/", "/etc", '/a ""b"" c', "/link"):
        assert owner(image, path) == (0, 0), path
    checked = subprocess.run([find_tool("e2fsck"), "-fn", image], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert image.stat().st_size == SIZE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk.img", "root"]


def test_what_does_not_fit_says_what_does(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "large").write_bytes(bytes(20 << 20))
    with pytest.raises(LabError, match=r"^68 MiB are needed and 64 MiB given: use a larger --size"):
        make_disk(root, tmp_path / "disk.img", SIZE, {})
    assert not (tmp_path / "disk.img").exists()
