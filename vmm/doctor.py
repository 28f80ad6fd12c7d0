"""What this host can do, what stands in the way, and how to mend it.

Every fact is a `Finding`; whoever prints them decides how. Nothing here raises for the state of
the host: a host that cannot be examined is the very case that this is for.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvm_bindings
from kvm_bindings import constants
from vmm.capabilities import CAPABILITIES
from vmm.cpuid import feature_names
from vmm.doctor_devices import devices
from vmm.errors import ExitStatus
from vmm.findings import Finding, Host, Level
from vmm.guest_cpuid import supported_cpuid
from vmm.kvm import backend
from vmm.probes import Speed

__all__ = ["Diagnosis", "Finding", "Host", "diagnose"]

_UDEV_RULE = (
    """echo 'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"' | """
    "sudo tee /etc/udev/rules.d/99-kvm.rules && sudo udevadm control --reload-rules && "
    "sudo udevadm trigger --name-match=kvm"
)
_LAB_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "dpkg-deb": "dpkg",
}
_SLOW_RING_0 = 20_000_000
"""Instructions a second; below that, ring 0 is emulated and not run."""
_FEW_DESCRIPTORS = 256


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]
    usable: bool
    """Whether a guest can run on this host."""

    @property
    def status(self) -> int:
        """What `vmm doctor` ends with: 0 if a guest can run, otherwise 4."""
        return int(ExitStatus.OK if self.usable else ExitStatus.NO_KVM)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What should be mended."""
        return tuple(f for f in self.findings if f.level == "problem")

    def lines(self) -> list[str]:
        """The diagnosis as plain text."""
        width = max((len(f.name) for f in self.findings), default=0)
        lines: list[str] = []
        topic = ""
        for finding in self.findings:
            if finding.topic != topic:
                topic = finding.topic
                lines += [*([""] if lines else []), topic]
            mark = {"ok": "  ", "note": "- ", "problem": "! "}[finding.level]
            lines.append(f"{mark}{finding.name:<{width}}  {finding.value}".rstrip())
            if finding.fix:
                lines.append(f"  {'':<{width}}  fix: {finding.fix}")
        verdict = "guests can run here" if self.usable else "no guest can run here"
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        return [*lines, "", f"{verdict}; {count or 'no'} {noun}"]

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain values that JSON can hold."""
        return {
            "usable": self.usable,
            "status": self.status,
            "findings": [
                {"topic": f.topic, "name": f.name, "value": f.value, "level": f.level, "fix": f.fix}
                for f in self.findings
            ],
        }


def diagnose(host: Host | None = None, *, probe: bool = True) -> Diagnosis:
    """Examine the host; with `probe`, run tiny guests to measure their speed."""
    host = host or Host()
    findings = [*_processor(host), *_module(host)]
    system, opened = _open(host)
    findings += opened
    usable = system is not None and host.machine == "x86_64"
    if system is not None:
        with system:
            findings += _examine(system)
    usable = usable and not any(f.level == "problem" and f.topic == "KVM" for f in findings)
    if usable and probe:
        measured = list(_speed(host.measure()))
        findings += measured
        usable = not any(f.level == "problem" for f in measured)
    findings += [*devices(host), *_limits(host), *_lab(host)]
    return Diagnosis(tuple(findings), usable)


def _cpuinfo(host: Host) -> dict[str, str]:
    pairs = (
        line.partition(":") for line in host.text("proc/cpuinfo").split("\n\n")[0].splitlines()
    )
    return {name.strip(): value.strip() for name, _, value in pairs}


def _processor(host: Host) -> Iterator[Finding]:
    topic = "processor"
    if host.machine != "x86_64":
        yield Finding(
            topic, "architecture", f"{host.machine}: guests are x86-64, KVM cannot run them here",
            "problem", "use an x86-64 host, or the lab (pytest --kvm-lab), which emulates one",
        )  # fmt: skip
        return
    info = _cpuinfo(host)
    flags = info.get("flags", "").split()
    yield Finding(topic, "architecture", host.machine)
    yield Finding(topic, "model", f"{info.get('vendor_id', '?')}, {info.get('model name', '?')}")
    nested = "hypervisor" in flags
    found = "svm (AMD-V)" if "svm" in flags else "vmx (VT-x)" if "vmx" in flags else ""
    if found:
        yield Finding(topic, "virtualization", found)
    elif backend(host.root) == "kvm_pvm":
        yield Finding(topic, "virtualization", "none in hardware; kvm_pvm does without", "note")
    else:
        fix = (
            "enable nested virtualization for this machine in its hypervisor"
            if nested
            else "switch AMD-V or VT-x on in the firmware set-up"
        )
        yield Finding(topic, "virtualization", "not offered", "problem", fix)
    if nested:
        yield Finding(topic, "inside a VM", "yes: guests run nested, exits cost more", "note")


def _module(host: Host) -> Iterator[Finding]:
    topic = "KVM"
    name = backend(host.root)
    if host.machine != "x86_64":
        return
    if not name:
        vendor = _cpuinfo(host).get("vendor_id", "")
        module = "kvm_intel" if vendor == "GenuineIntel" else "kvm_amd"
        yield Finding(topic, "backend", "none is loaded", "problem", f"sudo modprobe {module}")
        return
    words = {
        "kvm_amd": "AMD-V",
        "kvm_intel": "VT-x",
        "kvm_pvm": "no hardware support: ring 0 is emulated, ring 3 is native",
    }
    yield Finding(topic, "backend", f"{name} ({words[name]})", "note" if "pvm" in name else "ok")

    def parameter(which: str) -> bool | None:
        value = host.text(f"sys/module/{name}/parameters/{which}")
        return value in ("Y", "y", "1") if value else None

    for which, lost in (
        ("npt", "nested paging is off: page tables are shadowed, which is slow"),
        ("ept", "nested paging is off: page tables are shadowed, which is slow"),
        ("unrestricted_guest", "real mode is emulated: slow, and some boot code fails"),
    ):
        on = parameter(which)
        if on is not None:
            fix = "" if on else f"sudo modprobe -r {name} && sudo modprobe {name} {which}=1"
            value = "yes" if on else f"no: {lost}"
            yield Finding(topic, which, value, "ok" if on else "note", fix)
    if (on := parameter("nested")) is not None:
        yield Finding(topic, "nested guests", "allowed" if on else "not allowed")


def _open(host: Host) -> tuple[kvm_bindings.System | None, list[Finding]]:
    """Open /dev/kvm and make a VM: the findings, and the open device if that worked."""
    path = host.root / "dev/kvm"
    shown = "/dev/kvm"
    if host.machine != "x86_64":
        return None, []
    try:
        system = host.open_system(str(path))
    except OSError as error:
        return None, [Finding("KVM", shown, *_not_open(host, path, error))]
    try:
        system.create_vm().close()
    except OSError as error:
        system.close()
        fix = "see the kernel log (sudo dmesg | grep -i kvm)"
        if error.errno == errno.EBUSY:
            fix = "stop the other hypervisor (VirtualBox, VMware), which holds the processor"
        elif error.errno == errno.ENOMEM:
            fix = "free memory, or raise the container's limit"
        return None, [Finding("KVM", shown, f"opens, but makes no VM: {error}", "problem", fix)]
    return system, [
        Finding("KVM", shown, "opens and makes VMs"),
        Finding("KVM", "API version", str(constants.KVM_API_VERSION)),
    ]


def _not_open(host: Host, path: Path, error: OSError) -> tuple[str, Level, str]:
    if error.errno == errno.ENOENT:
        if backend(host.root):
            fix = "let it into the container: docker run --device /dev/kvm ..."
            return "missing, though a backend is loaded", "problem", fix
        return "missing", "problem", "load a backend first (see above)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"permission denied{_owner(path)}",
            "problem",
            ("sudo usermod -aG kvm $USER, then log in again; or for everyone (CI): " + _UDEV_RULE),
        )
    if error.errno in (errno.ENODEV, errno.ENXIO):
        fix = "load a backend (see above), or switch virtualization on in the firmware"
        return "there, but no backend answers", "problem", fix
    if error.errno == errno.EBUSY:
        fix = "stop the other hypervisor (VirtualBox, VMware), which holds the processor"
        return "busy", "problem", fix
    return str(error), "problem", "see the kernel log (sudo dmesg | grep -i kvm)"


def _owner(path: Path) -> str:
    """Say who may open a file: " (root:kvm, crw-rw----)"."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f" ({user}:{group}, {stat.filemode(status.st_mode)})"


