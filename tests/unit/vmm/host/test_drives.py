"""BIOS drive numbers and how disks may be written to."""

from __future__ import annotations

import os

import pytest

from vmm.errors import ConfigError
from vmm.host.drives import open_drives, parse_disk


@pytest.fixture
def disk(tmp_path):
    def make(name: str, sectors: int = 4):
        path = tmp_path / name
        path.write_bytes(bytes(sectors * 512))
        return path

    return make


@pytest.fixture
def drives():
    opened = []

    def make(*args):
        found = open_drives(*args)
        opened.extend(found.values())
        return found

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", ("a.img", "writable")),
        ("a.img:rw", ("a.img", "writable")),
        ("a.img:ro", ("a.img", "read-only")),
        ("a:b:cow", ("a:b", "private")),
        ("a:b", ("a:b", "writable")),
        (":ro", (":ro", "writable")),
        ("", ("", "writable")),
    ],
)
def test_a_suffix_says_how_a_disk_may_be_written_to(text, expected):
    assert parse_disk(text) == expected


def test_hard_disks_follow_the_boot_drive(disk, drives):
    found = drives(disk("boot"), 0x80, [str(disk("a")), f"{disk('b')}:ro"])
    assert {number: one.access for number, one in found.items()} == {
        0x80: "writable",
        0x81: "writable",
        0x82: "read-only",
    }


def test_behind_a_floppy_the_first_hard_disk_is_0x80(disk, drives):
    found = drives(disk("boot"), 0x00, [str(disk("a"))])
    assert sorted(found) == [0x00, 0x80]


def test_a_built_in_guest_has_no_drive_of_its_own(disk, drives):
    assert sorted(drives(None, 0x80, [str(disk("a"))])) == [0x80]


def test_a_boot_image_that_cannot_be_written_is_private(disk, drives, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert drives(disk("boot"), 0x80, [])[0x80].access == "private"


def test_there_are_numbers_for_eight_hard_disks(disk, drives):
    names = [str(disk("a"))] * 7
    assert len(drives(disk("boot"), 0x80, names)) == 8
    with pytest.raises(ConfigError, match="8 disks: the BIOS has numbers for 7 more"):
        open_drives(disk("boot"), 0x80, [*names, names[0]])


def test_a_missing_disk_is_named_and_nothing_stays_open(disk, tmp_path):
    boot = disk("boot")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=r"missing: cannot open .*: No such file or directory$"):
        open_drives(boot, 0x80, [str(tmp_path / "missing")])
    assert len(os.listdir("/proc/self/fd")) == before
