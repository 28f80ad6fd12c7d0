"""Debian's kernel, unmodified, by every way into it, to its init and to its end."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmm.cpu_features import FEATURES
from vmm.cpu_templates import find_template

Linux = Callable[..., Any]

GREETING = 'echo "init runs on $(uname -m) with $(nproc) CPUs"\n'
POWER_OFF = "poweroff -f\n"

# What a kernel says of a machine that it finds wrong.
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|unchecked MSR|unexpected|Firmware Bug|not responding"

# What Linux lists by itself: PREFETCHW comes with AMD's long mode, and mitigations have one name
# each, whichever of two bits tells of them.
DERIVED = {"3dnowprefetch", "ibpb", "ibrs", "stibp", "ssbd", "constant_tsc", "lfence_rdtsc"}

FACTS = f"""\
{GREETING}
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
echo cpuinfo; grep -E "^(processor|apicid|flags)" /proc/cpuinfo; echo end of cpuinfo
echo interrupts; cat /proc/interrupts; echo end of interrupts
echo clock; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; echo end of clock
echo memory; grep MemTotal /proc/meminfo; echo end of memory
echo kernel; dmesg | grep -iE "crng init|Hypervisor detected|Booting paravirt"; echo end of kernel
"""


def test_a_kernel_as_it_is_installed(linux: Linux, architecture: str) -> None:
    """By its 64-bit entry: what it found is what the machine has, and nothing was amiss."""
    guest = linux(FACTS + POWER_OFF)
    assert guest.machine.plan.format == "linux"
    assert guest.machine.plan.start.mode == "long"
    assert f"init runs on {architecture} with 1 CPUs" in guest.text
    assert guest.between("complaints", "end of complaints") == []
    cpuinfo = "\n".join(guest.between("cpuinfo", "end of cpuinfo"))
    assert re.findall(r"^processor\s*: (\d+)", cpuinfo, re.MULTILINE) == ["0"]
    assert re.findall(r"^apicid\s*: (\d+)", cpuinfo, re.MULTILINE) == ["0"]
    (flags,) = re.findall(r"^flags\s*: (.*)", cpuinfo, re.MULTILINE)
    assert {"hypervisor", "x2apic", "lm", "apic", "tsc_deadline_timer"} <= set(flags.split())
    interrupts = "\n".join(guest.between("interrupts", "end of interrupts"))
    assert re.search(r"IO-APIC +4-edge +ttyS0", interrupts)
    assert guest.between("clock", "end of clock") == ["kvm-clock"]
    told = "\n".join(guest.between("kernel", "end of kernel"))
    assert "Hypervisor detected: KVM" in told
    assert "Booting paravirtualized kernel on KVM" in told
    assert "random: crng init done" in told
    assert guest.result.reason == "poweroff", guest.result.report()
    assert guest.result.status == 0


def test_two_processors_and_memory_above_4_gib(linux: Linux) -> None:
    guest = linux(FACTS + POWER_OFF, cpus=2, memory="4608M")
    assert "with 2 CPUs" in guest.text
    assert guest.between("complaints", "end of complaints") == []
    cpuinfo = "\n".join(guest.between("cpuinfo", "end of cpuinfo"))
    assert re.findall(r"^apicid\s*: (\d+)", cpuinfo, re.MULTILINE) == ["0", "1"]
    (total,) = guest.between("memory", "end of memory")
    assert 4_400_000 < int(total.split()[1]) <= 4608 << 10
    assert guest.result.reason == "poweroff", guest.result.report()


@pytest.mark.parametrize("cpu", ["steady", "x86-64-v2"])
def test_a_processor_by_a_template(linux: Linux, cpu: str) -> None:
    """Linux finds nothing amiss with it, and lists what the template names."""
    guest = linux(FACTS + POWER_OFF, cpu=cpu)
    assert guest.between("complaints", "end of complaints") == []
    cpuinfo = "\n".join(guest.between("cpuinfo", "end of cpuinfo"))
    flags = set(re.findall(r"^flags\s*: (.*)", cpuinfo, re.MULTILINE)[0].split())
    template = find_template(cpu)
    # KVM's features have other names there, or none.
    assert {n for n in template.demanded if not n.startswith("kvm")} <= flags
    shown = template.demanded | template.allowed | {"hypervisor"}
    assert (flags & FEATURES.keys()) - DERIVED <= shown
    assert guest.result.reason == "poweroff", guest.result.report()


def test_the_32_bit_entry(linux: Linux, architecture: str) -> None:
    guest = linux(GREETING + POWER_OFF, format="linux32")
    assert guest.machine.plan.start.mode == "protected"
    assert f"init runs on {architecture}" in guest.text
    assert guest.result.reason == "poweroff", guest.result.report()


@pytest.mark.parametrize(("format", "mode"), [("auto", "protected"), ("vmlinux", "long")])
def test_an_unpacked_kernel(
    linux: Linux, vmlinux: Path, architecture: str, format: str, mode: str
) -> None:
    """By PVH, which is what an ELF of Linux is recognised as, and by its own entry point."""
    guest = linux(GREETING + POWER_OFF, image=vmlinux, format=format)
    assert guest.machine.plan.format == ("pvh" if format == "auto" else "vmlinux")
    assert guest.machine.plan.start.mode == mode
    assert f"init runs on {architecture}" in guest.text
    assert guest.result.reason == "poweroff", guest.result.report()


def test_reboot_and_what_a_kernel_prints_early(linux: Linux) -> None:
    guest = linux("reboot -f\n", append="earlyprintk=ttyS0 loglevel=5")
    assert guest.result.reason == "reset", guest.result.report()
    assert guest.result.status == 0


def test_a_kernel_that_panics_ends_the_run(linux: Linux) -> None:
    """With panic=-1 it resets the machine at once; what it says is on the console."""
    guest = linux("exit 3\n")
    assert "Kernel panic - not syncing: Attempted to kill init!" in guest.text
    assert guest.result.reason == "reset", guest.result.report()


def test_what_the_machine_says_it_is(linux: Linux) -> None:
    """As inventories read it, and cloud-init (NoCloud finds its seed by the serial number)."""
    names = "product_serial product_uuid product_family chassis_asset_tag bios_vendor sys_vendor"
    uuid = "12345678-9abc-def0-1122-334455667788"
    guest = linux(
        f"cd /sys/class/dmi/id; echo dmi; cat {names}; echo end of dmi\n{POWER_OFF}",
        smbios=[f"serial=ds=nocloud,,h=web,uuid={uuid},family=F", "type=3,asset=SHELF 3"],
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    found = guest.between("dmi", "end of dmi")
    assert found == ["ds=nocloud,h=web", uuid, "F", "SHELF 3", "glassvm", "glassvm"]


def test_the_example(kernel: Path) -> None:
    """As its users run it, with every feature of this host's processor."""
    script = Path(__file__).parents[2] / "examples" / "linux.py"
    done = subprocess.run(
        [sys.executable, str(script), str(kernel)],
        cwd=script.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Linux \d\S+, protocol 2\.\d+, boot_params at 0x", done.stdout)
    assert "hello from Linux" in done.stdout
    assert "the guest ended by poweroff after " in done.stdout
