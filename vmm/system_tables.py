"""The tables that firmware would leave for an operating system: ACPI, the MP tables, SMBIOS.

This reads the machine; what it finds becomes bytes in `firmware`. Where the tables lie is in
`vmm.layout`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from devices.acpi_pm import SOFT_OFF
from devices.pc_ports import ACPI_PM_PORTS, PVPANIC_PORT
from firmware.acpi import Board, VirtioSlot, acpi_tables
from firmware.acpi.dsdt import SOFT_OFF as NAMED_SOFT_OFF
from firmware.mp_table import MOST_PROCESSORS, mp_tables
from firmware.smbios import Processor, fw_cfg_files, smbios_tables
from kvm_bindings import CpuidEntry
from vmm.cpuid import vendor_and_model
from vmm.errors import ConfigError
from vmm.identity import Identity
from vmm.layout import (
    ACPI_END,
    GENERATION_GPA,
    MP_TABLE_GPA,
    RSDP_GPA,
    SMBIOS_END,
    SMBIOS_GPA,
    MemoryLayout,
)
from vmm.loader.plan import Write

__all__ = ["GED_GSI", "SCI", "smbios_files", "system_tables"]

SCI = 9
"""The interrupt line of the ACPI hardware (`vmm.board`)."""
GED_GSI = 15
"""The interrupt line that tells of a new generation ID."""

_RESET_PORT, _RESET = 0xCF9, 0x06
"""PIIX3's reset control register, and what makes it reset the processor hard."""

assert NAMED_SOFT_OFF == SOFT_OFF  # the DSDT names the sleep type that the device takes


def system_tables(
    layout: MemoryLayout,
    *,
    cpus: int,
    cpuid: Sequence[CpuidEntry] = (),
    virtio: Iterable[tuple[int, int, int]] = (),
    identity: Identity = Identity({}),  # noqa: B008
) -> tuple[Write, ...]:
    """Make the tables of a machine with a PC's devices and interrupt controllers.

    Args:
        layout: where RAM lies.
        cpus: how many vCPUs.
        cpuid: what the first one shows.
        virtio: (gpa, size, gsi) of each virtio device, in their order.
        identity: what the machine says it is.

    Raises:
        ConfigError: the tables find no room.
    """
    leaves = {(entry.function, entry.index): entry for entry in cpuid}
    ram = tuple((ram.start, ram.size) for ram in layout.ranges)
    board = Board(
        cpus=cpus,
        ram=ram,
        pm_base=ACPI_PM_PORTS.start,
        sci=SCI,
        reset_port=_RESET_PORT,
        reset_value=_RESET,
        virtio=tuple(VirtioSlot(*slot) for slot in virtio),
        generation_gpa=GENERATION_GPA,
        ged_gsi=GED_GSI,
        pvpanic_port=PVPANIC_PORT,
    )
    processor = _processor(leaves)
    acpi = acpi_tables(board, RSDP_GPA)
    smbios = _smbios(SMBIOS_GPA, ram, cpus, processor, identity)
    _check_room("ACPI tables", RSDP_GPA, acpi, ACPI_END)
    _check_room("SMBIOS tables", SMBIOS_GPA, smbios, SMBIOS_END)
    writes = [
        Write(RSDP_GPA, acpi, "the ACPI tables"),
        Write(GENERATION_GPA, os.urandom(16), "the generation ID"),
        Write(SMBIOS_GPA, smbios, "the SMBIOS tables"),
    ]
    if cpus <= MOST_PROCESSORS:
        mp = mp_tables(
            MP_TABLE_GPA,
            cpus=cpus,
            sci=SCI,
            signature=processor.signature,
            features=processor.features,
        )
        writes.append(Write(MP_TABLE_GPA, mp, "the MP tables"))
    return tuple(writes)


def smbios_files(
    layout: MemoryLayout, *, cpus: int, cpuid: Sequence[CpuidEntry], identity: Identity
) -> dict[str, bytes]:
    """The SMBIOS tables of a machine as files of fw_cfg, for a guest that is firmware itself."""
    processor = _processor({(entry.function, entry.index): entry for entry in cpuid})
    ram = tuple((ram.start, ram.size) for ram in layout.ranges)
    return fw_cfg_files(_smbios(0, ram, cpus, processor, identity))


def _smbios(
    gpa: int,
    ram: Sequence[tuple[int, int]],
    cpus: int,
    processor: Processor,
    identity: Identity,
) -> bytes:
    return smbios_tables(
        gpa,
        cpus=cpus,
        ram=ram,
        processor=processor,
        texts=identity.texts,
        oem_strings=identity.oem_strings,
    )


def _processor(leaves: dict[tuple[int, int], CpuidEntry]) -> Processor:
    """What CPUID says of the processor; nothing of what is not there."""
    one = leaves.get((1, 0), CpuidEntry(1))
    return Processor(*vendor_and_model(leaves.values()), one.eax, one.edx)


def _check_room(what: str, start: int, data: bytes, end: int) -> None:
    if start + len(data) > end:
        raise ConfigError(
            f"the {what} take {len(data)} bytes, and there is room for {end - start}: fewer "
            "vCPUs, virtio devices or SMBIOS strings, please"
        )
