"""The SMBIOS tables: what a machine says of itself, its serial numbers and its memory.

They are found through the 64-bit entry point, 24 bytes on a multiple of 16 between 0xF0000 and
0xFFFFF; the structures follow 32 bytes behind it. What can be set is named in `FIELDS`, with the
names that QEMU's -smbios has for the same.

Spec: DMTF DSP0134, "System Management BIOS (SMBIOS) Reference Specification" 3.0.
"""

from __future__ import annotations

import struct
import uuid
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

__all__ = ["FIELDS", "Processor", "fw_cfg_files", "smbios_tables"]

FIELDS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        0: ("vendor", "version", "date"),
        1: ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
        3: ("manufacturer", "version", "serial", "asset", "sku"),
        11: ("value",),
    }
)
"""What can be set, by the type of its structure: BIOS, system, chassis, OEM strings."""

_DEFAULTS = {
    (0, "vendor"): "glassvm",
    (0, "version"): "1.0",
    (0, "date"): "01/01/2026",
    (1, "manufacturer"): "glassvm",
    (1, "product"): "glassvm virtual machine",
    (1, "version"): "1.0",
    (3, "manufacturer"): "glassvm",
}

_TABLE_OFFSET = 0x20
_ENTRY_SIZE = 0x18
_FIRST_HANDLE = 0x100

_BIOS, _SYSTEM, _CHASSIS, _PROCESSOR, _OEM_STRINGS = 0, 1, 3, 4, 11
_MEMORY_ARRAY, _MEMORY_DEVICE, _MAPPED_ADDRESS, _BOOT, _END = 16, 17, 19, 32, 127

_OTHER, _UNKNOWN, _SAFE = 1, 2, 3
_NO_HANDLE = 0xFFFF
_NO_ERROR_HANDLE = 0xFFFE

Processor = namedtuple("Processor", "vendor model signature features", defaults=("", "", 0, 0))
"""What CPUID says: vendor, brand string, EAX and EDX of leaf 1."""


def smbios_tables(
    gpa: int,
    *,
    cpus: int,
    ram: Sequence[tuple[int, int]],
    processor: Processor = Processor(),  # noqa: B008
    texts: Mapping[tuple[int, str], str] = MappingProxyType({}),
    oem_strings: Iterable[str] = (),
) -> bytes:
    """Make the entry point and the structures that lie at guest-physical address `gpa`.

    Args:
        gpa: where they will lie.
        cpus: how many processors; they are cores of one.
        ram: (gpa, size in bytes) of each range of memory.
        processor: what it is.
        texts: what was set, by type and name (`FIELDS`).
        oem_strings: strings for those who look for them, such as systemd's credentials.

    Raises:
        ValueError: the address is no multiple of 16, a string is empty or holds a NUL, or the UUID
            is none.
    """
    if gpa % 16:
        raise ValueError(f"SMBIOS entry point at {gpa:#x}: not a multiple of 16")
    structures = _Structures({**_DEFAULTS, **texts})
    structures.bios()
    structures.system()
    structures.chassis()
    structures.processor(processor, cpus)
    structures.oem_strings(tuple(oem_strings))
    structures.memory(ram)
    structures.add(_BOOT, bytes(7))  # no errors were seen
    structures.add(_END, b"")
    table = bytes(structures.data)
    entry = bytearray(
        struct.pack(
            "<5sBBBBBBxIQ",
            *(b"_SM3_", 0, _ENTRY_SIZE, 3, 0, 0, 1),
            *(len(table), gpa + _TABLE_OFFSET),
        )
    )
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry).ljust(_TABLE_OFFSET, b"\0") + table


def fw_cfg_files(tables: bytes) -> dict[str, bytes]:
    """What `smbios_tables` made, as firmware takes it from QEMU's fw_cfg, by the files' names.

    Firmware puts the structures where it has room, and that address and a checksum into the entry
    point. It adds what it has to say itself, such as its own name where no type 0 is among them.

    Spec: QEMU, hw/i386/fw_cfg.c. SeaBIOS 1.16.2 takes this entry point.
    """
    return {
        "etc/smbios/smbios-tables": tables[_TABLE_OFFSET:],
        "etc/smbios/smbios-anchor": tables[:_ENTRY_SIZE],
    }