def _examine(system: kvm_bindings.System) -> Iterator[Finding]:
    """What the open device offers."""
    missing = []
    for capability in CAPABILITIES:
        number = constants.CAPABILITIES[f"KVM_CAP_{capability.name}"]
        if not system.check_extension(number):
            missing.append(capability)
    present = len(CAPABILITIES) - len(missing)
    topic = "KVM"
    yield Finding(topic, "capabilities", f"{present} of the {len(CAPABILITIES)} that are used")
    for capability in missing:
        name = f"KVM_CAP_{capability.name}"
        level: Level = "problem" if capability.required else "note"
        fix = "a newer kernel on the host" if capability.required else ""
        yield Finding(topic, name, f"missing, lost: {capability.lost}", level, fix)
    try:
        features = feature_names(supported_cpuid(system))
    except OSError as error:
        yield Finding(topic, "CPU features", str(error), "problem", "a newer kernel on the host")
    else:
        long = "" if "lm" in features else "; no long mode"
        yield Finding(topic, "CPU features", f"{len(features)} can be shown to a guest{long}")
    recommended = system.check_extension(constants.KVM_CAP_NR_VCPUS)
    most = system.check_extension(constants.KVM_CAP_MAX_VCPUS) or recommended
    yield Finding(topic, "vCPUs of a VM", f"{most}, recommended at most {recommended}")
    slots = system.check_extension(constants.KVM_CAP_NR_MEMSLOTS)
    yield Finding(topic, "memory slots", str(slots or 32))


