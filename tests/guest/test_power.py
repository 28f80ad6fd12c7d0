"""Linux and the power button: its driver listens, and a daemon shuts the system down."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import vmm
from devices.acpi_pm import AcpiPm
from vmm.pytest_plugin.console import VmConsole

PATIENCE_S = 150
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|ACPI Error|irq 9: nobody cared"

# busybox's acpid calls this for the key that the driver of the button reports.
PRESSED = f"""\
#!/bin/sh
grep acpi /proc/interrupts
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
poweroff -f
"""
SCRIPT = """\
echo no driver; read line
for module in /modules/*.ko; do insmod $module; done
acpid -d &
while [ -d /proc/$! ]; do
    ls -l /proc/$!/fd | grep -q /dev/input/ && echo a daemon waits && break
    sleep 1
done
wait
echo nobody acts on the button; poweroff -f
"""


def test_linux_powers_off(
    linux: Callable[..., Any], modules: Callable[..., Mapping[str, bytes]]
) -> None:
    listens: list[bool] = []

    def press(machine: vmm.Machine) -> None:
        console = VmConsole(machine)
        console.expect("no driver", PATIENCE_S)
        pm = machine.devices["acpi-pm"]
        assert isinstance(pm, AcpiPm)
        listens.append(pm.listens)
        console.send("\n")
        console.expect("a daemon waits", PATIENCE_S)
        listens.append(machine.press_power_button())

    script = {"etc/acpi/PWRF/00000080": PRESSED.encode()}
    guest = linux(SCRIPT, files={**modules("button", "evdev"), **script}, prepare=press)
    assert listens == [False, True]
    assert guest.result.reason == "poweroff", guest.result.report()
    taken = re.findall(r"9: +(\d+) +IO-APIC +9-fasteoi +acpi", guest.text)
    assert taken == ["1"], "one press is one interrupt"
    assert guest.between("complaints", "end of complaints") == []
