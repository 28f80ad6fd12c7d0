"""From text to bytes, with the tools that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firmware.assembler import AssemblyError, assemble, find_toolchain

TOOLS = find_toolchain()
needs_tools = pytest.mark.skipif(TOOLS is None, reason="no GNU as and ld for x86-64 (binutils)")


@needs_tools
def test_the_address_counts(tmp_path: Path) -> None:
    source = tmp_path / "code.S"
    source.write_text(".code16\n_start: movw $here, %ax\nhere: hlt\n")
    assert TOOLS is not None
    assert assemble(source, 0x1000, TOOLS) == bytes.fromhex("b80310 f4")
    assert assemble(source, 0x7C00, TOOLS) == bytes.fromhex("b8037c f4")


@needs_tools
def test_a_source_includes_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "halt.inc").write_text("hlt\n")
    source = tmp_path / "code.S"
    source.write_text('_start: .include "halt.inc"\n')
    assert TOOLS is not None
    assert assemble(source, 0, TOOLS) == b"\xf4"


@needs_tools
def test_complaints_name_the_file_and_the_line(tmp_path: Path) -> None:
    source = tmp_path / "code.S"
    source.write_text("_start: hlt\n frobnicate\n")
    assert TOOLS is not None
    with pytest.raises(AssemblyError, match=r"^code\.S: .*\ncode\.S:2: Error"):
        assemble(source, 0, TOOLS)


def test_an_assembler_for_another_processor_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "as"
    tool.write_text("#!/bin/sh\necho 'GNU assembler, configured for a target of aarch64'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(tool))
    assert find_toolchain() is None
    tool.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    assert find_toolchain() is None
