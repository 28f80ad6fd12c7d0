"""The tables, read as a kernel reads them: from the root pointer on, with offsets of their own."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.acpi import Board, VirtioSlot, acpi_tables
from firmware.acpi.dsdt import dsdt

GPA = 0xE_0000
GIB = 1 << 30

IASL = shutil.which("iasl")
needs_iasl = pytest.mark.skipif(IASL is None, reason="no iasl (Debian: acpica-tools)")


def board(cpus: int = 2, virtio: int = 0, **more) -> Board:
    slots = tuple(VirtioSlot(0xD000_0000 + n * 0x1000, 0x1000, 16 + n) for n in range(virtio))
    values = {
        "ram": ((0, 3 * GIB), (4 * GIB, GIB)),
        "pm_base": 0x600,
        "sci": 9,
        "reset_port": 0xCF9,
        "reset_value": 6,
    }
    return Board(cpus=cpus, virtio=slots, **{**values, **more})


FULL = board(3, 8, generation_gpa=0xE_FF00, ged_gsi=15, pvpanic_port=0x505)


class Memory:
    """The block where it lies, and the tables in it by signature."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self.root = self.read(GPA, 36)
        self.tables = {"FACS": self.read(self.u32(self.table(self.xsdt[0]), 36), 64)}
        for gpa in self.xsdt:
            table = self.table(gpa)
            self.tables[table[:4].decode()] = table
        self.tables["DSDT"] = self.table(self.u64(self.tables["FACP"], 140))
        for pointer, name in ((self.u64(self.root, 24), "XSDT"), (self.u32(self.root, 16), "RSDT")):
            self.tables[name] = self.table(pointer)

    @property
    def xsdt(self) -> list[int]:
        table = self.table(self.u64(self.root, 24))
        return [self.u64(table, at) for at in range(36, len(table), 8)]

    def read(self, gpa: int, size: int) -> bytes:
        assert gpa >= GPA
        assert gpa + size <= GPA + len(self._block)
        return self._block[gpa - GPA :][:size]

    def table(self, gpa: int) -> bytes:
        return self.read(gpa, self.u32(self.read(gpa, 36), 4))

    @staticmethod
    def u32(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    @staticmethod
    def u64(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 8], "little")


def entries(table: bytes, first: int) -> list[bytes]:
    """The structures of a MADT or an SRAT, each with its type and its length in front."""
    found = []
    while first < len(table):
        size = table[first + 1]
        assert size >= 2
        found.append(table[first : first + size])
        first += size
    assert first == len(table)
    return found


def test_everything_is_found_from_the_root_pointer():
    memory = Memory(acpi_tables(FULL, GPA))
    assert memory.root[:8] == b"RSD PTR "
    assert memory.root[15] == 2
    assert memory.u32(memory.root, 20) == 36
    assert sum(memory.root[:20]) % 256 == 0
    assert sum(memory.root) % 256 == 0
    assert set(memory.tables) == {"FACP", "APIC", "SRAT", "DSDT", "FACS", "XSDT", "RSDT"}
    for signature, table in memory.tables.items():
        if signature != "FACS":
            assert sum(table) % 256 == 0, signature
    rsdt = memory.tables["RSDT"]
    assert [memory.u32(rsdt, at) for at in range(36, len(rsdt), 4)] == memory.xsdt


def test_the_fixed_hardware():
    memory = Memory(acpi_tables(FULL, GPA))
    fadt = memory.tables["FACP"]
    assert (len(fadt), fadt[8], fadt[131]) == (276, 6, 4)
    assert struct.unpack_from("<H", fadt, 46) == (9,)  # SCI_INT
    assert memory.u32(fadt, 48) == 0  # SMI_CMD: no legacy mode to leave
    assert [memory.u32(fadt, at) for at in (56, 64, 76)] == [0x600, 0x604, 0x608]
    assert [fadt[at] for at in (88, 89, 91)] == [4, 2, 4]
    assert [memory.u32(fadt, at) for at in (60, 68, 72, 80, 84)] == [0] * 5
    assert fadt[108] == 0x32
    assert struct.unpack_from("<H", fadt, 109) == (0b11,)  # legacy devices, 8042, a VGA
    flags = memory.u32(fadt, 112)
    assert flags >> 0 & 1  # WBINVD
    assert not flags >> 4 & 1  # the power button is one of the fixed hardware
    assert flags >> 5 & 1  # the sleep button is not there
    assert not flags >> 8 & 1  # the timer has 24 bits
    assert flags >> 10 & 1  # RESET_REG
    assert not flags >> 20 & 1  # not hardware-reduced
    assert fadt[116:128] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0xCF9)
    assert fadt[128] == 6
    assert memory.u64(fadt, 132) == 0
    assert memory.u32(fadt, 40) == memory.u64(fadt, 140)
    assert fadt[148:160] == struct.pack("<BBBBQ", 1, 32, 0, 2, 0x600)
    assert fadt[172:184] == struct.pack("<BBBBQ", 1, 16, 0, 2, 0x604)
    assert fadt[208:220] == struct.pack("<BBBBQ", 1, 32, 0, 3, 0x608)
    facs_gpa = memory.u32(fadt, 36)
    assert facs_gpa % 64 == 0
    facs = memory.tables["FACS"]
    assert facs[:8] == b"FACS" + struct.pack("<I", 64)
    assert facs[32] == 2


