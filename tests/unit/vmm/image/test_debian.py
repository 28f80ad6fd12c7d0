"""The whole way from an archive of packages to a disk, with a tiny archive."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from vmm.cli import main
from vmm.image import settle
from vmm.image.debian import Looks, build
from vmm.lab.tools import LabError, find_tool

SIZE = 64 << 20


def debugfs(image, request):
    return subprocess.run(
        [find_tool("debugfs"), "-R", request, image], capture_output=True, check=True
    ).stdout


def cat(image, path):
    """A file in an image."""
    return debugfs(image, f"cat {path}")


@pytest.fixture
def image(archive, tmp_path):
    archive()
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "tiny.img"


def test_a_disk_with_all_that_boots_it(image, tmp_path):
    told = []
    made = build(image, size=SIZE, extra=["extra"], told=told.append)
    assert sorted(p.name for p in image.parent.iterdir()) == [
        *("tiny.img", "tiny.initrd", "tiny.toml", "tiny.vmlinuz"),
    ]
    assert made.kernel.read_bytes() == b"KERNEL"
    checked = subprocess.run([find_tool("e2fsck"), "-fn", image], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert cat(image, "/usr/bin/extra") == b"extra"
    assert made.packages["extra"] == "1:1.0-1"
    assert "nothing-of-this-is-there" not in made.packages  # what a kernel needs to be installed
    assert cat(image, "/usr/lib/modules/6.1.0-1-cloud-amd64/kernel/drivers/virtio_blk.ko") == b"BLK"
    assert b"BIG" not in cat(
        image, "/usr/lib/modules/6.1.0-1-cloud-amd64/kernel/drivers/net/ethernet/big.ko"
    )
    assert cat(image, "/etc/hostname") == b"debian\n"
    assert b"Status: install ok unpacked\n" in cat(image, "/var/lib/dpkg/status")
    assert b'Fast link dest: "/run"' in debugfs(image, "stat /var/run")
    assert b"test main" in cat(image, "/etc/apt/sources.list")
    assert told[0] == "looking for packages"
    assert "unpacking 1 of " in told[1]
    assert list((tmp_path / "cache/glassvm/image").glob("building*")) == []


def test_the_initramfs_has_the_way_to_the_disk(image):
    made = build(image, size=SIZE)
    data = gzip.decompress(made.initrd.read_bytes())
    for name in (b"init", b"bin/busybox", b"modules/00-virtio_mmio.ko", b"02-virtio_blk.ko"):
        assert name + b"\0" in data
    assert b"ext4" not in data.replace(b"mount -t ext4", b"")  # built in
    assert b"BUSYBOX" in data


def test_root_is_logged_in_or_has_a_password(image):
    build(image, size=SIZE)
    assert cat(image, "/etc/shadow").startswith(b"root::")
    assert b"agetty --autologin root --noclear" in cat(image, "/usr/local/sbin/console-login")
    build(image, size=SIZE, looks=Looks("box", "secret"))
    assert cat(image, "/etc/hostname") == b"box\n"
    root, daemon = cat(image, "/etc/shadow").decode().splitlines()
    _, kind, salt, digest = root.split(":")[1].split("$")
    assert (kind, len(salt), len(digest)) == ("6", 16, 86)
    assert daemon.startswith("daemon:*:")
    assert b"agetty --noclear" in cat(image, "/usr/local/sbin/console-login")
    assert cat(image, "/etc/passwd").startswith(b"root:x:0:0:")


def test_pam_is_as_debian_has_it(image):
    build(image, size=SIZE)
    assert cat(image, "/etc/pam.d/common-auth") == (
        b"# first\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n"
        b"auth\trequisite\tpam_deny.so\n"
    )
    saved = cat(image, "/var/lib/pam/auth")
    assert saved == b"Module: unix\n[success=end default=ignore]\tpam_unix.so nullok\n"
    assert cat(image, "/var/lib/pam/seen") == b"unix\n"


TAKES_FOR_ITS_OWN = r"""
my $program = `cat /usr/sbin/pam-auth-update`;
my ($look) = $program =~ /(^sub diff_profiles.*?^})/ms;
eval $look;
my $found = diff_profiles("$ARGV[0]/etc/pam.d", "$ARGV[0]/var/lib/pam");
print $found ? join(" ", @{$found->{mods}}, keys %$found) : "changed by a user";
"""
"""What pam-auth-update looks at before it dares to write."""


def test_pams_files_are_taken_for_its_own_by_what_writes_them_elsewhere(tmp_path):
    if not Path("/usr/sbin/pam-auth-update").is_file():
        pytest.skip("this machine has no libpam-runtime")
    shutil.copytree("/usr/share/pam", tmp_path / "usr/share/pam")
    settle._pam(tmp_path)
    told = subprocess.run(
        ["perl", "-e", TAKES_FOR_ITS_OWN, tmp_path], capture_output=True, text=True, check=True
    )
    assert told.stdout == "unix unix unix null unix null unix mods"


def test_the_configuration_names_what_is_beside_it(image):
    made = build(image, size=SIZE)
    read = tomllib.loads(made.config.read_text())
    assert (read["image"], read["initrd"]) == ("tiny.vmlinuz", "tiny.initrd")
    assert read["disk"] == ["tiny.img"]
    assert {path.name for path in image.parent.iterdir()} >= {"tiny.vmlinuz", "tiny.initrd"}


def test_a_build_that_fails_leaves_what_was_there(image):
    image.write_bytes(b"before")
    with pytest.raises(LabError, match="are needed and 16 MiB given"):
        build(image, size=16 << 20)
    assert [p.name for p in image.parent.iterdir()] == ["tiny.img"]
    assert image.read_bytes() == b"before"


def test_a_package_that_is_not_there_is_named(image):
    with pytest.raises(LabError, match="Unable to locate package nosuch"):
        build(image, size=SIZE, extra=["nosuch"])
    assert list(image.parent.iterdir()) == []


def test_the_command_says_how_to_boot_it_and_nothing_else_to_a_pipe(image, capsys):
    assert main(["image", "debian", str(image), "--size", "64M"]) == 0
    out, err = capsys.readouterr()
    assert out == f"vmm run --config {image.with_suffix('.toml')}\n"
    assert err == ""


def test_the_command_tells_facts_as_json(image, capsys):
    assert main(["image", "debian", str(image), "--size", "64M", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["image"] == str(image)
    assert facts["size"] == SIZE > facts["allocated"]
    assert facts["packages"]["linux-image-6.1.0-1-cloud-amd64"] == "1:1.0-1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.img", "--size", "1M"], "--size 1M: give 16M or more, a multiple of 4K"),
        (["a.img", "--size", "x"], "--size 'x': not a size; write a whole number and K, M, G or T"),
        (["a.toml"], "a.toml: the disk's file; its kernel and others get names like it"),
        (["/no/such/a.img"], "/no/such: no such folder"),
        (["a.img", "--hostname", "a b"], "--hostname a b: use letters, digits and dashes"),
        (["a.img", "--release", "a b"], "--release a b: a name like trixie is wanted"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(words, message, capsys, monkeypatch):
    monkeypatch.setattr("vmm.image.debian.check_host", lambda tools: pytest.fail("too late"))
    assert main(["image", "debian", *words]) == 2
    assert capsys.readouterr().err == f"vmm: {message}\n"
