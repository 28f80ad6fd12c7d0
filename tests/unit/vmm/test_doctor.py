from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvm_bindings import constants
from vmm import probes
from vmm.capabilities import CAPABILITIES
from vmm.doctor import Diagnosis, Finding, Host, diagnose
from vmm.errors import VmmError
from vmm.probes import Speed

CPUINFO = """\
processor\t: 0
vendor_id\t: {vendor}
model name\t: A Processor
flags\t\t: fpu lm {flags}

processor\t: 1
vendor_id\t: other
"""


class FakeVM:
    def close(self) -> None:
        pass


class FakeSystem:
    def __init__(self, without: tuple[str, ...] = (), vm_error: int = 0) -> None:
        self.missing = {constants.CAPABILITIES[f"KVM_CAP_{name}"] for name in without}
        self.vm_error = vm_error
        self.closed = 0

    def __enter__(self) -> FakeSystem:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def create_vm(self) -> FakeVM:
        if self.vm_error:
            raise OSError(self.vm_error, os.strerror(self.vm_error))
        return FakeVM()

    def check_extension(self, capability: int) -> int:
        limits = {9: 2, 66: 1024, 10: 509}  # NR_VCPUS, MAX_VCPUS, NR_MEMSLOTS
        return 0 if capability in self.missing else limits.get(capability, 1)

    def supported_cpuid(self) -> list[Any]:
        return []


def failing(number: int) -> Callable[[str], Any]:
    def open_system(path: str) -> Any:
        raise OSError(number, os.strerror(number))

    return open_system


GOOD = Speed(ring0=3_100_000_000, ring3=2_900_000_000, exits=71_400)


