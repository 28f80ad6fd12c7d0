"""Rebuilding the guests: the blobs in the tree are what the sources make."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import firmware.payloads
from firmware.assembler import AssemblyError, find_toolchain
from firmware.payloads import PAYLOADS, Payload, build, payload

TOOLS = find_toolchain()
needs_tools = pytest.mark.skipif(TOOLS is None, reason="no GNU as and ld for x86-64 (binutils)")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the payloads' directory in place of the real one."""
    copy = tmp_path / "payloads"
    shutil.copytree(Path(firmware.payloads.__file__).parent, copy)
    monkeypatch.setattr(firmware.payloads, "_HERE", copy)
    return copy


@needs_tools
@pytest.mark.parametrize("guest", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_source_makes_the_image_in_the_tree(guest: Payload) -> None:
    assert TOOLS is not None
    assert build.image_of(guest, TOOLS) == guest.image()


@needs_tools
def test_main_rewrites_what_changed_and_nothing_else(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = payload("spin").image()
    (workshop / "spin.bin").write_bytes(b"old")
    (workshop / "bad_jump.bin").unlink()
    before = (workshop / "hello16.bin").stat().st_mtime_ns

    assert build.main() == 0
    assert capsys.readouterr().out == f"bad_jump.bin: 7 bytes\nspin.bin: {len(good)} bytes\n"
    assert (workshop / "spin.bin").read_bytes() == good
    assert (workshop / "hello16.bin").stat().st_mtime_ns == before

    assert build.main() == 0
    assert capsys.readouterr().out == ""


@needs_tools
def test_broken_source_is_reported(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workshop / "spin.S").write_text("    .globl _start\n_start:\n    jump _start\n")
    assert TOOLS is not None
    with pytest.raises(AssemblyError, match=r"spin\.S:3: Error"):
        build.image_of(payload("spin"), TOOLS)
    assert build.main() == 1
    assert "no such instruction" in capsys.readouterr().err


def test_no_tools_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert find_toolchain() is None
    assert build.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
