"""What `--disk` says of a virtio disk."""

from __future__ import annotations

import pytest

from vmm.errors import ConfigError
from vmm.virtio.disk_options import DiskSpec


@pytest.mark.parametrize(
    ("text", "path", "access", "serial", "queues"),
    [
        ("a.img", "a.img", "writable", "", 1),
        ("a.img:ro", "a.img", "read-only", "", 1),
        ("a,b=c.img:cow,serial=one two,queues=4", "a,b=c.img", "private", "one two", 4),
        ("/x/a.img,serial=", "/x/a.img", "writable", "", 1),
    ],
)
def test_what_a_text_says(text, path, access, serial, queues):
    spec = DiskSpec(text)
    assert (spec.path, spec.access, spec.serial, spec.queues) == (path, access, serial, queues)
    assert spec.limit() is None


def test_a_text_with_limits():
    spec = DiskSpec("a.img,iops=100,bps=2M")
    assert (spec.iops, spec.bps) == (100, 2 << 20)
    limit = spec.limit()
    assert limit.wait_ns() == 0
    limit.take(4 << 20)
    assert limit.wait_ns() > 0


@pytest.mark.parametrize(
    "text",
    ["a,serial=ä", "a,serial=" + "x" * 21, "a,queues=0", "a,queues=65", "a,iops=no", "a,bps=0"],
)
def test_texts_that_cannot_be(text):
    with pytest.raises(ConfigError) as caught:
        DiskSpec(text)
    assert "\n" not in str(caught.value)


QCOW2 = b"QFI\xfb" + (3).to_bytes(4, "big")
VDI = bytes(0x40) + b"\x7f\x10\xda\xbe"


@pytest.mark.parametrize(
    ("name", "beginning", "found"),
    [
        ("a.img", b"", "raw"),
        ("a.qcow2", b"", "raw"),
        ("a.qcow2", QCOW2, "qcow2"),
        ("A.QCOW2", QCOW2, "qcow2"),
        ("a.qcow", QCOW2[:7] + b"\1", "qcow"),
        ("a.vmdk", b"KDMV\1\0\0\0", "vmdk"),
        ("a.vmdk", b"# Disk DescriptorFile\n", "vmdk"),
        ("a.vdi", VDI, "vdi"),
        ("a.vhdx", b"vhdxfile", "vhdx"),
        ("a.vhd", b"conectix", "vpc"),
        ("a.qed", b"QED\0", "qed"),
    ],
)
def test_formats_that_are_found(tmp_path, name, beginning, found):
    path = tmp_path / name
    path.write_bytes(beginning + bytes(600))
    assert DiskSpec(str(path)).found_format() == found
    assert DiskSpec(f"{path}:ro,format=vdi").found_format() == "vdi"


@pytest.mark.parametrize("name", ["a.img", "a.vmdk", "qcow2"])
def test_what_a_guest_wrote_into_its_raw_disk_is_not_believed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(QCOW2)
    with pytest.raises(ConfigError, match=r"add ,format=qcow2, or ,format=raw"):
        DiskSpec(str(path)).found_format()
    assert DiskSpec(f"{path},format=raw").found_format() == "raw"


def test_a_file_that_cannot_be_read_is_somebody_elses_to_tell(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", "\0"):
        assert DiskSpec(str(path)).found_format() == "raw"


@pytest.mark.parametrize("more", [":cow", ",serial=x", ",iops=5", ",bps=1M"])
def test_words_that_are_about_raw_images(more):
    at = more if more.startswith(":") else ""
    with pytest.raises(ConfigError, match="for raw images"):
        DiskSpec(f"a{at},format=qcow2{'' if at else more}").found_format()


def test_a_socket():
    spec = DiskSpec("vhost-user=run/s.sock").within("/x")
    assert (spec.socket, spec.access) == ("/x/run/s.sock", "writable")
    assert DiskSpec("vhost-user=/s,readonly").access == "read-only"
    assert DiskSpec("vhost-user=/s,readonly").within("/x").socket == "/s"
    assert DiskSpec("a.img:ro").within("/x").path == "/x/a.img"


@pytest.mark.parametrize(
    "text", ["vhost-user=", "vhost-user=,readonly", "vhost-user=/s,queues=2", "a,format=iso"]
)
def test_more_texts_that_cannot_be(text):
    with pytest.raises(ConfigError, match="--disk"):
        DiskSpec(text)