def make_host(
    root: Path,
    *,
    vendor: str = "AuthenticAMD",
    flags: str = "svm",
    module: str = "kvm_amd",
    parameters: dict[str, str] | None = None,
    system: FakeSystem | None = None,
    **changes: Any,
) -> Host:
    """A host under `root`; by default one on which everything is in order."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(CPUINFO.format(vendor=vendor, flags=flags))
    (root / "dev").mkdir()
    (root / "dev/kvm").touch()
    if module:
        folder = root / "sys/module" / module / "parameters"
        folder.mkdir(parents=True)
        for name, value in (parameters or {}).items():
            (folder / name).write_text(value + "\n")
    values: dict[str, Any] = {
        "root": root,
        "machine": "x86_64",
        "open_system": lambda path: system or FakeSystem(),
        "which": lambda tool: f"/usr/bin/{tool}",
        "limit": lambda which: (1024, 4096),
        "measure": lambda: GOOD,
    }
    return Host(**(values | changes))


def find(diagnosis: Diagnosis, name: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.name == name]
    assert len(found) == 1, diagnosis.lines()
    return found[0]


def test_a_host_in_order(tmp_path: Path) -> None:
    system = FakeSystem()
    diagnosis = diagnose(make_host(tmp_path, system=system, parameters={"npt": "Y", "nested": "0"}))
    assert diagnosis.usable
    assert diagnosis.status == 0
    assert diagnosis.problems == ()
    assert find(diagnosis, "backend").value == "kvm_amd (AMD-V)"
    assert find(diagnosis, "virtualization").value == "svm (AMD-V)"
    assert find(diagnosis, "npt").value == "yes"
    assert find(diagnosis, "nested guests").value == "not allowed"
    assert find(diagnosis, "vCPUs of a VM").value == "1024, recommended at most 2"
    assert find(diagnosis, "memory slots").value == "509"
    assert find(diagnosis, "ring 0").value == "3.1 billion instructions/s"
    assert find(diagnosis, "exits").value == "71,000 port writes/s handled in Python"
    assert diagnosis.lines()[-1] == "guests can run here; no problems"
    assert system.closed == 1
    assert json.loads(json.dumps(diagnosis.to_dict()))["status"] == 0


@pytest.mark.parametrize(
    ("number", "words", "fix"),
    [
        (errno.ENOENT, "missing, though a backend is loaded", "docker run --device /dev/kvm"),
        (errno.EACCES, "permission denied (", "sudo usermod -aG kvm $USER"),
        (errno.EACCES, "permission denied (", "99-kvm.rules"),
        (errno.EPERM, "permission denied", "usermod"),
        (errno.ENODEV, "there, but no backend answers", "firmware"),
        (errno.EBUSY, "busy", "VirtualBox"),
        (errno.EIO, os.strerror(errno.EIO), "dmesg"),
    ],
)
def test_dev_kvm_that_does_not_open(tmp_path: Path, number: int, words: str, fix: str) -> None:
    diagnosis = diagnose(make_host(tmp_path, open_system=failing(number)))
    finding = find(diagnosis, "/dev/kvm")
    assert finding.level == "problem"
    assert words in finding.value
    assert fix in finding.fix
    assert not diagnosis.usable
    assert diagnosis.status == 4
    assert "no guest can run here; 1 problem" in diagnosis.lines()[-1]


def test_nothing_is_probed_where_no_guest_can_run(tmp_path: Path) -> None:
    def measure() -> Speed:
        raise AssertionError

    diagnosis = diagnose(make_host(tmp_path, open_system=failing(errno.EACCES), measure=measure))
    assert not diagnosis.usable
    (tmp_path / "second").mkdir()
    assert diagnose(make_host(tmp_path / "second", measure=measure), probe=False).usable


@pytest.mark.parametrize(
    ("vendor", "module"), [("AuthenticAMD", "kvm_amd"), ("GenuineIntel", "kvm_intel")]
)
def test_no_backend_is_loaded(tmp_path: Path, vendor: str, module: str) -> None:
    host = make_host(tmp_path, vendor=vendor, module="", open_system=failing(errno.ENOENT))
    diagnosis = diagnose(host)
    assert find(diagnosis, "backend").fix == f"sudo modprobe {module}"
    assert find(diagnosis, "/dev/kvm").value == "missing"
    assert len(diagnosis.problems) == 2


@pytest.mark.parametrize(
    ("flags", "fix"), [("hypervisor", "nested virtualization"), ("", "firmware set-up")]
)
def test_a_processor_without_virtualization(tmp_path: Path, flags: str, fix: str) -> None:
    host = make_host(tmp_path, flags=flags, module="", open_system=failing(errno.ENOENT))
    assert fix in find(diagnose(host), "virtualization").fix


def test_pvm_needs_no_flag_and_runs_ring_0_slowly(tmp_path: Path) -> None:
    slow = Speed(ring0=970_000, ring3=3_000_000_000, exits=60_000)
    host = make_host(tmp_path, module="kvm_pvm", flags="hypervisor", measure=lambda: slow)
    diagnosis = diagnose(host)
    assert diagnosis.usable
    assert diagnosis.problems == ()
    assert find(diagnosis, "virtualization").level == "note"
    assert find(diagnosis, "ring 0").value.startswith("970,000 instructions/s: emulated")
    assert "lab" in find(diagnosis, "ring 0").fix


@pytest.mark.parametrize(("value", "level"), [("Y", "ok"), ("1", "ok"), ("N", "note")])
def test_unrestricted_guest(tmp_path: Path, value: str, level: str) -> None:
    parameters = {"unrestricted_guest": value, "ept": "Y"}
    host = make_host(
        tmp_path, vendor="GenuineIntel", flags="vmx", module="kvm_intel", parameters=parameters
    )
    diagnosis = diagnose(host)
    finding = find(diagnosis, "unrestricted_guest")
    assert finding.level == level
    assert ("real mode is emulated" in finding.value) == (level == "note")
    assert ("modprobe kvm_intel unrestricted_guest=1" in finding.fix) == (level == "note")
    assert diagnosis.usable


def test_missing_capabilities(tmp_path: Path) -> None:
    system = FakeSystem(without=("IRQFD", "USER_MEMORY"))
    diagnosis = diagnose(make_host(tmp_path, system=system))
    assert find(diagnosis, "KVM_CAP_IRQFD").level == "note"
    assert "interrupts from other threads" in find(diagnosis, "KVM_CAP_IRQFD").value
    assert find(diagnosis, "KVM_CAP_USER_MEMORY").level == "problem"
    assert not diagnosis.usable
    total = len(CAPABILITIES)
    assert find(diagnosis, "capabilities").value == f"{total - 2} of the {total} that are used"


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.EBUSY, "VMware"), (errno.ENOMEM, "memory"), (errno.EIO, "dmesg")]
)
def test_a_device_that_makes_no_vm(tmp_path: Path, number: int, fix: str) -> None:
    system = FakeSystem(vm_error=number)
    diagnosis = diagnose(make_host(tmp_path, system=system))
    assert fix in find(diagnosis, "/dev/kvm").fix
    assert diagnosis.status == 4
    assert system.closed == 1


def test_another_processor_is_one_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    host = make_host(tmp_path, machine="aarch64", open_system=failing(errno.ENOENT))
    diagnosis = diagnose(host)
    assert not diagnosis.usable
    assert [finding.name for finding in diagnosis.problems] == ["architecture"]
    assert "aarch64: guests are x86-64" in find(diagnosis, "architecture").value
    assert find(diagnosis, "open files").level == "ok"
    assert find(diagnosis, "tools").level == "ok"


def test_a_failed_probe_is_a_problem(tmp_path: Path) -> None:
    speed = Speed(ring3=1000, errors=("ring 0: the probe did not finish",))
    diagnosis = diagnose(make_host(tmp_path, measure=lambda: speed))
    assert find(diagnosis, "probe").level == "problem"
    assert find(diagnosis, "ring 3").value == "1,000 instructions/s"
    assert "ring 0" not in {finding.name for finding in diagnosis.findings}
    assert not diagnosis.usable


def test_few_file_descriptors(tmp_path: Path) -> None:
    diagnosis = diagnose(make_host(tmp_path, limit=lambda which: (64, resource.RLIM_INFINITY)))
    finding = find(diagnosis, "open files")
    assert (finding.value, finding.level) == ("64 (at most unlimited)", "problem")
    assert "ulimit -n" in finding.fix
    assert diagnosis.usable  # guests run; larger machines may not


def test_tools_of_the_lab(tmp_path: Path) -> None:
    diagnosis = diagnose(make_host(tmp_path, which=lambda tool: None))
    finding = find(diagnosis, "tools")
    assert finding.level == "note"
    assert finding.fix == "sudo apt-get install qemu-system-x86 e2fsprogs dpkg"


def test_nothing_at_all_under_the_root(tmp_path: Path) -> None:
    diagnosis = diagnose(Host(root=tmp_path, machine="x86_64", measure=lambda: GOOD))
    assert diagnosis.status == 4
    assert find(diagnosis, "model").value == "?, ?"
    assert all(len(line) < 300 for line in diagnosis.lines())


def test_every_capability_has_a_number() -> None:
    names = [capability.name for capability in CAPABILITIES]
    assert len(set(names)) == len(names)
    for name in names:
        assert f"KVM_CAP_{name}" in constants.CAPABILITIES


def test_a_probe_that_cannot_run_is_told_not_raised() -> None:
    def make() -> Any:
        raise VmmError("no machine today")

    speed = probes.measure(make)
    assert (speed.ring0, speed.ring3, speed.exits) == (None, None, None)
    assert speed.errors[0] == "ring 0: no machine today"
    assert len(speed.errors) == 3
