"""Images built byte by byte, and the rules that every plan keeps, declared independently."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from shutil import which

import pytest

from vmm.errors import BootError, ConfigError
from vmm.layout import MemoryLayout
from vmm.loader import load
from vmm.loader.plan import BootOptions, BootPlan

MIB = 1 << 20


@pytest.fixture(scope="session")
def options() -> Callable[..., BootOptions]:
    """Options for an image called "k" on a machine of so many bytes (4 MiB)."""

    def make(memory: int = 4 * MIB, **more: object) -> BootOptions:
        return BootOptions(MemoryLayout.for_size(memory), name="k", **more)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def assert_sound() -> Callable[[BootPlan, MemoryLayout], None]:
    """Assert what holds for every plan: inside of RAM, no overlaps, starts in loaded memory."""

    def check(plan: BootPlan, layout: MemoryLayout) -> None:
        ram = [(r.start, r.start + r.size) for r in layout.ranges]
        spans = sorted((w.gpa, w.gpa + len(w.data) + w.zeros_after) for w in plan.writes)
        for start, end in spans:
            assert start < end
            assert any(low <= start and end <= high for low, high in ram), hex(start)
        for (_, end), (start, _) in pairwise(spans):
            assert end <= start, "writes overlap"
        for rom in plan.roms:
            rom_end = rom.gpa + len(rom.data)
            assert 0 <= rom.gpa < rom_end <= 1 << 32
            assert all(rom_end <= low or high <= rom.gpa for low, high in ram)
        if plan.start.mode in ("protected", "long"):
            tables = ram[0][1] - 32768
            assert all(end <= tables or ram[0][1] <= start for start, end in spans)
        if plan.start.mode != "reset":
            assert any(start <= plan.start.entry < end for start, end in spans)
            assert plan.start.entry < (1 << 20 if plan.start.mode == "real" else 1 << 32)
        assert all(0 <= value < 1 << 64 for value in plan.start.registers.values())

    return check


@pytest.fixture(scope="session")
def attempt(
    assert_sound: Callable[[BootPlan, MemoryLayout], None],
) -> Callable[[bytes, BootOptions, str], str]:
    """Load any bytes: either the plan is sound, or the error is one of ours and one line."""

    def check(image: bytes, options: BootOptions, format: str) -> str:
        try:
            plan = load(image, options, format)
        except (BootError, ConfigError) as error:
            message = str(error)
        else:
            assert_sound(plan, options.layout)
            return ""
        assert message
        assert "\n" not in message
        return message

    return check


@pytest.fixture(scope="session")
def memory_of() -> Callable[[BootPlan, int, int], bytes]:
    """What lies at an address once a plan is carried out (unwritten bytes are zero)."""

    def read(plan: BootPlan, gpa: int, size: int) -> bytes:
        memory = bytearray(size)
        for write in plan.writes:
            for offset, byte in enumerate(bytes(write.data)):
                if gpa <= write.gpa + offset < gpa + size:
                    memory[write.gpa + offset - gpa] = byte
        return bytes(memory)

    return read


@pytest.fixture(scope="session")
def make_elf() -> Callable[..., bytes]:
    """Build an ELF: segments are (vaddr, paddr, bytes, size in memory)."""

    def make(
        segments: list[tuple[int, int, bytes, int]],
        *,
        bits: int = 64,
        entry: int = 0x100000,
        kind: int = 2,
        machine: int | None = None,
        segment_type: int = 1,
        align: int = 0x1000,
    ) -> bytes:
        machine = {32: 3, 64: 62}[bits] if machine is None else machine
        header_size, entry_size = (52, 32) if bits == 32 else (64, 56)
        ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
        words = "IIIIIHHHHHH" if bits == 32 else "IQQQIHHHHHH"
        header = ident + struct.pack(
            "<HH" + words,
            *(kind, machine, 1, entry, header_size, 0, 0, header_size, entry_size),
            *(len(segments), 0, 0, 0),
        )
        table, body = b"", b""
        at = header_size + entry_size * len(segments)
        for vaddr, paddr, data, size in segments:
            offset = at + len(body)
            if bits == 32:
                fields = (segment_type, offset, vaddr, paddr, len(data), size, 7, align)
                table += struct.pack("<8I", *fields)
            else:
                fields = (segment_type, 7, offset, vaddr, paddr, len(data), size, align)
                table += struct.pack("<IIQQQQQQ", *fields)
            body += data
        return header + table + body

    return make


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Assemble and link a program with the system's `as` and `ld`."""
    if which("as") is None or which("ld") is None:
        pytest.skip("needs as and ld (package binutils)")

    def make(source: str, *link: str, bits: int = 64) -> bytes:
        folder: Path = tmp_path_factory.mktemp("build")
        (folder / "a.S").write_text(source)
        emulation = {32: "elf_i386", 64: "elf_x86_64"}[bits]
        subprocess.run(["as", f"--{bits}", "-o", "a.o", "a.S"], cwd=folder, check=True)
        subprocess.run(["ld", "-m", emulation, *link, "-o", "a", "a.o"], cwd=folder, check=True)
        return (folder / "a").read_bytes()

    return make


