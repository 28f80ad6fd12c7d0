"""Fuzz every loader: no bytes raise anything but our own errors, and every plan is sound.

    python tests/fuzz/fuzz_boot.py -max_total_time=60

Arguments are libFuzzer's. The first bytes of an input choose format, memory and options; the rest
is the image. Without a corpus the fuzzer starts from small images of every format.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris

with atheris.instrument_imports(include=["vmm.loader"]):
    from vmm.loader import load
    from vmm.loader.load import FORMATS

from vmm.errors import BootError, ConfigError
from vmm.layout import MemoryLayout
from vmm.loader.plan import BootOptions, BootPlan, Module

_FORMATS = ["auto", *FORMATS]
_MEMORY_PAGES = (1, 8, 9, 160, 256, 257, 512, 8192)
_ADDRESSES = (None, None, None, 0, 0x7C00, 0x10000, 0x100000, 0x200000)
_OPTION_BYTES = 4


def options_of(data: bytes) -> tuple[BootOptions, str]:
    """Read format and options from the first four bytes of an input."""
    chosen, memory, places, more = data
    layout = MemoryLayout.for_size(_MEMORY_PAGES[memory % 8] * 4096)
    options = BootOptions(
        layout,
        name="fuzz",
        append="a=b" if more & 1 else "",
        modules=(Module("m", b"m" * 4097),) * (more >> 1 & 3),
        load_addr=_ADDRESSES[places & 7],
        entry=_ADDRESSES[places >> 3 & 7],
        cpl=3 if more & 8 else 0,
        initrd=Module("i", b"i" * 5000) if more & 16 else None,
        rng_seed=b"s" * 32,
    )
    return options, _FORMATS[chosen % len(_FORMATS)]


def check(plan: BootPlan, layout: MemoryLayout) -> None:
    """Assert that a plan lies in memory, overlaps nothing, and starts in what it loads."""
    spans = sorted((w.gpa, w.gpa + len(w.data) + w.zeros_after) for w in plan.writes)
    assert all(layout.contains(start, end - start) and start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    if plan.start.mode in ("protected", "long"):
        tables = layout.low_end - 0x8000
        assert all(end <= tables or start >= layout.low_end for start, end in spans)
    if plan.start.mode != "reset":
        assert any(start <= plan.start.entry < end for start, end in spans)


def test_one_input(data: bytes) -> None:
    """Load one input; raise if it breaks a rule."""
    if len(data) < _OPTION_BYTES:
        return
    options, format = options_of(data[:_OPTION_BYTES])
    try:
        plan = load(data[_OPTION_BYTES:], options, format)
    except (BootError, ConfigError) as error:
        message = str(error)
    else:
        check(plan, options.layout)
        return
    assert message
    assert "\n" not in message


def _elf(bits: int) -> bytes:
    """A small ELF with one segment at 1 MiB and one section header."""
    header, entry, section = (52, 32, 40) if bits == 32 else (64, 56, 64)
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    end = header + entry
    tail = (header, entry, 1, section, 1, 0)
    fields = (2, 3 if bits == 32 else 62, 1, 0x100000, header, end + 8, 0, *tail)
    made = ident + struct.pack("<HHI" + ("III" if bits == 32 else "QQQ") + "IHHHHHH", *fields)
    place = (end, 0x100000, 0x100000, 8, 64)
    if bits == 32:
        made += struct.pack("<8I", 1, *place, 7, 4096)
    else:
        made += struct.pack("<IIQQQQQQ", 1, 7, *place, 4096)
    return made + b"\xf4\xeb\xfd" + bytes(5) + bytes(section)


def _multiboot2(*tags: bytes) -> bytes:
    body = b"".join(tags) + struct.pack("<HHI", 0, 0, 8)
    length = 16 + len(body)
    return struct.pack("<IIII", 0xE85250D6, 0, length, -(0xE85250D6 + length) % (1 << 32)) + body


def _linux() -> bytes:
    """A bzImage of one setup sector and a KiB of code."""
    image = bytearray(1024) + b"\xf4" * 1024
    image[0x1F1] = 1
    struct.pack_into("<I", image, 0x1F4, 1024 // 16)
    image[0x1FE:0x208] = b"\x55\xaa\xeb\x6aHdrS\x0f\x02"
    image[0x211] = 1
    struct.pack_into("<IIBBHI", image, 0x22C, 0x7FFF_FFFF, 0x1000, 1, 0, 1, 2047)
    struct.pack_into("<QIII", image, 0x258, 0x10_0000, 0x8000, 0, 0x100)
    struct.pack_into("<4sIII", image, 1024 + 0x100, b"LToP", 16, 16, 9)
    return bytes(image)


def _noted() -> bytes:
    """A small ELF with a segment at 1 MiB, and notes: of Xen (PVH) and of Linux."""
    notes = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
    notes += struct.pack("<III8sI", 6, 4, 0x101, b"Linux\0", 0)
    end = 64 + 2 * 56
    fields = (2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    made = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *fields)
    made += struct.pack("<IIQQQQQQ", 1, 7, end, 0x100000, 0x100000, 8, 64, 4096)
    made += struct.pack("<IIQQQQQQ", 4, 4, end + 8, 0, 0, len(notes), len(notes), 4)
    return made + b"\xf4\xeb\xfd" + bytes(5) + notes


def seeds() -> list[bytes]:
    """One small image of every format."""
    one = struct.pack("<III", 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) % (1 << 32))
    two = _multiboot2(
        struct.pack("<HHI4I", 2, 0, 24, 0x20000, 0x20000, 0, 0x21000),
        struct.pack("<HHII4x", 3, 0, 12, 0x20000),
        struct.pack("<HHI4I", 10, 0, 24, 0, 0xFFFFFFFF, 4096, 1),
        struct.pack("<HHIII", 1, 0, 16, 1, 6),
    )
    images = {
        "bootsector": bytes(510) + b"\x55\xaa",
        "flat16": b"\xf4",
        "elf32": _elf(32),
        "elf64": _elf(64),
        "multiboot": one + struct.pack("<5I", 0x20000, 0x20000, 0, 0x21000, 0x20000),
        "multiboot2": two,
        "linux": _linux(),
        "linux32": _linux(),
        "vmlinux": _noted(),
        "pvh": _noted(),
        "firmware": bytes(4080) + b"\xea".ljust(16, b"\0"),
    }
    return [
        bytes([_FORMATS.index(name), 7, 0, 7 if name.startswith("multiboot") else 0]) + image
        for name, image in images.items()
    ]


_CHECKSUMS = {0x1BADB002: (2, 4), 0xE85250D6: (3, 8)}
"""Magic number: which word of the header is the checksum, and the header's alignment."""


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate as libFuzzer does, or put an address from the edges of memory somewhere.

    Multiboot checksums are mended afterwards in most cases; chance would never hit them.
    """
    chance = random.Random(seed)
    mutated = bytearray(data)
    if chance.random() < 0.5 and len(data) >= _OPTION_BYTES + 16:
        low_end = options_of(data[:_OPTION_BYTES])[0].layout.low_end
        edges = (0, 0x1000, 0x9FC00, 0x100000, low_end - 0x8000, low_end, 1 << 31, len(data))
        value = chance.choice(edges) + chance.choice((-0x1000, -1, 0, 1, 0x1000))
        at = _OPTION_BYTES + 4 * chance.randrange((len(data) - _OPTION_BYTES) // 4)
        struct.pack_into("<I", mutated, at, value % (1 << 32))
    else:
        mutated = bytearray(atheris.Mutate(data, max_size))
    if chance.random() < 0.2:
        return bytes(mutated)
    for magic, (words, align) in _CHECKSUMS.items():
        at = mutated.find(struct.pack("<I", magic), _OPTION_BYTES)
        if at >= 0 and (at - _OPTION_BYTES) % align == 0 and at + 4 * words + 4 <= len(mutated):
            fields = struct.unpack_from(f"<{words}I", mutated, at)
            struct.pack_into("<I", mutated, at + 4 * words, -sum(fields) % (1 << 32))
    return bytes(mutated)


def main() -> None:
    """Run libFuzzer with the arguments of the command line."""
    if any(not argument.startswith("-") for argument in sys.argv[1:]):
        atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
        atheris.Fuzz()
        return
    # libFuzzer ends its process without a word to Python, so a parent keeps the seeds and cleans.
    with tempfile.TemporaryDirectory(prefix="fuzz-boot-") as folder:
        for number, seed in enumerate(seeds()):
            Path(folder, f"seed{number}").write_bytes(seed)
        sys.exit(subprocess.run([sys.executable, *sys.argv, folder], check=False).returncode)


if __name__ == "__main__":
    main()
