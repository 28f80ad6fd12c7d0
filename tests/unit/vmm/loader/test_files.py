from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vmm.errors import BootError, ExitStatus
from vmm.loader.files import MAP_FROM_BYTES, read_file, read_module


def test_small_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"\x55\xaa")
    assert read_file(path) == b"\x55\xaa"
    assert read_file(str(path)) == b"\x55\xaa"


def test_large_files_are_mapped_read_only(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"x" * (MAP_FROM_BYTES - 1) + b"yz")
    data = read_file(path)
    assert isinstance(data, memoryview)
    assert data.readonly
    assert len(data) == MAP_FROM_BYTES + 1
    assert bytes(data[-3:]) == b"xyz"


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    expected = {
        "missing": "no such file",
        "empty": "the file is empty",
        "pipe": "a pipe, not a file",
        ".": "a directory, not a file",
        "empty/below": "Not a directory",
        "loop": "Too many levels",
        "x" * 300: "File name too long",
        "/dev/zero": "a character device",
    }
    for name, reason in expected.items():
        path = os.path.join(tmp_path, name)
        with pytest.raises(BootError) as caught:
            read_file(path)
        assert str(caught.value).startswith(f"{path}: {reason}"), name
        assert "\n" not in str(caught.value)
        assert caught.value.status == ExitStatus.USAGE


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    with pytest.raises(BootError, match=r"^secret: no permission to read it$"):
        read_file("secret")


def test_a_nul_in_the_name() -> None:
    with pytest.raises(BootError, match="not a file name"):
        read_file("a\0b")


def test_no_file_descriptor_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for name in (path, tmp_path):
        for _ in range(3):
            try:
                read_file(name)
            except BootError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_modules_have_arguments(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"data")
    module = read_module(f"{path} root=/dev/ram  quiet ")
    assert (module.name, bytes(module.data)) == (str(path), b"data")
    assert module.arguments == "root=/dev/ram  quiet"
    assert read_module(str(path)).arguments == ""
    with pytest.raises(BootError, match="no such file"):
        read_module(f"{path}2 x")
