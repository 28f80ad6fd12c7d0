"""Linux says by pvpanic that it has panicked: Debian's driver finds the port by ACPI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCRIPT = """\
for module in /modules/*.ko; do insmod $module; done
# In the kernel's own log, or what it says of the panic comes between the letters.
echo "<1>driver of $(ls /sys/bus/platform/drivers/pvpanic-mmio | grep QEMU)" > /dev/kmsg
echo c > /proc/sysrq-trigger
"""


def test_a_panic_ends_the_run_with_its_reason(
    linux: Callable[..., Any], modules: Callable[..., Mapping[str, bytes]]
) -> None:
    """Before the kernel does what it was told to do after a panic: to reset the machine."""
    guest = linux(SCRIPT, files=modules("pvpanic_mmio"), cpus=2)
    assert "driver of QEMU0001:00" in guest.text
    assert guest.result.reason == "panic", guest.result.report()
    assert guest.result.status == 6
    assert guest.result.detail == "sysrq triggered crash"
    assert "Call Trace:" in guest.text
    report = guest.result.report()
    assert "it says 'sysrq triggered crash'" in " ".join(report.split())
    assert "pvpanic EVENT = PANICKED" in report
