from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vmm.control import registry
from vmm.control.protocol import ControlError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def listening() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_machine_is_found_by_its_name(runtime: Path, listening: ExitStack) -> None:
    assert registry.names() == []
    for name in ("b", "a.1"):
        listening.enter_context(registry.bind(name)[0])
    assert registry.names() == ["a.1", "b"]
    assert (runtime / "glassvm").stat().st_mode & 0o777 == 0o700
    assert (runtime / "glassvm/b.sock").stat().st_mode & 0o777 == 0o600
    registry.connect("b").close()
    assert registry.pick("b") == "b"


def test_a_socket_that_was_left_is_removed(runtime: Path) -> None:
    made, path = registry.bind("gone")
    made.close()
    assert path.exists()
    assert registry.names() == []
    assert not path.exists()


def test_a_name_that_was_left_is_taken_again(runtime: Path, listening: ExitStack) -> None:
    registry.bind("again")[0].close()
    listening.enter_context(registry.bind("again")[0])
    assert registry.names() == ["again"]
    with pytest.raises(ControlError, match="a machine of that name is running"):
        registry.bind("again")


def test_which_machine_is_meant(runtime: Path, listening: ExitStack) -> None:
    with pytest.raises(ControlError, match="no machine is running; start one"):
        registry.pick(None)
    listening.enter_context(registry.bind("one")[0])
    assert registry.pick(None) == "one"
    listening.enter_context(registry.bind("two")[0])
    with pytest.raises(ControlError, match="2 machines are running; name one: one, two"):
        registry.pick(None)
    with pytest.raises(ControlError, match=r"no machine 'three' .*running: one, two"):
        registry.connect("three")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 65, "a b", "-x", "ä"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ControlError, match="cannot be a machine's name"):
        registry.check_name(name)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_not_used(runtime: Path, mode: int) -> None:
    (runtime / "glassvm").mkdir()
    (runtime / "glassvm").chmod(mode)
    for use in (registry.names, lambda: registry.bind("a")):
        with pytest.raises(ControlError, match="nobody else can enter"):
            use()


def test_a_link_is_not_followed(runtime: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (runtime / "glassvm").symlink_to(elsewhere)
    with pytest.raises(ControlError, match="a folder of your own"):
        registry.bind("a")


def test_without_a_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made, path = registry.bind("a")
    made.close()
    assert path == tmp_path / f"glassvm-{os.getuid()}" / "a.sock"


def test_a_path_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(ControlError, match="too long for a socket's name"):
        registry.bind("a")


def test_other_files_in_the_folder_are_left_alone(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX):
        registry.bind("a")[0].close()
    (runtime / "glassvm/notes.txt").write_text("x")
    assert registry.names() == []
    assert (runtime / "glassvm/notes.txt").exists()
