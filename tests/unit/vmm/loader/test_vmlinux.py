"""Unpacked kernels: by their own entry point, and by the one of a PVH note."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.loader import load
from vmm.loader.detect import detect
from vmm.loader.plan import BootOptions, BootPlan, Module

MIB = 1 << 20
HIGH = 0xFFFF_FFFF_8000_0000
Bytes = Callable[..., bytes]
Options = Callable[..., BootOptions]
Memory = Callable[[BootPlan, int, int], bytes]
Attempt = Callable[[bytes, BootOptions, str], str]


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(owner), len(content), kind) + padded(owner) + padded(content)


PVH = note(b"Xen\0", 18, struct.pack("<Q", MIB + 0x10))
LINUX = note(b"Linux\0", 0x101, b"\0\0\0\0")
OTHERS = note(b"Xen\0", 6, b"linux\0") + note(b"GNU\0", 3, b"12345")


@pytest.fixture(scope="session")
def kernel(make_elf: Bytes) -> Bytes:
    """An ELF of 4 KiB at 1 MiB, linked high, with notes."""

    def make(notes: bytes = b"", bits: int = 64, **more: int) -> bytes:
        high = HIGH if bits == 64 else 0xC000_0000
        image = bytearray(
            make_elf(
                [(high + MIB, MIB, b"\xf4" * 256, 4096), (0, 0, notes, len(notes))],
                bits=bits,
                entry=more.get("entry", MIB),
            )
        )
        start, size = (64, 56) if bits == 64 else (52, 32)
        struct.pack_into("<I", image, start + size, 4)  # the second segment is of notes
        return bytes(image)

    return make


def test_detection(kernel: Bytes) -> None:
    for bits in (32, 64):
        assert detect(kernel(OTHERS, bits)) == f"elf{bits}"
        assert detect(kernel(OTHERS + LINUX, bits)) == "vmlinux"
        assert detect(kernel(OTHERS + LINUX + PVH, bits)) == "pvh"
        assert detect(kernel(PVH, bits)) == "pvh"
        assert detect(kernel(note(b"Xen\0", 18, b"\0\0\x10\0"), bits)) == "pvh"
        assert detect(kernel(note(b"Xen\0", 18, b"\0\0\x10"), bits)) == f"elf{bits}"
        assert detect(kernel(note(b"XenX", 18, b"\0\0\x10\0"), bits)) == f"elf{bits}"


def test_multiboot_comes_first(make_elf: Bytes, multiboot1: Bytes, kernel: Bytes) -> None:
    assert detect(kernel(PVH + bytes(-len(PVH) % 4) + multiboot1())) == "multiboot"


@pytest.mark.parametrize(("bits", "mode", "most"), [(64, "long", 31), (32, "protected", 27.8)])
def test_vmlinux(
    kernel: Bytes, options: Options, memory_of: Memory, bits: int, mode: str, most: float
) -> None:
    initrd = Module("i", b"cpio" * 1000)
    made = options(64 * MIB, append="quiet", initrd=initrd, rng_seed=b"s" * 16, rsdp=0xE0000)
    plan = load(kernel(LINUX, bits), made, "vmlinux")
    assert (plan.format, plan.wants_tables) == ("vmlinux", True)
    assert (plan.start.mode, plan.start.entry) == (mode, MIB)
    assert plan.start.protocol == "linux"
    data = memory_of(plan, plan.start.registers["rsi"], 4096)
    assert data[0x1FE:0x200] == b"\x55\xaa"
    assert data[0x202:0x208] == b"HdrS\x0f\x02"
    assert data[0x210:0x212] == b"\xff\x01"
    at, size = struct.unpack_from("<II", data, 0x218)
    assert memory_of(plan, at, size) == initrd.data
    (line,) = struct.unpack_from("<I", data, 0x228)
    assert memory_of(plan, line, 6) == b"quiet\0"
    (setup,) = struct.unpack_from("<Q", data, 0x250)
    assert memory_of(plan, setup, 32) == struct.pack("<QII", 0, 9, 16) + b"s" * 16
    assert struct.unpack_from("<Q", data, 0x70) == (0xE0000,)
    assert data[0x1E8] == 4
    big = load(kernel(LINUX, bits), options(8 << 30, initrd=initrd), "vmlinux")
    (at,) = struct.unpack_from("<I", memory_of(big, big.start.registers["rsi"], 4096), 0x218)
    assert at + 4096 == {64: 0x8000_0000, 32: 0x3800_0000}[bits]


def test_pvh(kernel: Bytes, options: Options, memory_of: Memory) -> None:
    initrd = Module("i", b"cpio" * 1000)
    made = options(64 * MIB, append="quiet", initrd=initrd, rsdp=0xE0000, rng_seed=b"s")
    plan = load(kernel(OTHERS + LINUX + PVH), made)
    assert (plan.format, plan.wants_tables) == ("pvh", True)
    assert (plan.start.mode, plan.start.entry) == ("protected", MIB + 0x10)
    assert plan.start.protocol == "pvh"
    info = memory_of(plan, plan.start.registers["rbx"], 56)
    magic, version, _, count, modules, line, rsdp, ranges, entries, _ = struct.unpack(
        "<IIIIQQQQII", info
    )
    assert (magic, version, count, rsdp, entries) == (0x336EC578, 1, 1, 0xE0000, 4)
    assert memory_of(plan, line, 6) == b"quiet\0"
    at, size, _, _ = struct.unpack("<QQQQ", memory_of(plan, modules, 32))
    assert memory_of(plan, at, size) == initrd.data
    first = struct.unpack("<QQII", memory_of(plan, ranges, 24))
    assert first == (0, 0x9FC00, 1, 0)


def test_pvh_of_another_kernel(kernel: Bytes, options: Options, memory_of: Memory) -> None:
    """It gets the user's command line and nothing else."""
    plan = load(kernel(PVH), options(4 * MIB))
    assert plan.wants_tables
    count, modules, line = struct.unpack(
        "<IQQ", memory_of(plan, plan.start.registers["rbx"] + 12, 20)
    )
    assert (count, modules) == (0, 0)
    assert memory_of(plan, line, 1) == b"\0"
    linux = load(kernel(LINUX + PVH), options(4 * MIB))
    (line,) = struct.unpack("<Q", memory_of(linux, linux.start.registers["rbx"] + 24, 8))
    assert memory_of(linux, line, 14) == b"console=ttyS0\0"


