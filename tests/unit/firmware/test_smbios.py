"""SMBIOS, read structure by structure, and by dmidecode."""

from __future__ import annotations

import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.smbios import FIELDS, Processor, fw_cfg_files, smbios_tables

GPA = 0xF_0000
GIB = 1 << 30
TIB = 1 << 40
UUID = "12345678-9abc-def0-1122-334455667788"

DMIDECODE = shutil.which("dmidecode") or shutil.which("dmidecode", path="/usr/sbin:/sbin")
needs_dmidecode = pytest.mark.skipif(DMIDECODE is None, reason="no dmidecode")


def read(block: bytes) -> dict[int, list[tuple[bytes, list[str]]]]:
    """The structures by type: the formatted part, and the strings."""
    assert block[:5] == b"_SM3_"
    assert (block[6], block[7], block[8], block[10]) == (0x18, 3, 0, 1)
    assert sum(block[:0x18]) % 256 == 0
    size, where = struct.unpack_from("<IQ", block, 12)
    table = block[where - GPA :]
    assert len(table) == size
    found: dict[int, list[tuple[bytes, list[str]]]] = {}
    handles, at = set(), 0
    while at < size:
        kind, length, handle = struct.unpack_from("<BBH", table, at)
        assert handle not in handles
        handles.add(handle)
        end = table.index(b"\0\0", at + length)
        strings = table[at + length : end].decode().split("\0") if end > at + length else []
        found.setdefault(kind, []).append((table[at : at + length], strings))
        at = end + 2
    assert at == size
    assert list(found)[-1] == 127
    return found


def tables(**more) -> dict[int, list[tuple[bytes, list[str]]]]:
    values = {"cpus": 1, "ram": ((0, GIB),)}
    return read(smbios_tables(GPA, **{**values, **more}))


def text_of(structure: tuple[bytes, list[str]], offset: int) -> str:
    formatted, strings = structure
    return strings[formatted[offset] - 1] if formatted[offset] else ""


WHERE = {
    (0, "vendor"): 4,
    (0, "version"): 5,
    (0, "date"): 8,
    (1, "manufacturer"): 4,
    (1, "product"): 5,
    (1, "version"): 6,
    (1, "serial"): 7,
    (1, "sku"): 0x19,
    (1, "family"): 0x1A,
    (3, "manufacturer"): 4,
    (3, "version"): 6,
    (3, "serial"): 7,
    (3, "asset"): 8,
    (3, "sku"): 0x15,
}


def test_every_text_that_can_be_set_is_where_it_belongs():
    set_by_user = {key: f"{key[1]} of {key[0]}" for key in WHERE}
    found = tables(texts=set_by_user)
    for (kind, name), offset in WHERE.items():
        assert text_of(found[kind][0], offset) == f"{name} of {kind}"
    known = {(kind, name) for kind, names in FIELDS.items() for name in names}
    assert known - set(WHERE) == {(1, "uuid"), (11, "value")}


def test_what_firmware_takes_from_fw_cfg():
    block = smbios_tables(GPA, cpus=1, ram=((0, GIB),))
    files = fw_cfg_files(block)
    anchor, structures = files["etc/smbios/smbios-anchor"], files["etc/smbios/smbios-tables"]
    assert (len(files), len(anchor)) == (2, 0x18)
    assert struct.unpack_from("<I", anchor, 12) == (len(structures),)
    assert anchor + bytes(8) + structures == block


def test_sizes_of_the_structures():
    sizes = {kind: len(some[0][0]) for kind, some in tables().items()}
    assert sizes == {0: 24, 1: 27, 3: 22, 4: 48, 16: 23, 17: 40, 19: 31, 32: 11, 127: 4}


def test_the_uuid():
    found = tables(texts={(1, "uuid"): UUID})[1][0][0]
    assert uuid.UUID(bytes_le=found[8:24]) == uuid.UUID(UUID)
    assert tables()[1][0][0][8:24] == bytes(16)
    with pytest.raises(ValueError, match="UUID"):
        tables(texts={(1, "uuid"): "none"})


