"""Tests of guests with pytest: fixtures for machines, and reports that tell what the guest did.

    def test_it_greets(vm_factory, guest_asm):
        vm = vm_factory(guest_asm("mov al, 'A'; out 0xe9, al; hlt"), format="flat64")
        assert vm.run().reason == "halt"
        assert vm.trace.where(port=0xE9, write=True).values == b"A"

pytest loads this module in every run where glassvm is installed. So it has the hooks, the options
and the names of the fixtures, and imports what they do when a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.pytest_plugin.assembly import GuestAsm
    from vmm.pytest_plugin.boot_once import VmBooted
    from vmm.pytest_plugin.console import VmConsole
    from vmm.pytest_plugin.machines import VmFactory

_GUEST = (
    "guest(image, **options): what the fixture vm boots, with the options of vmm.boot; until=REGEX "
    "boots it once, to where its console matches, and each test goes on from there"
)
_MARKERS = (
    "kvm: needs a usable /dev/kvm (see --kvm); what uses vm or vm_factory has it by itself",
    _GUEST,
)

_why_no_kvm = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("glassvm", "guests on KVM (glassvm)")
    parser.addini(
        "kvm_lab_packages", "Debian packages that --kvm-lab has inside as well", type="args"
    )
    parser.addini(
        "kvm_lab_wheels", "Python packages that --kvm-lab has inside as well", type="args"
    )
    group.addoption(
        "--kvm",
        choices=("auto", "require", "skip"),
        default="auto",
        help="auto: run the tests that need KVM where /dev/kvm is usable; require: fail where it "
        "is not; skip: leave them out",
    )
    group.addoption(
        "--kvm-lab",
        action="store_true",
        help="without a usable KVM, or with --kvm=skip, run the same tests inside an AMD-V host "
        "that QEMU emulates (python -m vmm.lab)",
    )
    group.addoption(
        "--kvm-trace",
        metavar="DIR",
        type=_folder,
        help="record the machines of vm and vm_factory, and keep the recordings of tests that fail",
    )


def _folder(text: str) -> Path:
    return Path(text).absolute()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --kvm-lab: have the tests run inside the emulated host, where there is no KVM."""
    if not config.getoption("--kvm-lab") or "GLASSVM_LAB" in os.environ:
        return None
    if config.getoption("--kvm") != "skip" and not _kvm_missing(config):
        return None
    from vmm.pytest_plugin.lab import run_in_the_lab

    return run_in_the_lab(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """In the lab, see to it that its host does not hang."""
    if "GLASSVM_LAB" in os.environ:
        from vmm.pytest_plugin.lab import keep_a_vm

        keep_a_vm(session.config)


def pytest_configure(config: pytest.Config) -> None:
    """Say what the markers mean."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs KVM, so that `-m kvm` selects it."""
    if {"vm_factory", "booted"} & set(_fixtures(item)) and not _needs_kvm(item):
        item.add_marker("kvm")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs KVM where there is none, or fail it where KVM is required."""
    if not _needs_kvm(item):
        return
    choice = item.config.getoption("--kvm")
    if choice == "skip":
        pytest.skip("left out with --kvm=skip")
    reason = _kvm_missing(item.config)
    if reason and choice == "require":
        pytest.fail(f"KVM is required (--kvm=require), but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


def _needs_kvm(item: pytest.Item) -> bool:
    return item.get_closest_marker("kvm") is not None


def _kvm_missing(config: pytest.Config) -> str:
    """Why KVM cannot be used here, asked once; empty where it can."""
    if _why_no_kvm not in config.stash:
        from vmm.errors import KvmUnavailable
        from vmm.kvm import open_kvm

        try:
            open_kvm().close()
        except KvmUnavailable as error:
            config.stash[_why_no_kvm] = str(error)
        else:
            config.stash[_why_no_kvm] = ""
    return config.stash[_why_no_kvm]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the test's machines did."""
    report = yield
    if report.failed and report.when != "teardown" and "vm_factory" in _fixtures(item):
        from vmm.pytest_plugin.machines import of_test

        of_test(item).failed(report)
    return report


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture
def vm_factory(request: pytest.FixtureRequest) -> Iterator[VmFactory]:
    """Make machines, which are closed when the test ends.

    `vm_factory(image, **options)` is `vmm.boot`, `vm_factory(snapshot)` is `vmm.restore`, and
    `vm_factory(**options)` is `vmm.Machine`.
    """
    from vmm.pytest_plugin.machines import of_test

    machines = of_test(request.node)
    yield machines.make
    machines.close()


@pytest.fixture
def vm(request: pytest.FixtureRequest, vm_factory: VmFactory) -> Machine:
    """A machine that is closed when the test ends: what the marker `guest` says, or a bare one."""
    from vmm.pytest_plugin.machines import marked_guest

    return marked_guest(request.node, lambda: request.getfixturevalue("booted"))


@pytest.fixture(scope="session")
def booted() -> Iterator[VmBooted]:
    """Boot guests once: `booted(image, until, **options)` is a snapshot, for `vm_factory`, of where
    its console matched."""
    from vmm.pytest_plugin.boot_once import BootedGuests

    guests = BootedGuests()
    yield guests.boot
    guests.close()


@pytest.fixture
def vm_console(vm: Machine) -> VmConsole:
    """The console of `vm`: `expect(regex, timeout)` runs the guest until its output matches."""
    from vmm.pytest_plugin.console import VmConsole

    return VmConsole(vm)


@pytest.fixture(scope="session")
def guest_asm() -> GuestAsm:
    """Assemble: `guest_asm(text, format="flat64", address=None)` gives the bytes of an image."""
    from vmm.pytest_plugin.assembly import assembler

    return assembler()
