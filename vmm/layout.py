"""Where guest memory lies: the physical address map of a PC.

RAM starts at 0 and is cut by the hole below 4 GiB, in which PCI windows, the IOAPIC, the local
APIC and the firmware ROM live; what does not fit below goes on at 4 GiB.
"""

from __future__ import annotations

from devices.records import Record
from vmm.errors import ConfigError

__all__ = [
    "ACPI_END",
    "FOUR_GIB",
    "GENERATION_GPA",
    "HOLE_START",
    "MP_TABLE_GPA",
    "PAGE_SIZE",
    "RSDP_GPA",
    "SMBIOS_END",
    "SMBIOS_GPA",
    "MemoryLayout",
    "RamRange",
    "parse_size",
]

PAGE_SIZE = 4096
HOLE_START = 0xC000_0000
"""RAM below 4 GiB ends here at the latest (3 GiB), as on QEMU's pc machine."""
FOUR_GIB = 1 << 32

# What firmware leaves for an operating system lies where that searches for it, in the part of the
# first MiB that no memory map calls usable.
RSDP_GPA = 0xE_0000
"""The ACPI root pointer; the other ACPI tables follow it, up to `ACPI_END`."""
ACPI_END = 0xE_F000
GENERATION_GPA = 0xE_F000
"""The generation ID: 16 bytes in a page of their own, random for each machine."""
SMBIOS_GPA = 0xF_0000
"""The SMBIOS entry point; the structures follow it, up to `SMBIOS_END`."""
SMBIOS_END = 0xF_E000
MP_TABLE_GPA = 0xF_E000
"""The floating pointer of the MP tables, which follow it up to 1 MiB."""

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str | int, *, what: str = "size", default_unit: str = "") -> int:
    """Read a size in bytes: 65536, "64K", "2M", "1.5"... is refused, "4 GiB" is fine.

    Units are powers of 1024. `default_unit` ("m") is taken for a bare number in a string.

    Raises:
        ConfigError: it is not a size.
    """
    if isinstance(text, int):
        return text
    number = text.strip().lower()
    number = number.removesuffix("ib" if number.endswith("ib") else "b")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    number = number.removesuffix(unit).rstrip()
    if not number.isdecimal():
        raise ConfigError(f"{what} {text!r}: not a size; write a whole number and K, M, G or T")
    return int(number) * _UNITS[unit or default_unit.lower()]


class RamRange(Record):
    """`size` bytes of RAM from guest-physical address `start`."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.start + self.size


class MemoryLayout(Record):
    """The RAM of a machine of `size` bytes, as ranges in ascending order."""

    size: int
    ranges: tuple[RamRange, ...]

    @classmethod
    def for_size(cls, size: int, *, hole_start: int = HOLE_START) -> MemoryLayout:
        """Lay out `size` bytes of RAM around the hole below 4 GiB.

        Raises:
            ConfigError: the size is zero or not a multiple of 4 KiB.
        """
        if size <= 0:
            raise ConfigError(f"memory of {size} bytes: a machine needs at least 4K")
        if size % PAGE_SIZE:
            raise ConfigError(f"memory of {size} bytes: not a multiple of 4K")
        low = min(size, hole_start)
        ranges = [RamRange(0, low)]
        if size > low:
            ranges.append(RamRange(FOUR_GIB, size - low))
        return cls(size, tuple(ranges))

    @property
    def low_end(self) -> int:
        """The first address behind the RAM that lies below 4 GiB."""
        return self.ranges[0].end

    def contains(self, gpa: int, size: int) -> bool:
        """Say whether `size` bytes from `gpa` are RAM, all of them and in one range."""
        return any(r.start <= gpa and gpa + size <= r.end for r in self.ranges)