@given(
    size=st.one_of(
        st.integers(1, 1 << 20).map(lambda n: n * 4096),
        st.integers(1, 1 << 16).map(lambda n: n * GIB),
    )
)
def test_memory(size):
    low = min(size, 3 * GIB)
    ram = ((0, low), (4 * GIB, size - low)) if size > low else ((0, low),)
    found = tables(ram=ram)
    array, module = found[16][0][0], found[17][0][0]
    assert array[2:4] == module[4:6]
    kib, extended = struct.unpack_from("<I", array, 7)[0], struct.unpack_from("<Q", array, 15)[0]
    assert (extended or kib << 10) == size
    short, in_mib = struct.unpack_from("<H", module, 12)[0], struct.unpack_from("<I", module, 28)[0]
    assert short not in (0, 0xFFFF)
    if short == 0x7FFF:
        told = in_mib << 20
    elif short & 0x8000:
        told = (short & 0x7FFF) << 10
    else:
        told = short << 20
    assert told == (size if size < 32 << 20 else size >> 20 << 20)
    ranges = []
    for mapped, _ in found[19]:
        start, end = struct.unpack_from("<II", mapped, 4)
        if start == 0xFFFF_FFFF:
            first, last = struct.unpack_from("<QQ", mapped, 15)
        else:
            first, last = start << 10, (end << 10) + 1023
        ranges.append((first, last + 1 - first))
        assert mapped[12:14] == array[2:4]
    assert tuple(ranges) == ram


def test_processors():
    few = tables(cpus=4, processor=Processor("Vendor", " Model X ", 0x800F12, 0x178BFBFF))[4][0]
    assert (text_of(few, 7), text_of(few, 16)) == ("Vendor", "Model X")
    assert struct.unpack_from("<II", few[0], 8) == (0x800F12, 0x178BFBFF)
    assert tuple(few[0][0x23:0x26]) == (4, 4, 4)
    many = tables(cpus=300)[4][0][0]
    assert tuple(many[0x23:0x26]) == (255, 255, 255)
    assert struct.unpack_from("<HHH", many, 0x2A) == (300, 300, 300)


def test_strings_of_the_user():
    (one,) = tables(oem_strings=["a", "b=ä"])[11]
    assert one == (bytes([11, 5]) + one[0][2:4] + b"\x02", ["a", "b=ä"])
    assert 11 not in tables()
    assert [s[0][4] for s in tables(oem_strings=["x"] * 300)[11]] == [255, 45]
    for bad in ("", "a\0b"):
        with pytest.raises(ValueError, match="SMBIOS string"):
            tables(oem_strings=[bad])
    with pytest.raises(ValueError, match="multiple of 16"):
        smbios_tables(GPA + 8, cpus=1, ram=())


@needs_dmidecode
@pytest.mark.parametrize(
    ("ram", "size"),
    [
        (((0, 3 * GIB), (4 * GIB, 3 * GIB // 2)), "4608 MB"),
        (((0, 3 * GIB), (4 * GIB, 509 * GIB)), "512 GB"),
        (((0, 640 << 10),), "640 kB"),
    ],
)
def test_dmidecode_reads_it(tmp_path: Path, ram, size):
    """A dump has the entry point at 0 and the structures at 0x20, as a block made for 0 has."""
    dump = tmp_path / "dump"
    texts = {(1, "uuid"): UUID, (1, "serial"): "S-17", (3, "asset"): "shelf 3"}
    dump.write_bytes(smbios_tables(0, cpus=2, ram=ram, texts=texts, oem_strings=["one", "two"]))
    assert DMIDECODE is not None
    done = subprocess.run(
        [DMIDECODE, "--from-dump", str(dump)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    for expected in (
        "SMBIOS 3.0.0 present.",
        f"UUID: {UUID}",
        "Serial Number: S-17",
        "Asset Tag: shelf 3",
        "System is a virtual machine",
        "Core Count: 2",
        "String 2: two",
        f"Size: {size}",
    ):
        assert expected in lines
    for wrong in ("BROKEN", "OUT OF SPEC", "BAD INDEX", "TRUNCATED", "Invalid", "Wrong"):
        assert wrong.lower() not in done.stdout.lower()
