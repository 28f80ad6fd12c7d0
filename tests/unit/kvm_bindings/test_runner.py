from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvm_bindings import runner

KINDS = ["ctypes", "compiled"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    else:
        monkeypatch.delenv("GLASSVM_RUNNER", raising=False)
        if runner.runner_kind() != "compiled":
            pytest.skip("the compiled runner was not built")
    return str(request.param)


def test_the_environment_chooses(kind: str) -> None:
    assert runner.runner_kind() == kind
    with mmap.mmap(-1, 4096) as page:
        made = runner.make_runner(-1, page)
        assert isinstance(made, runner.CtypesRunner) == (kind == "ctypes")
        made.disarm()


def test_a_failure_is_a_negative_errno(kind: str) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with mmap.mmap(-1, 4096) as page:
        made = runner.make_runner(fd, page)
        assert made.enter() == -errno.ENOTTY
        made.disarm()
    os.close(fd)


def test_a_disarmed_runner_touches_neither_descriptor_nor_page(kind: str) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    page = mmap.mmap(-1, 4096)
    made = runner.make_runner(fd, page)
    made.disarm()
    page.close()  # refused while the runner holds it
    assert made.enter() == -errno.EBADF
    os.close(fd)


def test_a_runner_that_was_compiled_from_another_version_is_left_alone(monkeypatch) -> None:
    old = SimpleNamespace(VERSION=runner.VERSION - 1)
    monkeypatch.setitem(sys.modules, "kvm_bindings._fastrun", old)
    monkeypatch.delenv("GLASSVM_RUNNER", raising=False)
    runner._import_fastrun.cache_clear()
    try:
        assert runner.runner_kind() == "ctypes"
        old.VERSION = runner.VERSION
        runner._import_fastrun.cache_clear()
        assert runner.runner_kind() == "compiled"
    finally:
        runner._import_fastrun.cache_clear()


def test_the_version_that_is_compiled_is_the_one_that_is_asked_for() -> None:
    source = Path(runner.__file__).with_name("_fastrun_build.py").read_text()
    assert f"\nVERSION = {runner.VERSION}\n" in source
