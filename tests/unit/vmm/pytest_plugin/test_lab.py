"""What of a run goes into the lab, and how; the lab itself is not started."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

import vmm.pytest_plugin.lab
from vmm.lab.tools import LabError
from vmm.pytest_plugin.lab import command_inside, run_in_the_lab

pytest_plugins = ["pytester"]


@pytest.fixture
def config(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.Config]:
    monkeypatch.delenv("GLASSVM_LAB", raising=False)
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nkvm_lab_packages = ['nasm', 'xz-utils']")

    def make(*arguments: str) -> pytest.Config:
        return pytester.parseconfig(*arguments)

    return make


def test_the_same_arguments_go_inside(config, pytester):
    (pytester.path / "a b").mkdir()
    here = str(pytester.path)
    command = command_inside(
        config("-x", f"{here}/a b", f"--rootdir={here}", "--junitxml=out.xml", "--kvm-trace=kept")
    )
    words = shlex.split(command)
    assert words[:7] == ["cd", "/share/checkout", "&&", "exec", "python3", "-m", "pytest"]
    assert words.index("-x") + 1 == words.index("/share/checkout/a b")
    assert "--rootdir=/share/checkout" in words
    assert words[-3:] == [
        "--kvm=require",
        "--junitxml=/results/junit.xml",
        "--kvm-trace=/results/recordings",
    ]
    assert "junit" not in command_inside(config("-x"))


def test_results_come_back_to_where_they_were_asked_for(config, pytester, monkeypatch):
    asked = {}

    def lab(options):
        asked.update(vars(options))
        (options.results / "junit.xml").write_text("<testsuites/>")
        kept = options.results / "recordings/test_a.py"
        kept.mkdir(parents=True)
        (kept / "vm.vtrace").write_bytes(b"trace")
        return 1

    monkeypatch.setattr(vmm.pytest_plugin.lab, "run_with_retries", lab)
    assert run_in_the_lab(config("--junitxml=out/junit.xml", "--kvm-trace=kept")) == 1
    assert asked["folder"] == pytester.path
    assert asked["package"] == ["nasm", "xz-utils"]
    assert (pytester.path / "out/junit.xml").read_text() == "<testsuites/>"
    assert (pytester.path / "kept/test_a.py/vm.vtrace").read_bytes() == b"trace"


def test_a_lab_that_cannot_start_is_one_line(pytester, monkeypatch):
    def lab(options):
        raise LabError("the lab needs QEMU: sudo apt-get install qemu-system-x86")

    monkeypatch.delenv("GLASSVM_LAB", raising=False)
    monkeypatch.setattr(vmm.pytest_plugin.lab, "run_with_retries", lab)
    result = pytester.runpytest_inprocess("--kvm=skip", "--kvm-lab")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = "ERROR: --kvm-lab: the lab needs QEMU: sudo apt-get install qemu-system-x86"
    assert [each for each in result.errlines if each] == [line]


def test_inside_the_lab_tests_run(pytester, monkeypatch):
    monkeypatch.setenv("GLASSVM_LAB", "1")
    pytester.makepyfile("def test_plain(): pass")
    pytester.runpytest_inprocess("--kvm=skip", "--kvm-lab").assert_outcomes(passed=1)
