"""The cache's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm.lab import cache, rootfs

ROOT = Path(__file__).resolve().parents[3]


def test_key_depends_on_what_goes_in_and_not_on_its_order() -> None:
    plain = cache.key([], ["pytest"])
    assert cache.key(["seabios"], ["pytest"]) != plain
    assert cache.key([], ["pytest", "rich"]) != plain
    assert cache.key(["a", "b", "a"], ["x", "y"]) == cache.key(["b", "a"], ["y", "x"])


def test_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLASSVM_LAB_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("GLASSVM_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "glassvm/lab"


def test_requirements_are_the_projects_own() -> None:
    names = rootfs.requirements()
    for wanted in (
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "cffi",
        "capstone",
        "pyelftools",
    ):
        assert any(name.startswith(wanted) for name in names), wanted
    assert not any(name.startswith("setuptools") for name in names)
