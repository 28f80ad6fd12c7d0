"""qemu-storage-daemon: programs that are none, and what becomes of the real one's words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm.errors import ConfigError
from vmm.host import storage_daemon
from vmm.host.storage_daemon import start_storage_daemon

Fake = Callable[[str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a program of the name before all others; gives the file with what it was told."""

    def make(script: str) -> Path:
        told = tmp_path / "told"
        program = tmp_path / storage_daemon.NAME
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return told

    return make


def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vdi images are served by qemu-storage-daemon.*apt"):
        start_storage_daemon("a.vdi", "vdi")


def test_one_that_refuses_is_told_without_its_options(fake: Fake) -> None:
    told = fake("echo 'qsd: --blockdev {\"driver\": 1}: it is busy' >&2; echo 'or so' >&2; exit 1")
    with pytest.raises(ConfigError) as caught:
        start_storage_daemon("/x/a, b", "qcow2", readonly=True, queues=3)
    assert str(caught.value) == (
        "--disk /x/a, b: qemu-storage-daemon did not start: it is busy or so"
    )
    blockdev, export = told.read_text().splitlines()[1::2]
    assert '"filename": "/x/a, b"' in blockdev
    assert blockdev.count('"read-only": true') == 2
    assert "writable=off,num-queues=3," in export


def test_one_that_dies_without_a_word(fake: Fake) -> None:
    fake("kill -9 $$")
    with pytest.raises(ConfigError, match="did not start: qemu-storage-daemon: ended"):
        start_storage_daemon("a.qcow2", "qcow2")
