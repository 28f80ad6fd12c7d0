"""Disk images."""

from __future__ import annotations

import os

import pytest

from vmm.errors import ConfigError
from vmm.host.disk import DiskImage, floppy_geometry, hard_disk_geometry


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(bytes([n]) * 512 for n in range(8)))
    return path


def test_sectors_are_read_by_number(image):
    with DiskImage(image) as disk:
        assert (disk.sectors, disk.size_bytes) == (8, 4096)
        assert disk.read(3, 2) == b"\x03" * 512 + b"\x04" * 512
        assert disk.read(8, 0) == b""


def test_a_writable_disk_writes_to_its_file(image):
    with DiskImage(image, access="writable") as disk:
        disk.write(7, b"\xaa" * 512)
        disk.flush()
        assert disk.read(7, 1) == b"\xaa" * 512
    assert image.read_bytes()[3584:] == b"\xaa" * 512
    assert image.stat().st_size == 4096


def test_a_private_disk_leaves_its_file_alone(image):
    before = image.read_bytes()
    image.chmod(0o444)
    with DiskImage(image, access="private") as disk:
        disk.write(1, b"\xaa" * 1024)
        assert disk.read(0, 4) == bytes(512) + b"\xaa" * 1024 + b"\x03" * 512
        disk.flush()
    assert image.read_bytes() == before
    with DiskImage(image) as disk:
        assert disk.read(1, 1) == b"\x01" * 512


def test_a_read_only_disk_refuses(image):
    with DiskImage(image, access="read-only") as disk:
        assert disk.read_only
        with pytest.raises(PermissionError):
            disk.write(0, bytes(512))


def test_ranges_are_checked(image):
    with DiskImage(image, access="writable") as disk:
        for lba, count in ((8, 1), (7, 2), (-1, 1), (0, -1), (1 << 60, 1)):
            with pytest.raises(ValueError, match="not on the disk"):
                disk.read(lba, count)
        with pytest.raises(ValueError, match="not on the disk"):
            disk.write(8, bytes(512))
        with pytest.raises(ValueError, match="whole sectors"):
            disk.write(0, b"short")
    assert image.stat().st_size == 4096


def test_the_last_sector_is_filled_up(tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 700)
    with DiskImage(path) as disk:
        assert disk.sectors == 2
        assert disk.read(1, 1) == b"x" * 188 + bytes(324)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "pipe"])
def test_what_is_no_disk_is_one_line(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigError) as error:
        DiskImage(path, access="writable" if kind == "missing" else "private")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_closing_twice_is_harmless(image):
    disk = DiskImage(image)
    disk.close()
    disk.close()


@pytest.mark.parametrize(
    ("kib", "shape"),
    [
        (160, (40, 1, 8)),
        (360, (40, 2, 9)),
        (720, (80, 2, 9)),
        (1200, (80, 2, 15)),
        (1440, (80, 2, 18)),
        (2880, (80, 2, 36)),
        (1, (80, 2, 18)),
    ],
)
def test_floppy_shapes(kib, shape):
    found = floppy_geometry(kib * 2)
    assert (found.cylinders, found.heads, found.sectors) == shape


@pytest.mark.parametrize(
    ("sectors", "heads"),
    [(1, 16), (1_032_192, 16), (1_033_200, 32), (4_128_768, 64), (8_000_000, 128), (1 << 40, 255)],
)
def test_hard_disk_shapes(sectors, heads):
    found = hard_disk_geometry(sectors)
    assert (found.heads, found.sectors) == (heads, 63)
    assert 1 <= found.cylinders <= 1024