def _speed(speed: Speed) -> Iterator[Finding]:
    topic = "speed"
    if speed.ring0 is not None:
        slow = speed.ring0 < _SLOW_RING_0
        yield Finding(
            topic,
            "ring 0",
            f"{_rate(speed.ring0)} instructions/s"
            + (": emulated; too slow for whole operating systems" if slow else ""),
            "note" if slow else "ok",
            "run operating systems on kvm_amd or kvm_intel, or in the lab" if slow else "",
        )
    if speed.ring3 is not None:
        yield Finding(topic, "ring 3", f"{_rate(speed.ring3)} instructions/s")
    if speed.exits is not None:
        yield Finding(topic, "exits", f"{_rate(speed.exits)} port writes/s handled in Python")
    for error in speed.errors:
        fix = "run `vmm run` with --debug on a tiny guest to see more"
        yield Finding(topic, "probe", error, "problem", fix)


def _rate(value: int) -> str:
    """Roughly: "3.1 billion", "45 million", "71,000"."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if value >= size:
            return f"{value / size:.{0 if value >= 10 * size else 1}f} {name}"
    return f"{int(float(f'{value:.2g}')):,}"


def _limits(host: Host) -> Iterator[Finding]:
    topic = "limits"
    files, most = host.limit(resource.RLIMIT_NOFILE)
    few = 0 <= files < _FEW_DESCRIPTORS
    yield Finding(
        topic,
        "open files",
        f"{_limit(files)} (at most {_limit(most)})",
        "problem" if few else "ok",
        f"ulimit -n {_FEW_DESCRIPTORS * 4}" if few else "",
    )
    locked, _ = host.limit(resource.RLIMIT_MEMLOCK)
    value = _limit(locked) if locked < 0 else f"{locked >> 10:,} KiB"
    yield Finding(topic, "locked memory", value)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def _lab(host: Host) -> Iterator[Finding]:
    missing = [tool for tool in _LAB_TOOLS if host.which(tool) is None]
    if not missing:
        yield Finding("lab", "tools", "there: pytest --kvm-lab emulates an AMD-V host")
        return
    packages = " ".join(_LAB_TOOLS[tool] for tool in missing)
    yield Finding(
        "lab", "tools", f"missing: {', '.join(missing)}", "note",
        f"sudo apt-get install {packages}",
    )  # fmt: skip
