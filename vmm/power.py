"""The power button of a machine: a guest that listens to it shuts itself down.

It belongs to the fixed hardware of ACPI, which a PC here has always; a guest listens once its
driver has enabled the button's event. Nobody can tell what it will do then.

Spec: ACPI 6.5, "ACPI Hardware Specification", "Fixed Power Button".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.acpi_pm import AcpiPm
    from vmm.machine import Machine

__all__ = ["press_power_button"]


def press_power_button(machine: Machine) -> bool:
    """Press the button; returns whether the guest listens to it. If not, nothing is pressed: a
    guest that comes to listen later would take it for one that was pressed then."""
    with machine.lock:
        chip = _chip(machine)
        if chip is None or not chip.listens:
            return False
        chip.press_power_button()
        return True


def _chip(machine: Machine) -> AcpiPm | None:
    """The chip, where the guest has ever touched it."""
    for device in machine.devices.made():
        if device.name == "acpi-pm":
            from devices.acpi_pm import AcpiPm

            return device if isinstance(device, AcpiPm) else None
    return None
