"""Host programs: found, missing, failing."""

from __future__ import annotations

import sys

import pytest

from vmm.lab import tools


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None if "qemu" in name else "/bin/x")
    with pytest.raises(tools.LabError) as caught:
        tools.check_host()
    assert str(caught.value) == (
        "the lab needs qemu-system-x86_64: sudo apt-get install qemu-system-x86"
    )
    assert caught.value.status == 4


def test_a_machine_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    with pytest.raises(tools.LabError, match="Debian or Ubuntu machine"):
        tools.check_host()


def test_a_failure_is_one_line_and_the_error_line_is_preferred() -> None:
    script = "import sys; print('E: no such package\\nW: bye', file=sys.stderr); sys.exit(3)"
    with pytest.raises(tools.LabError) as caught:
        tools.run_tool([sys.executable, "-c", script], doing="fetch it")
    assert str(caught.value) == "cannot fetch it: E: no such package"


def test_a_silent_failure_has_its_status() -> None:
    with pytest.raises(tools.LabError, match=r"cannot x: .* ended with status 3"):
        tools.run_tool([sys.executable, "-c", "raise SystemExit(3)"], doing="x")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(tools.LabError, match="cannot x: no-such-program is not installed"):
        tools.run_tool(["no-such-program"], doing="x")


def test_output_is_returned() -> None:
    assert tools.run_tool([sys.executable, "-c", "print('a')"], doing="x") == "a\n"
