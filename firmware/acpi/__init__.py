"""The ACPI tables of a machine, from what it is to bytes.

`acpi_tables` makes the block of all of them; `aml` and `resources` encode the language in which
`dsdt` describes devices, and `tables` has the others.
"""

from __future__ import annotations

from firmware.acpi.block import acpi_tables
from firmware.acpi.board import Board, VirtioSlot

__all__ = ["Board", "VirtioSlot", "acpi_tables"]
