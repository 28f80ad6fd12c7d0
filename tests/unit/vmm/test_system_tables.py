"""From a machine to the tables in its memory."""

from __future__ import annotations

import struct

import pytest

from devices import acpi_pm, pvpanic
from kvm_bindings import CpuidEntry
from vmm.errors import ConfigError
from vmm.identity import Identity
from vmm.layout import MemoryLayout
from vmm.system_tables import smbios_files, system_tables

GIB = 1 << 30
LAYOUT = MemoryLayout.for_size(5 * GIB)
CPUID = (
    CpuidEntry(0, 0, 0, 0xD, *struct.unpack("<I", b"Auth"), *struct.unpack("<II", b"cAMDenti")),
    CpuidEntry(1, 0, 0, 0x800F12, 0, 0, 0x178BFBFF),
    CpuidEntry(0x8000_0002, 0, 0, *struct.unpack("<4I", b"A processor of t")),
    CpuidEntry(0x8000_0003, 0, 0, *struct.unpack("<4I", b"he tests".ljust(16, b"\0"))),
)


def memory(writes) -> bytes:
    """The part of the first MiB where the tables are, from 0xE0000."""
    area = bytearray(0x2_0000)
    taken: list[range] = []
    for write in writes:
        at = write.gpa - 0xE_0000
        where = range(at, at + write.size)
        assert 0 <= where.start <= where.stop <= len(area)
        assert not any(w.start < where.stop and where.start < w.stop for w in taken)
        taken.append(where)
        area[where.start : where.stop] = write.data
    return bytes(area)


def find(area: bytes, anchor: bytes, start: int, end: int) -> int:
    """Search as operating systems do, 16 bytes at a time."""
    found = [gpa for gpa in range(start, end, 16) if area[gpa - 0xE_0000 :].startswith(anchor)]
    assert len(found) == 1
    return found[0] - 0xE_0000


def test_everything_is_found_where_it_is_searched():
    area = memory(system_tables(LAYOUT, cpus=2, cpuid=CPUID))
    rsdp = find(area, b"RSD PTR ", 0xE_0000, 0x10_0000)
    smbios = find(area, b"_SM3_", 0xF_0000, 0x10_0000)
    mp = find(area, b"_MP_", 0xF_0000, 0x10_0000)
    assert (rsdp, smbios) == (0, 0x1_0000)
    (config,) = struct.unpack_from("<I", area, mp + 4)
    assert area[config - 0xE_0000 :][:4] == b"PCMP"
    assert b"AuthenticAMD\0A processor of the tests\0" in area
    # EAX and EDX of leaf 1, for both processors of the MP table and in SMBIOS
    assert area.count(struct.pack("<II", 0x800F12, 0x178BFBFF)) == 3


def test_it_fits_the_devices():
    area = memory(system_tables(LAYOUT, cpus=1))
    fadt = area[area.index(b"FACP") :]
    event, control, timer = (struct.unpack_from("<I", fadt, at)[0] for at in (56, 64, 76))
    first = acpi_pm.PORTS.start
    registers = {acpi_pm.REGISTERS[name].offset: name for name in ("PM1_STS", "PM1_EN")}
    registers |= {acpi_pm.REGISTERS[name].offset: name for name in ("PM1_CNT", "PM_TMR")}
    assert [registers[port - first] for port in (event, event + 2, control, timer)] == [
        "PM1_STS",
        "PM1_EN",
        "PM1_CNT",
        "PM_TMR",
    ]
    sleep = area[area.index(b"_S5_") + 4 :]
    assert sleep[:2] == bytes([0x12, 0x06])
    assert sleep[3] == acpi_pm.SOFT_OFF == 0


def test_a_panic_can_be_told():
    area = memory(system_tables(LAYOUT, cpus=1))
    panic = area[area.index(b"QEMU0001\0") :]
    io = struct.pack("<BBHHBB", 0x47, 1, pvpanic.PORT, pvpanic.PORT, 1, 1)
    assert io in panic[:40]


def test_each_machine_has_a_generation_of_its_own():
    first, second = (memory(system_tables(LAYOUT, cpus=1)) for _ in range(2))
    assert first[0xF000:0xF010] != second[0xF000:0xF010]
    assert first[:0xF000] == second[:0xF000]
    assert struct.pack("<BI", 0x0C, 0xE_F000) in first[:0xF000]


def test_virtio_devices_and_names():
    slots = [(0xD000_0000 + n * 0x1000, 0x1000, 16 + n) for n in range(3)]
    identity = Identity({(1, "serial"): "S-17"}, ("mine",))
    area = memory(system_tables(LAYOUT, cpus=1, virtio=slots, identity=identity))
    assert area.count(b"LNRO0005") == 3
    assert struct.pack("<II", 0xD000_2000, 0x1000) in area
    assert b"S-17\0" in area
    assert b"mine\0" in area


def test_firmware_is_told_the_same_as_operating_systems():
    identity = Identity({(1, "serial"): "S-17"}, ("mine",))
    files = smbios_files(LAYOUT, cpus=2, cpuid=CPUID, identity=identity)
    area = memory(system_tables(LAYOUT, cpus=2, cpuid=CPUID, identity=identity))
    assert files["etc/smbios/smbios-tables"] in area
    assert b"S-17\0" in files["etc/smbios/smbios-tables"]
    assert files["etc/smbios/smbios-anchor"].startswith(b"_SM3_")


def test_the_most_processors():
    assert b"_MP_" in memory(system_tables(LAYOUT, cpus=254))
    area = memory(system_tables(LAYOUT, cpus=255))
    assert b"_MP_" not in area
    assert b"RSD PTR " in area
    with pytest.raises(ConfigError, match=r"^the ACPI tables take \d+ bytes.* room for 61440"):
        system_tables(LAYOUT, cpus=1024)


def test_too_many_strings():
    identity = Identity({}, ("x" * 60_000,))
    with pytest.raises(ConfigError, match=r"^the SMBIOS tables take"):
        system_tables(LAYOUT, cpus=1, identity=identity)
