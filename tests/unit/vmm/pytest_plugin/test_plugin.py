"""What the plugin does where no guest runs: options, markers, KVM that is not there, its cost."""

from __future__ import annotations

import sys

import pytest

import vmm.kvm
from vmm.errors import KvmUnavailable

pytest_plugins = ["pytester"]

NEEDS_KVM = """
    import pytest

    def test_plain(): pass
    @pytest.mark.kvm
    def test_marked(): raise AssertionError
    def test_with_vm(vm): raise AssertionError
"""


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str = "/dev/kvm") -> None:
        raise KvmUnavailable("no KVM on this moon; fly to another")

    monkeypatch.setattr(vmm.kvm, "open_kvm", refuse)


@pytest.mark.usefixtures("no_kvm")
def test_without_kvm_tests_are_skipped_and_say_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NEEDS_KVM)
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*no KVM on this moon; fly to another"])


@pytest.mark.usefixtures("no_kvm")
def test_required_kvm_fails_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NEEDS_KVM)
    result = pytester.runpytest_inprocess("--kvm=require")
    result.assert_outcomes(passed=1, errors=2)
    line = "KVM is required (--kvm=require), but no KVM on this moon; fly to another"
    assert result.outlines.count(line) == 2


def test_tests_are_left_out_on_demand(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NEEDS_KVM)
    result = pytester.runpytest_inprocess("--kvm=skip", "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*left out with --kvm=skip"])


def test_the_fixtures_select_by_marker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NEEDS_KVM)
    result = pytester.runpytest_inprocess("--kvm=skip", "-m", "kvm")
    result.assert_outcomes(skipped=2, deselected=1)


def test_markers_are_known_and_options_explained(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(
        [
            "@pytest.mark.kvm: needs a usable /dev/kvm (see --kvm); *",
            "@pytest.mark.guest(image, [*][*]options): what the fixture vm boots, *",
        ]
    )
    pytester.runpytest_inprocess("--help").stdout.fnmatch_lines(
        ["guests on KVM (glassvm):", "*--kvm={auto,require,skip}", "*--kvm-trace=DIR *"]
    )


def test_a_run_without_machines_imports_next_to_nothing(pytester: pytest.Pytester) -> None:
    """Only the module with the hooks, and the package that it is in."""
    pytester.makepyfile(
        """
        import sys

        def test_plain():
            roots = ("vmm", "kvm_bindings", "devices", "firmware", "numpy", "capstone", "cffi")
            print(sorted(name for name in sys.modules if name.partition(".")[0] in roots))
        """
    )
    done = pytester.run(sys.executable, "-m", "pytest", "-s", "-q")
    assert "['vmm', 'vmm.pytest_plugin']" in "\n".join(done.outlines)