class _Structures:
    """The structures, one behind the other."""

    def __init__(self, texts: Mapping[tuple[int, str], str]) -> None:
        self.data = bytearray()
        self._handle = _FIRST_HANDLE
        self._texts = texts

    def add(self, type: int, formatted: bytes, strings: Sequence[str] = ()) -> int:
        """Add a structure with its strings; returns its handle."""
        handle = self._handle
        self._handle += 1
        self.data += struct.pack("<BBH", type, 4 + len(formatted), handle) + formatted
        for text in strings:
            if not text or "\0" in text:
                raise ValueError(f"SMBIOS string {text!r}: it is not empty and holds no NUL")
            self.data += text.encode() + b"\0"
        self.data += b"\0" if strings else b"\0\0"
        return handle

    def bios(self) -> None:
        numbers, strings = self._strings(_BIOS, "vendor", "version", "date")
        vendor, version, date = numbers
        not_told, acpi, virtual_machine = 1 << 3, 1 << 0, 1 << 4
        self.add(
            _BIOS,
            struct.pack("<BBHBB", vendor, version, 0xF000, date, 0)
            + struct.pack("<QBBBBBB", not_told, acpi, virtual_machine, 1, 0, 0xFF, 0xFF),
            strings,
        )

    def system(self) -> None:
        numbers, strings = self._strings(
            _SYSTEM, "manufacturer", "product", "version", "serial", "sku", "family"
        )
        text = self._texts.get((_SYSTEM, "uuid"))
        # Of a UUID, three fields are little-endian here; all zeros say that there is none.
        identity = uuid.UUID(text).bytes_le if text else bytes(16)
        power_switch = 6
        body = bytes(numbers[:4]) + identity + bytes([power_switch, *numbers[4:]])
        self.add(_SYSTEM, body, strings)

    def chassis(self) -> None:
        numbers, strings = self._strings(
            _CHASSIS, "manufacturer", "version", "serial", "asset", "sku"
        )
        maker, version, serial, asset, sku = numbers
        body = struct.pack("<5B", maker, _OTHER, version, serial, asset)
        states = struct.pack("<4BI", _SAFE, _SAFE, _SAFE, _UNKNOWN, 0)
        self.add(_CHASSIS, body + states + bytes(4) + bytes([sku]), strings)

    def processor(self, processor: Processor, cpus: int) -> None:
        strings = ["CPU 0"]
        numbers = []
        for text in (processor.vendor.strip(), processor.model.strip()):
            if text:
                strings.append(text)
            numbers.append(len(strings) if text else 0)
        central, enabled, wide, multi_core = 3, 0x41, 1 << 2, 1 << 3
        few = min(cpus, 0xFF)
        body = struct.pack("<BBBB", 1, central, 0xFE, numbers[0])
        body += struct.pack("<IIB", processor.signature, processor.features, numbers[1])
        body += struct.pack("<BHHHBB", 0, 0, 0, 0, enabled, _OTHER)
        body += struct.pack("<HHHBBB", _NO_HANDLE, _NO_HANDLE, _NO_HANDLE, 0, 0, 0)
        body += struct.pack("<BBBH", few, few, few, wide | (multi_core if cpus > 1 else 0))
        body += struct.pack("<HHHH", _OTHER, cpus, cpus, cpus)
        self.add(_PROCESSOR, body, strings)

    def oem_strings(self, strings: Sequence[str]) -> None:
        for at in range(0, len(strings), 0xFF):
            some = strings[at : at + 0xFF]
            self.add(_OEM_STRINGS, bytes([len(some)]), some)

    def memory(self, ram: Sequence[tuple[int, int]]) -> None:
        """One array with one module of it all, and the addresses that the array has."""
        size = sum(range_size for _, range_size in ram)
        board, system_memory, no_correction = 3, 3, 3
        kib, two_tib = size >> 10, 1 << 31
        body = struct.pack("<BBB", board, system_memory, no_correction)
        body += struct.pack("<IHH", min(kib, two_tib), _NO_ERROR_HANDLE, 1)
        array = self.add(_MEMORY_ARRAY, body + struct.pack("<Q", size if kib >= two_tib else 0))
        unknown, dimm, ram_type, other = 0xFFFF, 9, 7, 1 << 1
        short, extended = _module_size(size)
        body = struct.pack("<HHHHH", array, _NO_ERROR_HANDLE, unknown, unknown, short)
        body += struct.pack("<BBBBBHH", dimm, 0, 1, 0, ram_type, other, 0)
        body += struct.pack("<5BIHHHH", 0, 0, 0, 0, 0, extended, 0, 0, 0, 0)
        self.add(_MEMORY_DEVICE, body, ("DIMM 0",))
        for start, range_size in ram:
            end = start + range_size - 1
            wide = end >> 10 >= 0xFFFF_FFFF
            first, last = (0xFFFF_FFFF,) * 2 if wide else (start >> 10, end >> 10)
            self.add(
                _MAPPED_ADDRESS,
                struct.pack("<IIHB", first, last, array, 1)
                + struct.pack("<QQ", *((start, end) if wide else (0, 0))),
            )

    def _strings(self, type: int, *names: str) -> tuple[list[int], list[str]]:
        """The numbers by which a structure has these strings (0: not at all), and the strings."""
        numbers, strings = [], []
        for name in names:
            text = self._texts.get((type, name), "")
            if text:
                strings.append(text)
            numbers.append(len(strings) if text else 0)
        return numbers, strings


def _module_size(size: int) -> tuple[int, int]:
    """The size of a memory module in its short field, and in the extended one, in MiB."""
    in_kib, see_extended = 1 << 15, 0x7FFF
    mib = size >> 20
    if size % (1 << 20) and size >> 10 < in_kib:
        return in_kib | size >> 10, 0
    return (mib, 0) if mib < see_extended else (see_extended, mib)