@pytest.fixture(scope="session")
def multiboot1() -> Callable[..., bytes]:
    """A multiboot 1 header, optionally with five address fields and four video fields."""

    def make(
        flags: int = 0, addresses: tuple[int, ...] | None = None, video: tuple[int, ...] = ()
    ) -> bytes:
        header = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
        if addresses is not None or video:
            header += struct.pack("<5I", *(addresses or (0,) * 5))
        if video:
            header += struct.pack("<4I", *video)
        return header

    return make


@pytest.fixture(scope="session")
def multiboot2() -> Callable[..., bytes]:
    """A multiboot 2 header of tags (type, flags, content), ended by the end tag."""

    def make(*tags: tuple[int, int, bytes], architecture: int = 0, end: bool = True) -> bytes:
        body = b""
        for kind, flags, content in tags:
            body += struct.pack("<HHI", kind, flags, 8 + len(content)) + content
            body += bytes(-len(body) % 8)
        if end:
            body += struct.pack("<HHI", 0, 0, 8)
        length = 16 + len(body)
        checksum = -(0xE85250D6 + architecture + length) & 0xFFFFFFFF
        return struct.pack("<IIII", 0xE85250D6, architecture, length, checksum) + body

    return make


@pytest.fixture(scope="session")
def bzimage() -> Callable[..., bytes]:
    """A bzImage of one setup sector and some code; fields of its header by name or offset."""

    fields = {
        "setup_sects": (0x1F1, "B", 1),
        "syssize": (0x1F4, "I", None),
        "boot_flag": (0x1FE, "H", 0xAA55),
        "jump": (0x200, "H", 0x6AEB),
        "header": (0x202, "I", 0x53726448),
        "version": (0x206, "H", 0x020F),
        "kernel_version": (0x20E, "H", 0),
        "loadflags": (0x211, "B", 1),
        "initrd_addr_max": (0x22C, "I", 0x7FFFFFFF),
        "kernel_alignment": (0x230, "I", 0x200000),
        "relocatable_kernel": (0x234, "B", 1),
        "xloadflags": (0x236, "H", 1),
        "cmdline_size": (0x238, "I", 2047),
        "pref_address": (0x258, "Q", 0x1000000),
        "init_size": (0x260, "I", 0x800000),
        "kernel_info_offset": (0x268, "I", 0),
    }

    def make(code: bytes = b"\xf4" * 0x400, **values: int) -> bytes:
        code = code.ljust(-(-len(code) // 16) * 16, b"\0")
        sectors = values.get("setup_sects", 1) or 4
        image = bytearray((sectors + 1) * 512)
        for name, (offset, width, value) in fields.items():
            value = len(code) // 16 if value is None else value
            struct.pack_into(f"<{width}", image, offset, values.get(name, value))
        return bytes(image) + code

    return make
