"""Where a PC has its devices. A machine maps a device by these before the device is made."""

from __future__ import annotations

__all__ = [
    "ACPI_PM_PORTS",
    "CMOS_PORTS",
    "COM1_PORTS",
    "FW_CFG_PORTS",
    "I8042_BASE",
    "I8042_PORTS",
    "PCI_PORTS",
    "PVPANIC_PORT",
    "VGA_BASE",
    "VGA_PORTS",
]

ACPI_PM_PORTS = range(0x600, 0x60C)
CMOS_PORTS = range(0x70, 0x72)
COM1_PORTS = range(0x3F8, 0x400)
FW_CFG_PORTS = range(0x510, 0x51C)
PCI_PORTS = range(0xCF8, 0xD00)
PVPANIC_PORT = 0x505

I8042_BASE = 0x60
"""Where the keyboard controller's offset 0 is."""

I8042_PORTS = (I8042_BASE, I8042_BASE + 4)
"""The two ports that the controller answers at, offsets 0 (data) and 4 (status and commands).
What lies between them belongs to others: 0x61 to the timer and the speaker."""

VGA_BASE = 0x3B0
"""Where the display adapter's offset 0 is."""

VGA_PORTS = (
    range(0x3B4, 0x3B6),
    range(0x3BA, 0x3BB),
    range(0x3C0, 0x3D0),
    range(0x3D4, 0x3D6),
    range(0x3DA, 0x3DB),
)
"""The ports that the adapter answers at. Between them are a printer port and others' holes."""
