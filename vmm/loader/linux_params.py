"""What a Linux kernel that starts with `struct boot_params` is handed, and where it lies.

    0x10000...   the command line, setup data, boot_params
    ...          the kernel
    ...          the initial file system: as high as the kernel allows, below the start tables

Spec: Linux, The Linux/x86 Boot Protocol (32-bit Boot Protocol; 64-bit Boot Protocol).
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.records import Record
from firmware.linux_boot import BOOT_PARAMS_SIZE, SetupData, boot_params, setup_data
from vmm.errors import BootError
from vmm.layout import PAGE_SIZE
from vmm.loader.e820 import e820
from vmm.loader.placement import Placement, c_string
from vmm.loader.plan import BootOptions

__all__ = ["COMMAND_LINE_SIZE", "Takes", "command_line", "place_initrd", "place_params"]

COMMAND_LINE_SIZE = 2047
"""Characters of a command line that x86 kernels take which do not say it."""

_DEFAULT_COMMAND_LINE = "console=ttyS0"
_LOW_FLOOR, _LOW_CEILING = 0x10000, 0xA0000
_ONE_MIB = 0x10_0000
_OTHER_LOADER = 0xFF
_NORMAL_VIDEO = 0xFFFF


class Takes(Record):
    """What a kernel takes of a loader."""

    command_line_size: int
    """Characters, without the NUL."""
    initrd_addr_max: int
    """The highest address that a byte of the initial file system may have."""
    rng_seed: bool
    """It takes random bytes in the setup data."""


def command_line(options: BootOptions, most: int) -> bytes:
    """Return the command line as the kernel reads it: the user's, or one that has the kernel use
    the console that there is.

    Raises:
        BootError: it is longer than `most` characters, or cannot be written.
    """
    line = c_string(options.append or _DEFAULT_COMMAND_LINE, "the command line", options.name)
    if len(line) - 1 > most:
        raise BootError(
            f"{options.name}: the command line has {len(line) - 1} characters, and this kernel "
            f"takes {most}"
        )
    return line


def place_initrd(options: BootOptions, placement: Placement, addr_max: int) -> tuple[int, int]:
    """Plan the initial file system, as high as may be; return its address and size, (0, 0) where
    there is none.

    Raises:
        BootError: it finds no room up to `addr_max`.
    """
    if options.initrd is None:
        return 0, 0
    data = options.initrd.data
    what = f"initrd {options.initrd.name}"
    if not len(data):
        raise BootError(f"{options.name}: {what} is empty")
    ceiling = min(addr_max + 1, placement.start_tables)
    gpa = placement.find(len(data), align=PAGE_SIZE, floor=_ONE_MIB, ceiling=ceiling, highest=True)
    if gpa is None:
        raise BootError(
            f"{options.name}: no room for {what} of {len(data)} bytes below {ceiling:#x}, beside "
            "the kernel; give the machine more with --memory"
        )
    placement.put(gpa, data, what)
    return gpa, len(data)


def place_params(
    options: BootOptions,
    placement: Placement,
    takes: Takes,
    header: bytes,
    values: Mapping[str, int],
) -> int:
    """Plan all that the kernel is handed; return the address of `boot_params`.

    Args:
        options: what the user asked for.
        placement: has the kernel already.
        takes: what the kernel takes.
        header: the kernel's setup header, or nothing.
        values: fields of `boot_params` beside those that are filled in here.

    Raises:
        BootError: something finds no room or is more than the kernel takes.
    """
    line = command_line(options, takes.command_line_size)
    line_at = _low(options, placement, len(line), "the command line")
    placement.put(line_at, line, "the command line")
    initrd, initrd_size = place_initrd(options, placement, takes.initrd_addr_max)
    filled = {
        "vid_mode": _NORMAL_VIDEO,
        "type_of_loader": _OTHER_LOADER,
        "cmd_line_ptr": line_at,
        "ramdisk_image": initrd,
        "ramdisk_size": initrd_size,
        "acpi_rsdp_addr": options.rsdp,
        **values,
    }
    if options.rng_seed and takes.rng_seed:
        seed = setup_data(SetupData.RNG_SEED, options.rng_seed)
        filled["setup_data"] = _low(options, placement, len(seed), "the random seed", align=16)
        placement.put(filled["setup_data"], seed, "the random seed")
    memory_map = ((entry.start, entry.size, entry.type) for entry in e820(options.layout))
    params = _low(options, placement, BOOT_PARAMS_SIZE, "boot_params", align=PAGE_SIZE)
    placement.put(params, boot_params(header, filled, memory_map), "boot_params")
    return params


def _low(
    options: BootOptions, placement: Placement, size: int, what: str, *, align: int = 1
) -> int:
    gpa = placement.find(size, align=align, floor=_LOW_FLOOR, ceiling=_LOW_CEILING)
    if gpa is None:
        raise BootError(
            f"{options.name}: no room for {what} of {size} bytes below {_LOW_CEILING:#x}; give the "
            "machine more with --memory"
        )
    return gpa
