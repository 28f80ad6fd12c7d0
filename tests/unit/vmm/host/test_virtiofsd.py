"""virtiofsd: the real one, and programs that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.errors import ConfigError
from vmm.host import virtiofsd
from vmm.host.virtiofsd import start_virtiofsd


def test_the_real_one_is_there_and_leaves(tmp_path: Path) -> None:
    if not any(os.access(place, os.X_OK) for place in virtiofsd.PLACES):
        pytest.skip("no virtiofsd (Debian 12: qemu-system-common)")
    folder = tmp_path / "a, b"
    folder.mkdir()
    try:
        connection, process = start_virtiofsd(str(folder))
    except ConfigError as error:
        if os.getuid():
            pytest.skip(f"virtiofsd needs root here: {error}")
        raise
    assert connection.features >> 32 & 1  # VIRTIO_F_VERSION_1
    assert connection.queues >= 2
    connection.close()
    assert process.wait(10) == 0


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        start_virtiofsd(str(tmp_path / "nothing"))


def test_no_virtiofsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(virtiofsd, "PLACES", ())
    with pytest.raises(ConfigError, match="virtiofsd is not installed"):
        start_virtiofsd(str(tmp_path))


def test_one_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "virtiofsd"
    fake.write_text("#!/bin/sh\necho first >&2\necho 'no rights' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="did not start: no rights"):
        start_virtiofsd(str(tmp_path))
