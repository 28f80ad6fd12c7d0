r"""The DSDT: the devices of the machine that cannot be discovered, in AML.

They are those of a PC (COM1, keyboard and mouse, clock), one device for each processor, the
virtio devices, and what belongs to the board itself, so that nobody else takes it. The power
button has no device: it is one of the fixed hardware, as the FADT says. So has soft-off only a
name, `\_S5`. The generic event device tells of a change of the generation ID, after which an
operating system makes new random numbers: it runs twice, or a second time.

Spec: ACPI 6.5, "Differentiated System Description Table (DSDT)", "ACPI-Defined Devices and
Device-Specific Objects", "Interrupt-based Generic Event Device"; Microsoft, "Virtual Machine
Generation ID"; virtio 1.2, "MMIO Device Discovery"; the Linux kernel's virtio_mmio driver for
the identity LNRO0005.
"""

from __future__ import annotations

from firmware.acpi.aml import (
    argument,
    device,
    eisa_id,
    equal,
    method,
    name,
    notify,
    package,
    scope,
    when,
)
from firmware.acpi.board import Board
from firmware.acpi.resources import interrupt, io, irq, memory32, template
from firmware.acpi.table import table

__all__ = ["SOFT_OFF", "dsdt"]

SOFT_OFF = 0
"""SLP_TYP of S5: what the operating system writes to PM1_CNT, beside SLP_EN, to power off."""

_STATUS_CHANGE = 0x80
"""The notification whose meaning is the device's own."""

_IOAPIC = (0xFEC0_0000, 0x1000)
_LAPIC = (0xFEE0_0000, 0x10_0000)
_MOST_CPUS = 0x1000
"""Processors have three hexadecimal digits in their names."""
_MOST_VIRTIO = 0x100


def dsdt(board: Board) -> bytes:
    """Describe a board.

    Raises:
        ValueError: it has more processors or virtio devices than there are names, or an address
            or an interrupt that cannot be.
    """
    if not 1 <= board.cpus <= _MOST_CPUS:
        raise ValueError(f"{board.cpus} processors: 1 to {_MOST_CPUS}")
    if len(board.virtio) > _MOST_VIRTIO:
        raise ValueError(f"{len(board.virtio)} virtio devices: {_MOST_VIRTIO} at most")
    devices = [
        *(_processor(index) for index in range(board.cpus)),
        _motherboard(board),
        _com1(),
        _clock(),
        *_keyboard_and_mouse(),
        *(_virtio(number, slot) for number, slot in enumerate(board.virtio)),
    ]
    if board.generation_gpa is not None:
        devices += [_generation(board.generation_gpa), _events(board.ged_gsi)]
    if board.pvpanic_port is not None:
        devices.append(_pvpanic(board.pvpanic_port))
    # PM1b has a value of its own, and does not exist here; two more are reserved.
    sleep = name("_S5", package(SOFT_OFF, 0, 0, 0))
    # From revision 2 on, AML computes with 64 bits.
    return table("DSDT", 2, sleep + scope("\\_SB", *devices))


def _processor(index: int) -> bytes:
    return device(f"C{index:03X}", name("_HID", "ACPI0007"), name("_UID", index))


def _motherboard(board: Board) -> bytes:
    """What the board itself occupies: ports of its chips, the interrupt controllers."""
    ports = (
        (0x20, 2),
        (0x40, 4),
        (0x61, 1),
        (0x80, 1),
        (0x92, 1),
        (0xA0, 2),
        (board.pm_base, 12),
        (board.reset_port, 1),
    )
    return device(
        "MBRD",
        name("_HID", eisa_id("PNP0C02")),
        name("_UID", 0),
        name(
            "_CRS",
            template(*(io(*some) for some in ports), memory32(*_IOAPIC), memory32(*_LAPIC)),
        ),
    )


def _com1() -> bytes:
    return device(
        "COM1",
        name("_HID", eisa_id("PNP0501")),
        name("_UID", 1),
        name("_CRS", template(io(0x3F8, 8), irq(4))),
    )


def _clock() -> bytes:
    return device(
        "RTC", name("_HID", eisa_id("PNP0B00")), name("_CRS", template(io(0x70, 2), irq(8)))
    )


def _keyboard_and_mouse() -> tuple[bytes, bytes]:
    """The controller's ports belong to the keyboard, and the mouse has its interrupt only."""
    keyboard = device(
        "KBD",
        name("_HID", eisa_id("PNP0303")),
        name("_CRS", template(io(0x60, 1), io(0x64, 1), irq(1))),
    )
    mouse = device("MOU", name("_HID", eisa_id("PNP0F13")), name("_CRS", template(irq(12))))
    return keyboard, mouse


def _virtio(number: int, slot: tuple[int, int, int]) -> bytes:
    gpa, size, gsi = slot
    return device(
        f"VR{number:02X}",
        name("_HID", "LNRO0005"),
        name("_UID", number),
        name("_CCA", 1),  # its accesses to memory are coherent with the caches
        name("_CRS", template(memory32(gpa, size), interrupt(gsi))),
    )


def _generation(gpa: int) -> bytes:
    return device(
        "VMGN",
        name("_HID", "GLVM0001"),  # iasl takes no other form
        name("_CID", package("VM_Gen_Counter", "VMGENCTR")),  # Windows' and Linux's
        name("_DDN", "VM_Gen_Counter"),
        name("_UID", 0),
        name("ADDR", package(gpa & 0xFFFF_FFFF, gpa >> 32)),
    )


def _events(gsi: int) -> bytes:
    changed = when(equal(argument(0), gsi), notify("\\_SB.VMGN", _STATUS_CHANGE))
    return device(
        "GED",
        name("_HID", "ACPI0013"),
        name("_UID", 0),
        name("_CRS", template(interrupt(gsi))),
        method("_EVT", 1, changed, serialized=True),
    )


def _pvpanic(port: int) -> bytes:
    return device(
        "PVPC",
        name("_HID", "QEMU0001"),
        name("_CRS", template(io(port, 1))),
        name("_STA", 0xF),
    )
