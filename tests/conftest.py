"""What every test shares: whether KVM may be used, and a last line that says what was skipped."""

from __future__ import annotations

import os
import platform
from collections import Counter

import pytest
from hypothesis import settings

# Counts decide, never times.
settings.register_profile("glassvm", deadline=None)
settings.load_profile("glassvm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kvm",
        choices=("auto", "require", "skip"),
        default="auto",
        help="auto: run the KVM tests where /dev/kvm is usable; require: fail where it is not; "
        "skip: leave them out",
    )
    parser.addoption(
        "--replay",
        action="store_true",
        help="record every machine of the KVM tests, and replay it when it is closed",
    )


def _why_no_kvm() -> str:
    if platform.machine() != "x86_64":
        return f"guests are x86-64, this machine is {platform.machine()}"
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm is not usable: {error.strerror}"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    choice = config.getoption("--kvm")
    reason = "left out with --kvm=skip" if choice == "skip" else _why_no_kvm()
    if not reason or choice == "require":
        return
    for item in items:
        if item.get_closest_marker("kvm"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kvm") and item.config.getoption("--kvm") == "require":
        reason = _why_no_kvm()
        if reason:
            pytest.fail(f"KVM is required (--kvm=require), but {reason}", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[str(reason).removeprefix("Skipped: ")] += 1
    if not skipped:
        terminalreporter.write_line("nothing was skipped")
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")
