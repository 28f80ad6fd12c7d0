"""What the plugin does where no guest runs: options, markers, KVM that is not there, its cost."""

from __future__ import annotations

import sys

import pytest

import vmm.kvm
from firmware.assembler import AssemblyError
from vmm.errors import KvmUnavailable
from vmm.pytest_plugin.assembly import assembler

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


def test_the_assembler_complains_with_the_text_s_lines() -> None:
    guest_asm = assembler()
    with pytest.raises(AssemblyError, match=r"guest\.S:2: Error: no such instruction: `frob'"):
        guest_asm("hlt\nfrob", "flat32")
    with pytest.raises(ValueError, match="format 'flat8': choose flat16, flat32, "):
        guest_asm("hlt", "flat8")


def test_no_assembler_is_one_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    pytester.makepyfile("def test_it(guest_asm): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    line = "guest_asm: no GNU as and ld for x86-64 here; on Debian: apt install binutils"
    assert line in result.outlines


def test_code_is_assembled_for_where_it_goes() -> None:
    guest_asm = assembler()
    source = "mov eax, offset here; here: hlt"
    assert guest_asm(source, "flat32") == bytes.fromhex("b805001000 f4")
    assert guest_asm(source, "flat32", address=0x2000) == bytes.fromhex("b805200000 f4")
    assert guest_asm(source, "flat16") == bytes.fromhex("66b8067c0000 f4")
    assert len(guest_asm(source, "bootsector")) == 512
    assert guest_asm(source, "bootsector").endswith(b"\x55\xaa")
