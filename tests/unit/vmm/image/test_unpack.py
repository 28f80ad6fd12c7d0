"""Unpacking packages, and dpkg's own view of what was unpacked."""

from __future__ import annotations

import os
import subprocess
import tarfile

import pytest

from vmm.image.unpack import Tree
from vmm.lab.tools import LabError, find_tool


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return Tree(root)


def nobody(number, name):
    pass


def test_files_from_before_the_merge_of_usr_land_behind_the_links(tree, deb):
    tree.add([deb("a", {"bin/a": "A", "lib/x/b": "B", "etc/c": "C"})], nobody)
    assert (tree.root / "bin").is_symlink()
    assert (tree.root / "usr/bin/a").read_text() == "A"
    assert (tree.root / "usr/lib/x/b").read_text() == "B"
    assert (tree.root / "etc/c").read_text() == "C"


def test_documents_are_left_out_and_copyrights_are_not(tree, deb):
    files = {"usr/share/doc/a/copyright": "C", "usr/share/doc/a/x": "", "usr/share/man/m/y": ""}
    tree.add([deb("a", files)], nobody)
    left = [p.name for p in (tree.root / "usr/share").rglob("*") if p.is_file()]
    assert left == ["copyright"]


def test_each_package_is_told_of_before_it_comes(tree, deb):
    told = []
    tree.add([deb("a"), deb("b")], lambda number, name: told.append((number, name)))
    assert told == [(0, "a"), (1, "b")]


def test_dpkg_reads_what_was_written(tree, deb):
    debs = [
        deb("a", {"usr/bin/a": "A"}, "Depends: b\n", {"postinst": "#!/bin/sh\n"}),
        deb("b", {"usr/lib/b": "B"}, "Multi-Arch: same\n"),
    ]
    tree.add(debs, nobody)
    tree.write_database()
    query = ["dpkg-query", f"--root={tree.root}"]
    listed = subprocess.run(
        [*query, "-W", "-f", "${binary:Package} ${Version} ${db:Status-Abbrev}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == "a 1:1.0-1 iU \nb:amd64 1:1.0-1 iU \n"
    assert listed.stderr == ""
    files = subprocess.run([*query, "-L", "a"], capture_output=True, text=True, check=True)
    assert files.stdout.splitlines() == ["/.", "/usr", "/usr/bin", "/usr/bin/a"]
    script = tree.root / "var/lib/dpkg/info/a.postinst"
    assert os.access(script, os.X_OK)


def test_triggers_are_known(tree, deb):
    text = "# comment\ninterest-noawait /usr/lib\ninterest update-a\nactivate other\n"
    tree.add([deb("a", control={"triggers": text})], nobody)
    tree.write_database()
    triggers = tree.root / "var/lib/dpkg/triggers"
    assert (triggers / "File").read_text() == "/usr/lib a/noawait\n"
    assert (triggers / "update-a").read_text() == "a\n"


def test_of_a_kernel_only_what_is_wanted_comes(tree, deb):
    tree.add_files(deb("k", {"boot/vmlinuz": "K", "boot/config": ""}), lambda p: "vm" in p)
    assert [p.name for p in (tree.root / "boot").iterdir()] == ["vmlinuz"]


def test_modes_are_kept(tree, deb, tmp_path):
    path = tmp_path / "packages/a"
    (path / "bin").mkdir(parents=True)
    (path / "bin/su").write_text("su")
    (path / "bin/su").chmod(0o4755)
    tree.add([deb("a")], nobody)
    assert (tree.root / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755


def test_owners_are_noted_where_the_files_are(tree, tmp_path):
    (tmp_path / "p/DEBIAN").mkdir(parents=True)
    for name in ("sbin/chkpwd", "var/local", "etc/x"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text("")
    (tmp_path / "p/DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: N <a@b.c>\nDescription: d\n"
    )
    data = tmp_path / "data.tar"
    with tarfile.open(data, "w") as tar:
        for name, gid in (("./sbin/chkpwd", 42), ("./var/local", 50), ("./etc/x", 0)):
            member = tar.gettarinfo(tmp_path / "p" / name, name)
            member.uid, member.gid = 0, gid
            with (tmp_path / "p" / name).open("rb") as file:
                tar.addfile(member, file)
    control = tmp_path / "control.tar"
    with tarfile.open(control, "w") as tar:
        tar.add(tmp_path / "p/DEBIAN/control", "./control")
    (tmp_path / "debian-binary").write_text("2.0\n")
    made = tmp_path / "p_1_all.deb"
    members = ["debian-binary", "control.tar", "data.tar"]
    subprocess.run(["ar", "rc", made, *members], cwd=tmp_path, check=True)
    tree.add([made], nobody)
    assert tree.owners == {"usr/sbin/chkpwd": (0, 42), "var/local": (0, 50)}


@pytest.mark.parametrize("data", [b"", b"no archive", b"!<arch>\ndebian-binary   "])
def test_a_damaged_package_is_one_line(tree, tmp_path, data):
    bad = tmp_path / "bad_1_amd64.deb"
    bad.write_bytes(data)
    with pytest.raises(LabError, match=r"^cannot unpack bad_1_amd64\.deb: ") as caught:
        tree.add([bad], nobody)
    assert "\n" not in str(caught.value)


def test_without_dpkg_it_says_so(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("vmm.image.unpack.find_tool", lambda name: None)
    with pytest.raises(LabError, match="dpkg-deb is not installed"):
        tree.add([tmp_path / "a_1_all.deb"], nobody)
    assert find_tool("dpkg-deb")
