"""From an error to one line and a status."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import vmm.cli.payloads
from kvm_bindings import KvmError
from vmm.cli import main
from vmm.errors import BootError, ExitStatus, KvmUnavailable, LifecycleError


@pytest.fixture
def fail_with(monkeypatch):
    """Let a command raise."""

    def arrange(error: BaseException) -> None:
        def payloads(options):
            raise error

        monkeypatch.setattr(vmm.cli.payloads, "payloads", payloads)

    return arrange


def test_without_arguments_it_prints_help(capsys):
    assert main([]) == ExitStatus.USAGE
    out, err = capsys.readouterr()
    assert out.startswith("usage: vmm COMMAND")
    assert "vmm run boot.img" in out
    assert err == ""


def test_version_names_the_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vmm ")


def test_arguments_come_from_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vmm", "payloads"])
    assert main() == 0
    assert "payload:hello16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BootError("x: no such file"), 2, "vmm: x: no such file"),
        (BootError("a\nb: no such file"), 2, "vmm: a b: no such file"),
        (KvmUnavailable("no KVM"), 4, "vmm: no KVM"),
        (LifecycleError("the machine is closed"), 8, "vmm: the machine is closed"),
        (
            KvmError("KVM_CREATE_VM", 12),
            4,
            "vmm: KVM_CREATE_VM: ",
        ),
        (OSError(24, "Too many open files"), 2, "vmm: the host refuses: Too many open files"),
        (OSError(28, "No space", "a.json"), 2, "vmm: a.json: No space"),
        (OSError(28, "No space"), 2, "vmm: standard output: No space"),
        (MemoryError(), 2, "vmm: out of memory; use a smaller --memory"),
        (RuntimeError("oh"), 8, "vmm: a fault of vmm itself at test_main.py:"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_a_status(fail_with, capsys, error, status, line):
    fail_with(error)
    assert main(["payloads"]) == status
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == bool(line)


def test_a_fault_says_what_and_where_to_look(fail_with, capsys):
    fail_with(RuntimeError("oh"))
    main(["payloads"])
    assert capsys.readouterr().err.endswith(": RuntimeError: oh (see --debug)\n")


def test_debug_shows_the_traceback_and_keeps_the_status(fail_with, capsys):
    fail_with(BootError("x: no such file"))
    assert main(["payloads", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("vmm: x: no such file\n")


def test_wrong_use_is_status_2(capsys):
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "vmm: IMAGE is missing; see 'vmm run --help'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file"], "no-such-file: no such file"),
        (["/"], "/: a directory, not a file to boot from"),
        ([""], "the name of the image is empty; give a file, or payload:NAME"),
        (["payload:smq"], "payload:smq: no such built-in guest; did you mean payload:smp?"),
        (["payload:smp", "--memory", "0"], "memory of 0 bytes: a machine needs at least 4K"),
        (
            ["payload:smp", "--json", "/no/such/file"],
            "--json /no/such/file: cannot be written: No such file or directory",
        ),
    ],
)
def test_what_a_user_gets_wrong_needs_no_kvm_to_be_told(arguments, message, capsys):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err == f"vmm: {message}\n"


def test_on_another_processor_run_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="aarch64"))
    assert main(["run", "payload:hello16"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("vmm: this is aarch64, and guests are x86-64")
    assert err.count("\n") == 1
    assert main(["payloads"]) == 0
