from __future__ import annotations

import os

import pytest

from vmm.host.block import BlockFile

SECTORS = 40
CONTENT = bytes(n >> 9 & 0xFF for n in range(SECTORS * 512))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def opened(image):
    made = []

    def open_(access="writable", path=image, **more):
        made.append(BlockFile(path, access=access, **more))
        return made[-1]

    yield open_
    for disk in made:
        disk.close()


def views(*sizes):
    return [memoryview(bytearray(size)) for size in sizes]


@pytest.mark.parametrize("access", ["writable", "read-only", "private"])
def test_buffers_are_filled(opened, access):
    disk = opened(access)
    assert disk.sectors == SECTORS
    buffers = views(100, 1000, 436)
    disk.read_into(1024, buffers)
    assert b"".join(buffers) == CONTENT[1024 : 1024 + 1536]


def test_writes_go_to_the_file(opened, image):
    disk = opened()
    disk.write_from(512, [memoryview(b"a" * 300), memoryview(b"b" * 724)])
    assert image.read_bytes() == CONTENT[:512] + b"a" * 300 + b"b" * 724 + CONTENT[1536:]
    disk.flush()


def test_private_writes_are_seen_here_alone(opened, image):
    disk = opened("private")
    disk.write_from(512, [memoryview(b"a" * 300), memoryview(b"b" * 724)])
    buffers = views(700, 1348)
    disk.read_into(0, buffers)
    assert b"".join(buffers) == CONTENT[:512] + b"a" * 300 + b"b" * 724 + CONTENT[1536:2048]
    disk.discard(0, 1024)
    disk.zero(512, 512, unmap=True)
    disk.read_into(512, buffers[:1])
    assert bytes(buffers[0]) == bytes(512) + b"b" * 188
    assert image.read_bytes() == CONTENT


def test_a_read_only_disk_takes_nothing(opened, image):
    disk = opened("read-only")
    for refused in (
        lambda: disk.write_from(0, views(512)),
        lambda: disk.discard(0, 512),
        lambda: disk.zero(0, 512, unmap=False),
    ):
        with pytest.raises(OSError, match="read-only"):
            refused()
    assert image.read_bytes() == CONTENT


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes(opened, image, unmap):
    disk = opened()
    disk.zero(1024, 8192, unmap=unmap)
    assert image.read_bytes() == CONTENT[:1024] + bytes(8192) + CONTENT[9216:]


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_where_the_file_system_cannot(opened, image, unmap, monkeypatch):
    disk = opened()
    monkeypatch.setattr(disk, "_fallocate", lambda *_: False)
    disk.zero(1024, 8192, unmap=unmap)
    assert image.read_bytes() == CONTENT[:1024] + bytes(8192) + CONTENT[9216:]


def test_discard_gives_room_back(opened, tmp_path):
    path = tmp_path / "large.img"
    path.write_bytes(b"x" * (1 << 20))
    disk = opened(path=path)
    before = path.stat().st_blocks
    disk.discard(0, 1 << 19)
    assert path.stat().st_size == 1 << 20
    if path.stat().st_blocks == before:
        pytest.fail("the file system of the temporary folder punches no holes")
    assert path.read_bytes() == bytes(1 << 19) + b"x" * (1 << 19)


def test_the_last_sector_is_filled_with_zeros(opened, tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 700)
    disk = opened(path=path)
    assert disk.sectors == 2
    buffers = [memoryview(bytearray(b"\xff" * 600)), memoryview(bytearray(b"\xff" * 424))]
    disk.read_into(0, buffers)
    assert b"".join(buffers) == b"x" * 700 + bytes(324)


def test_transfers_may_come_in_pieces(opened, monkeypatch, image):
    disk = opened()
    whole_read, whole_write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, b, at: whole_read(fd, [b[0][:100]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, b, at: whole_write(fd, [b[0][:100]], at))
    buffers = views(250, 262)
    disk.read_into(512, buffers)
    assert b"".join(buffers) == CONTENT[512:1024]
    disk.write_from(0, [memoryview(b"w" * 250), memoryview(b"v" * 262)])
    assert image.read_bytes()[:512] == b"w" * 250 + b"v" * 262


def test_the_serial_number(opened, image):
    assert opened().serial == b"disk.img"
    assert opened(serial="S-1").serial == b"S-1"