def test_refused(kernel: Bytes, options: Options) -> None:
    with pytest.raises(BootError, match="k: an ELF without a PVH entry point"):
        load(kernel(OTHERS), options(), "pvh")
    with pytest.raises(BootError, match="k: entry point 0x200000 is in none of the image's"):
        load(kernel(note(b"Xen\0", 18, b"\0\0\x20\0")), options())
    with pytest.raises(BootError, match="k: entry point 0x200000 is in none of the image's"):
        load(kernel(LINUX, entry=2 * MIB), options())
    with pytest.raises(BootError, match=r"k: the command line has 2048 characters, .* takes 2047"):
        load(kernel(LINUX), options(append="x" * 2048))


@given(st.binary(max_size=200), st.integers(0, 60), st.sampled_from([32, 64]))
def test_any_notes(
    kernel: Bytes, options: Options, attempt: Attempt, junk: bytes, cut: int, bits: int
) -> None:
    for notes in (junk, (OTHERS + PVH + junk)[cut:], PVH[:cut] + junk):
        for format in ("auto", "vmlinux", "pvh"):
            attempt(kernel(notes, bits), options(), format)


def test_notes_are_bounded(kernel: Bytes) -> None:
    many = note(b"", 0, b"") * 300
    assert detect(kernel(many + PVH)) == "elf64"
    assert [detect(kernel(many[: 12 * n] + PVH)) for n in (255, 256)] == ["pvh", "elf64"]