def test_the_interrupt_controllers():
    madt = Memory(acpi_tables(board(2), GPA)).tables["APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE0_0000, 1)
    assert entries(madt, 44) == [
        struct.pack("<BBBBI", 0, 8, 0, 0, 1),
        struct.pack("<BBBBI", 0, 8, 1, 1, 1),
        struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC0_0000, 0),
        struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0),
        struct.pack("<BBBBIH", 2, 10, 0, 9, 9, 0b1101),
        struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1),
    ]


@given(
    cpus=st.integers(1, 600),
    ram=st.integers(0x20_0000 // 4096, 1 << 30).map(lambda pages: pages * 4096),
)
@settings(max_examples=50)
def test_every_processor_and_all_memory_is_told(cpus, ram):
    low = min(ram, 3 * GIB)
    ranges = [(0, low)] + ([(4 * GIB, ram - low)] if ram > low else [])
    memory = Memory(acpi_tables(board(cpus, ram=tuple(ranges)), GPA))
    local = [e for e in entries(memory.tables["APIC"], 44) if e[0] in (0, 9)]
    ids = []
    for entry in local:
        if entry[0] == 0:
            uid, apic, flags = struct.unpack_from("<BBI", entry, 2)
            assert apic < 255
        else:
            apic, flags, uid = struct.unpack_from("<III", entry, 4)
            assert apic >= 255
        assert (uid, flags) == (apic, 1)
        ids.append(apic)
    assert ids == list(range(cpus))
    nmi = [e for e in entries(memory.tables["APIC"], 44) if e[0] in (4, 10)]
    assert len(nmi) == 1 + (cpus > 255)
    srat = entries(memory.tables["SRAT"], 48)
    near = [e[3] if e[0] == 0 else memory.u32(e, 8) for e in srat if e[0] in (0, 2)]
    assert near == ids
    told = [(memory.u64(e, 8), memory.u64(e, 16)) for e in srat if e[0] == 1]
    assert all(memory.u32(e, 28) == 1 for e in srat if e[0] == 1)
    hidden = 0x10_0000 - 0xA_0000
    assert sum(size for _, size in told) == ram - hidden
    assert max(start + size for start, size in told) == ranges[-1][0] + ranges[-1][1]
    for number in range(cpus):
        assert f"C{number:03X}".encode() in memory.tables["DSDT"]


def test_what_cannot_be_described_is_refused():
    with pytest.raises(ValueError, match="multiple of 64"):
        acpi_tables(FULL, GPA + 16)
    with pytest.raises(ValueError, match="processors"):
        dsdt(board(0))
    with pytest.raises(ValueError, match="processors"):
        dsdt(board(0x1001))
    with pytest.raises(ValueError, match="virtio"):
        dsdt(board(1, 257))
    with pytest.raises(ValueError, match="2 GiB"):
        acpi_tables(FULL, 1 << 31)


# -- by the reference implementation ----------------------------------------------------------


def disassemble(folder: Path, name: str, table: bytes) -> str:
    assert IASL is not None
    (folder / f"{name}.dat").write_bytes(table)
    done = subprocess.run(
        [IASL, "-d", f"{name}.dat"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "warning" not in said.lower(), said
    assert "error" not in said.lower(), said
    return (folder / f"{name}.dsl").read_text()


def compile_again(folder: Path, name: str) -> bytes:
    assert IASL is not None
    done = subprocess.run(
        # -oa: the table is what was written, not something shorter that means the same
        [IASL, "-oa", "-p", f"again-{name}", f"{name}.dsl"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 Errors, 0 Warnings, 0 Remarks" in done.stdout, done.stdout
    return (folder / f"again-{name}.aml").read_bytes()


@needs_iasl
@pytest.mark.parametrize("some", [FULL, board(1), board(260, 14)], ids=["full", "bare", "many"])
def test_iasl_reads_every_table_and_makes_the_same_again(tmp_path, some):
    for name, table in Memory(acpi_tables(some, GPA)).tables.items():
        disassemble(tmp_path, name, table)
        if name == "FACS":
            continue  # iasl does not compile it
        again = compile_again(tmp_path, name)
        assert len(again) == len(table)
        # The compiler writes its own name into bytes 28..35, so the checksum differs too.
        assert again[:9] + again[10:28] + again[36:] == table[:9] + table[10:28] + table[36:]


@needs_iasl
def test_iasl_understands_what_is_meant(tmp_path):
    text = " ".join(disassemble(tmp_path, "DSDT", dsdt(FULL)).split())
    for expected in (
        "Name (_S5, Package (0x04) // _S5_: S5 System State { Zero, Zero, Zero, Zero })",
        'Device (C002) { Name (_HID, "ACPI0007" /* Processor Device */)',
        'Name (_HID, EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */)',
        'Name (_HID, EisaId ("PNP0B00") /* AT Real-Time Clock */)',
        'Name (_HID, "LNRO0005")',
        "Memory32Fixed (ReadWrite, 0xD0007000, // Address Base 0x00001000, // Address Length )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000017, }",
        "If ((Arg0 == 0x0F)) { Notify (\\_SB.VMGN, 0x80) // Status Change }",
        'Name (_HID, "QEMU0001")',
    ):
        assert expected in text
